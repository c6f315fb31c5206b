"""How much main memory this process holds and has held, in GB (10^9 bytes)."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path


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


def release_memory() -> None:
    """Gives freed memory back to the system.

    glibc keeps what an update has freed in pieces that the next one does not quite fit into: without this a
    run on a CPU grows by gigabytes over its first twenty steps. Takes milliseconds; nothing to do elsewhere.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
