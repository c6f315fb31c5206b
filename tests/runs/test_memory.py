from rft.runs.memory import peak_rss_gb, rss_gb


def test_memory_that_is_allocated_and_freed_stays_in_the_peak_only():
    before = rss_gb()
    block = bytearray(b"x") * 200_000_000
    during = rss_gb()
    del block
    assert 0.15 < during - before < 0.3
    assert peak_rss_gb() >= during - 0.01
    assert rss_gb() < during - 0.15
