"""The ways to keep a program apart from its host, from the best that the kernel allows to none.

A root of its own is made anew for every program: the Python installation, read-only, a few devices, an
empty /tmp, and nothing else of the host's files. bubblewrap does that where it is installed; `unshare` of
util-linux and a few lines of shell do the same where it is not.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rft.errors import EvaluatorError
from rft.evaluators import _sandbox_inside as inside

START_S = 20.0
"""Seconds an interpreter may take until it is ready, on a busy machine."""
_SHELL = """
set -e
umask 022
root=$1; shift
mount -t tmpfs -o size=4m,mode=0755 sandbox "$root"
mkdir "$root/proc" "$root/tmp" "$root/dev"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root$(dirname "$1")"; touch "$root$1"; fi
    mount --bind "$1" "$root$1"
    case "$1" in /dev/*) ;; *) mount -o remount,bind,ro "$root$1" ;; esac
    shift
done
mount -t proc proc "$root/proc"
mount -t tmpfs -o size=64m,mode=1777 sandbox "$root/tmp"
mount -o remount,ro "$root"
shift
exec chroot "$root" setpriv --bounding-set=-all --inh-caps=-all --no-new-privs --pdeathsig KILL "$@"
"""
_NOBODY = ("--reuid=65534", "--regid=65534", "--clear-groups")


@dataclass(frozen=True)
class Isolation:
    """A way to start an interpreter: from (command, paths it reads) to the whole command line."""

    name: str
    wrap: Callable[[Sequence[str], Sequence[str]], list[str]]

    @property
    def strong(self) -> bool:
        """Whether network, files and other processes are out of reach."""
        return self.name != "bare"

    def command(self, packages: bool) -> list[str]:
        """The interpreter with the script that takes jobs; with `packages`, with what is installed here."""
        python = sys.executable if packages else os.path.realpath(sys.executable)
        prefixes = [sys.prefix, sys.base_prefix] if packages else [sys.base_prefix]
        paths = [*prefixes, *_SYSTEM, inside.__file__]
        flags = ["-s", "-P", "-B"] + ([] if packages else ["-S"])
        return self.wrap(
            [python, *flags, inside.__file__], [p for p in dict.fromkeys(paths) if os.path.exists(p)]
        )


_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def _bubblewrap(command: Sequence[str], paths: Sequence[str]) -> list[str]:
    binds = [word for path in paths for word in ("--ro-bind", path, path)]
    apart = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    own = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
    return ["bwrap", *apart, *binds, *own, "--", *command]


def _unshare(
    extra: Sequence[str], drop: Sequence[str], command: Sequence[str], paths: Sequence[str]
) -> list[str]:
    apart = [*extra, "--mount", "--pid", "--fork", "--net", "--ipc", "--uts"]
    shell = ["sh", "-c", _SHELL, "sh", _mount_point(), *paths, *_DEVICES, "--", *drop]
    return ["unshare", *apart, "--kill-child=KILL", *shell, *command]


def _bare(command: Sequence[str], paths: Sequence[str]) -> list[str]:
    return list(command)


@functools.cache
def _mount_point() -> str:
    """An empty folder on which every sandbox mounts a root of its own."""
    folder = tempfile.mkdtemp(prefix="rft-sandbox-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def ways() -> list[Isolation]:
    """Every way to isolate on this kind of machine, the best first; whether they work is not tried here.

    Root drops to nobody rather than becoming root of a user namespace: the kernel sets root no limit on
    processes.
    """
    if sys.platform != "linux":
        return [Isolation("bare", _bare)]
    as_root = Isolation("namespaces", functools.partial(_unshare, [], _NOBODY))
    as_user = Isolation("namespaces", functools.partial(_unshare, ["--user", "--map-root-user"], []))
    bubblewrap = Isolation("bubblewrap", _bubblewrap)
    return [*([as_root] if os.getuid() == 0 else []), bubblewrap, as_user, Isolation("bare", _bare)]


@functools.cache
def best() -> Isolation:
    """The first way that runs an empty program here. Takes some tenths of a second, once.

    Raises EvaluatorError("sandbox") when not even a plain process can be started.
    """
    for way in ways():
        why = works(way)
        if why is None:
            return way
    raise EvaluatorError("sandbox", f"cannot start an interpreter: {why}")


def works(way: Isolation) -> str | None:
    """None when an empty program runs that way, else what was in the way."""
    try:
        done = subprocess.run(
            way.command(packages=False),
            input=frame({"job": "program", "source": "", "limits": {}}),
            capture_output=True,
            timeout=START_S,
            env=environment("/tmp"),
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    if done.stdout == inside.READY:
        return None
    return done.stderr.decode(errors="replace").strip()[-300:] or f"exit code {done.returncode}"


def frame(job: dict[str, Any]) -> bytes:
    """A job as `_sandbox_inside` reads it."""
    data = json.dumps(job).encode()
    return f"{len(data):08x}".encode() + data


def environment(home: str) -> dict[str, str]:
    """All that a program learns from its environment; the same hash seed makes it the same program twice."""
    return {
        "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
