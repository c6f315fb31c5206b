"""What this process holds of the machine, memory in GB (10^9 bytes), and how a phase hands it on."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

_OMP_PAUSE_SOFT = 1  # OpenMP 5.0, omp_pause_resource_t
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_MOST_HELD = 2**31 - 1  # bytes, the most that glibc takes
_PILED_UP = 1.05


def peak_rss_gb() -> float:
    """The most it ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9  # Linux counts kibibytes


def rss_gb() -> float:
    """What it holds now; the peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return peak_rss_gb()
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


class HeldMemory:
    """Keeps what is freed for what comes next, where the system's memory is glibc's, until it piles up.

    Left alone, glibc gives the end of its heap back whenever 64 MB of it are free, and maps large tensors
    one by one: an update then takes fresh pages from the system for tensors it has just freed, which may cost
    more than what is computed on them. Held for good, memory ends in pieces that the next update does not
    quite fit into, and a run on a CPU grows by gigabytes over its first twenty steps.
    """

    def __init__(self) -> None:
        """Holds from now on; what it asks of glibc stays when the object has gone."""
        self._usual_gb: float | None = None
        tune = getattr(ctypes.CDLL(None), "mallopt", None)
        if tune is not None:
            tune(_M_TRIM_THRESHOLD, _MOST_HELD)
            tune(_M_MMAP_MAX, 0)  # a gradient of the vocabulary is larger than any threshold that glibc takes

    def settle(self) -> bool:
        """To be called once a step: releases memory if the process holds a twentieth more than usual.

        Usual is what it held at the first call after a release. Returns whether memory was released.
        """
        held_gb = rss_gb()
        if self._usual_gb is None:
            self._usual_gb = held_gb
        if held_gb <= _PILED_UP * self._usual_gb:
            return False
        self.release()
        return True

    def release(self) -> None:
        """Gives freed memory back. Takes milliseconds, but the next step pays for fresh pages."""
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        self._usual_gb = None


def release_threads() -> None:
    """Ends this thread's idle OpenMP workers, so that another thread's run at full speed.

    They come back by need. Every thread that computes has its own workers. GNU's OpenMP counts them all, and
    where they outnumber the cores it lets none of them spin between two parallel loops: with the trainer's
    workers merely asleep, the engine decodes at half to three quarters of its speed (benchmarks/README.md).
    So a thread that stops computing lets them go.
    """
    try:
        pause = ctypes.CDLL("libgomp.so.1").omp_pause_resource_all
    except (OSError, AttributeError):
        return  # another OpenMP, which does not count this way
    pause(_OMP_PAUSE_SOFT)
