"""What this process holds of the machine, memory in GB (10^9 bytes), and how a phase hands it on."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

_OMP_PAUSE_SOFT = 1  # OpenMP 5.0, omp_pause_resource_t
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MOST_HELD = 2**31 - 1  # bytes, as is the next; both the most that glibc takes
_LARGEST_IN_HEAP = 2**25


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


def hold_memory() -> None:
    """Keeps what is freed until `release_memory`, where the system's memory is glibc's.

    Left alone, glibc gives the end of its heap back whenever 64 MB of it are free, and maps large tensors
    one by one: an update then takes fresh pages from the system for tensors it has just freed.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        tune(_M_TRIM_THRESHOLD, _MOST_HELD)
        tune(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)


def release_memory() -> None:
    """Gives freed memory back to the system.

    glibc keeps what an update has freed in pieces that the next one does not quite fit into: without this a
    run on a CPU grows by gigabytes over its first twenty steps. Takes milliseconds; nothing to do elsewhere.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


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
