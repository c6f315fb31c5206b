import errno
import json

import pytest

from rft.errors import RunError
from rft.runs import files
from rft.runs.files import JsonLines, to_json, write_whole


def test_lines_come_back_in_order(tmp_path):
    lines = JsonLines(tmp_path / "a.jsonl")
    lines.append({"step": 1})
    lines.append({"step": 2, "text": "größer"})
    assert JsonLines(tmp_path / "a.jsonl").read() == [{"step": 1}, {"step": 2, "text": "größer"}]


def test_reading_a_file_that_does_not_exist_yet_gives_nothing(tmp_path):
    assert JsonLines(tmp_path / "none.jsonl").read() == []


def test_a_torn_last_line_is_ignored_and_cut_off_by_the_next_append(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "los')
    assert JsonLines(path).read() == [{"step": 1}]
    JsonLines(path).append({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_file_that_is_one_torn_line_starts_over(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"st')
    JsonLines(path).append({"step": 1})
    assert path.read_bytes() == b'{"step": 1}\n'


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step": 1}\ngarbage\n{"step": 3}\n')
    with pytest.raises(RunError, match="line 2 is not JSON: 'garbage'"):
        JsonLines(path).read()


def test_numbers_json_lacks_become_null_and_array_values_become_numbers():
    import numpy

    record = {"a": float("inf"), "b": numpy.float32(0.5), "c": [numpy.int64(3), numpy.nan], "d": {"e": True}}
    assert json.loads(to_json(record)) == {"a": None, "b": 0.5, "c": [3, None], "d": {"e": True}}


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_whole(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        write_whole(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["status.json"]
    assert path.read_text() == "old"
