import mmap
import os
import subprocess
import sys

from rft.process import peak_rss_gb, rss_gb


def test_memory_that_is_allocated_and_freed_stays_in_the_peak_only():
    before = rss_gb()
    block = mmap.mmap(-1, 200_000_000)  # not malloc's, which another test may have told to hold what is freed
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    during = rss_gb()
    block.close()
    assert 0.15 < during - before < 0.3
    assert peak_rss_gb() >= during - 0.01
    assert rss_gb() < during - 0.15


COUNT_WORKERS = """
import threading
from pathlib import Path
import torch
from rft.process import release_threads

def count():
    counts.append(len(list(Path("/proc/self/task").iterdir())))

def compute():
    count()
    for _ in range(2):
        torch.rand(300_000).exp()  # long enough for torch to spread it
        count()
        release_threads()
        count()

counts = []
thread = threading.Thread(target=compute)
thread.start()
thread.join()
print([after - counts[0] for after in counts])
"""


def test_workers_of_a_thread_end_and_come_back_by_need():
    # In a process of its own: the suite may run on one thread, and torch reads the number once.
    found = subprocess.run(
        [sys.executable, "-c", COUNT_WORKERS],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[0, 1, 0, 1, 0]"


HOLD = """
from rft.process import HeldMemory, rss_gb

memory = HeldMemory()
usual = rss_gb()
print(memory.settle())

blocks = [bytearray(b"x") * 20_000_000 for _ in range(20)]
blocks.clear()
print(rss_gb() - usual > 0.3)  # held, though free and at the end of the heap
print(memory.settle(), rss_gb() - usual < 0.05)

blocks = [b"x" * 20_000_000 for _ in range(20)]
blocks.clear()
print(memory.settle(), rss_gb() - usual > 0.3)  # this is usual now

pieces = [b"x" * 100_000 for _ in range(10_000)]
pin = b"y" * 100_000  # at the top of the heap: what lies below is free, but not its end
pieces.clear()
print(memory.settle(), rss_gb() - usual < 0.05)
"""


def test_freed_memory_is_held_until_it_piles_up():
    # In a process of its own: what it asks of the allocator stays.
    found = subprocess.run([sys.executable, "-c", HOLD], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "True", "True", "True", "False", "True", "True", "True"]
