"""What the thread that writes checkpoints owes to those who go on meanwhile."""

from __future__ import annotations

import threading

import pytest

from rft.runs.writer import BackgroundWriter


def test_who_waits_for_reading_waits_no_longer():
    may_end = threading.Event()
    writer = BackgroundWriter()

    def job(has_read):
        has_read()
        may_end.wait()

    writer.start(job)
    writer.wait_until_read()
    may_end.set()
    writer.finish()


def test_an_error_is_told_once_by_whoever_comes_next():
    def job(has_read):
        raise OSError("no room")

    writer = BackgroundWriter()
    writer.start(job)
    with pytest.raises(OSError, match="no room"):
        writer.finish()
    writer.wait_until_read()
    writer.finish()
