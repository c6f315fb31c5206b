from rft.runs.memory import peak_rss_gb, release_memory, rss_gb


def test_memory_that_is_allocated_and_freed_stays_in_the_peak_only():
    before = rss_gb()
    block = bytearray(b"x") * 200_000_000
    during = rss_gb()
    del block
    assert 0.15 < during - before < 0.3
    assert peak_rss_gb() >= during - 0.01
    assert rss_gb() < during - 0.15


def test_freed_pieces_go_back_to_the_system():
    pieces = [b"x" * 100_000 for _ in range(3_000)]  # below the size that glibc maps on its own
    pin = b"y" * 100_000  # at the top of the heap: what lies below is kept, though free
    pieces.clear()
    kept = rss_gb()
    release_memory()
    assert rss_gb() < kept - 0.2
    assert pin
