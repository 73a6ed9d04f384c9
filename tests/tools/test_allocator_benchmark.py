"""What benchmarks.allocator counts with."""

from __future__ import annotations

from benchmarks.allocator import BUCKETS, count_and_peak, padded, request_lengths


def test_count_and_peak() -> None:
    assert count_and_peak([]) == (0, 0)
    assert count_and_peak([8, 4, -8, 2, -4, -2, 5]) == (4, 12)


def test_lengths_fit_their_buckets() -> None:
    lengths = request_lengths(1000)
    assert lengths == request_lengths(1000)
    assert min(lengths) == 1
    assert 200 < max(lengths) <= BUCKETS[-1]
    for length in lengths:
        bucket = padded(length)
        assert bucket >= length
        assert all(other < length for other in BUCKETS if other < bucket)
