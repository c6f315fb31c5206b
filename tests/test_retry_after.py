import httpx
import pytest

from rft.retry_after import retry_after_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        ("1.5", 1.5),
        ("Wed, 21 Oct 2015 07:28:30 GMT", 30.0),
        ("Wed, 21 Oct 2015 07:27:00 GMT", 0.0),
        ("9" * 400, 86400.0),
        ("-5", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_it_is_seconds_or_a_date(header, seconds):
    now = 1445412480.0  # Wed, 21 Oct 2015 07:28:00 GMT
    assert retry_after_s(httpx.Headers({"retry-after": header}), now=now) == seconds


def test_a_service_may_say_nothing():
    assert retry_after_s({}) is None
