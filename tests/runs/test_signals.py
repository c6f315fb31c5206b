import os
import signal
import threading

import pytest

from rft.runs.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_says_what_happens_next(number):
    said = threading.Event()
    texts = []

    def say(text):
        texts.append(text)
        said.set()

    with StopRequest(say) as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert said.wait(10)
        assert stop.requested
    assert texts == ["finishing the step, then checkpoint; again to stop now"]


def test_the_second_signal_stops_at_once():
    with StopRequest(lambda text: None) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_old_handlers_come_back_even_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), StopRequest(lambda text: None):
        assert signal.getsignal(signal.SIGINT) is not before[0]
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_arrives_while_the_terminal_is_being_written_does_not_block(tmp_path):
    lock = threading.Lock()
    said = threading.Event()

    def say(text):
        with lock:
            said.set()

    with StopRequest(say) as stop:
        with lock:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested
        assert said.wait(10)


def test_outside_the_main_thread_it_installs_nothing():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work():
        with StopRequest(lambda text: None) as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
