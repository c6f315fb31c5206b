import subprocess
import sys
import textwrap

import pytest

from rft.errors import RunError
from rft.runs.quiet import Quiet

NOISE = """
    import ctypes, logging, os, subprocess, sys, warnings
    from rft.runs.quiet import Quiet, reserved_stdout, terminal

    early = logging.StreamHandler(sys.stdout)
    logging.getLogger("early").addHandler(early)

    def noise():
        print("python stdout")
        print("python stderr", file=sys.stderr)
        os.write(1, b"descriptor 1\\n")
        os.write(2, b"descriptor 2\\n")
        ctypes.CDLL(None).puts(b"C buffered")
        warnings.warn("python warning")
        logging.getLogger("early").warning("old handler")
        logging.getLogger("fresh").warning("fresh handler")
        subprocess.run(["echo", "child"])
"""
CHATTER = [
    "python stdout",
    "python stderr",
    "descriptor 1",
    "descriptor 2",
    "C buffered",
    "python warning",
    "old handler",
    "fresh handler",
    "child",
]


def run(tmp_path, code):
    source = textwrap.dedent(NOISE) + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=tmp_path)


def test_every_way_of_writing_goes_to_the_log_and_only_our_handle_reaches_the_terminal(tmp_path):
    done = run(
        tmp_path,
        """
        out = terminal("stdout")
        with Quiet("engine.log"):
            noise()
            print("step 1", file=out)
        print("after")
        """,
    )
    assert (done.stdout, done.stderr) == ("step 1\nafter\n", "")
    log = (tmp_path / "engine.log").read_text()
    assert [text for text in CHATTER if text not in log] == []


def test_debug_shows_everything(tmp_path):
    done = run(
        tmp_path,
        """
        with Quiet("engine.log", debug=True):
            noise()
        """,
    )
    assert [text for text in CHATTER if text not in done.stdout + done.stderr] == []


def test_loggers_made_inside_can_still_write_afterwards(tmp_path):
    done = run(
        tmp_path,
        """
        with Quiet("engine.log"):
            handler = logging.StreamHandler()
            logging.getLogger("vllm").addHandler(handler)
        logging.getLogger("vllm").warning("shutting down")
        """,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert "shutting down" in (tmp_path / "engine.log").read_text()


def test_reserved_stdout_carries_our_lines_alone(tmp_path):
    done = run(
        tmp_path,
        """
        with reserved_stdout() as out:
            noise()
            print('{"run": "x"}', file=out)
        """,
    )
    assert done.stdout == '{"run": "x"}\n'
    assert [text for text in CHATTER if text not in done.stderr] == []


def test_an_unexpected_error_is_logged_and_carries_the_path_of_the_log(tmp_path):
    log = tmp_path / "engine.log"
    with pytest.raises(ZeroDivisionError) as caught, Quiet(log):
        _ = 1 / 0
    assert caught.value.__notes__ == [f"log: {log}"]
    assert "Traceback" in log.read_text()
    assert "ZeroDivisionError: division by zero" in log.read_text()


def test_a_users_error_needs_no_log(tmp_path):
    with pytest.raises(RunError) as caught, Quiet(tmp_path / "engine.log"):
        raise RunError("no such run")
    assert not hasattr(caught.value, "__notes__")


def test_in_a_notebook_our_output_stays_with_the_notebooks_stream(monkeypatch):
    import io

    from rft.runs.quiet import terminal

    cell = io.StringIO()
    monkeypatch.setattr(sys, "stdout", cell)
    print("step 1", file=terminal("stdout"))
    assert cell.getvalue() == "step 1\n"
