"""The overlap curve of 1,500 masks of 11.7 million coordinates with a basis on disk: time and memory.

The basis is memory-mapped, its rows contiguous, 70 GB in all. The file is sparse: rows that no mask needs are holes of
zeros, which the curve does not read. Run `python benchmarks/overlap_curve.py [--directory DIR]`; the exit code says
whether every limit held.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch
from masks import peak_memory

from eigenspan.linops import EigenSubspace, ranking
from eigenspan.metrics import overlap_curve

N, K = 11_689_512, 1500
LIMIT_SECONDS, LIMIT_MEGABYTES = 60, 2000


def basis_on_disk(path: Path, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A memory-mapped (N, K) matrix, and its rows at the K coordinates with the highest scores, in that order."""
    rows = torch.randn(K, K, generator=torch.Generator().manual_seed(1)) / N**0.5
    matrix = numpy.memmap(path, dtype=numpy.float32, mode="w+", shape=(N, K))
    matrix[ranking(scores, K).numpy()] = rows.numpy()
    matrix.flush()
    del matrix
    return torch.from_numpy(numpy.memmap(path, dtype=numpy.float32, mode="r+", shape=(N, K))), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, default=None, help="where to write the file; by default temporary")
    arguments = parser.parse_args()
    scores = torch.rand(N, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        vectors, rows = basis_on_disk(Path(folder) / "basis", scores)
        start = time.perf_counter()
        curve = overlap_curve(scores, EigenSubspace(vectors, torch.arange(K, 0, -1.0), check=False))
        seconds, megabytes = time.perf_counter() - start, peak_memory()
    squares = rows.double().square()
    for k in (1, 2, 700, K):
        torch.testing.assert_close(curve[k - 1], squares[:k, :k].sum() / k)
    print(f"{K} masks of {N:,} coordinates, basis on disk; {torch.get_num_threads()} threads")
    print(f"seconds {seconds:.1f} <= {LIMIT_SECONDS}; peak memory {megabytes:.0f} MB <= {LIMIT_MEGABYTES}")
    sys.exit(not (seconds <= LIMIT_SECONDS and megabytes <= LIMIT_MEGABYTES))


if __name__ == "__main__":
    main()
