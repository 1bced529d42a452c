"""Times and peak memory of masks of two million of ten million coordinates.

Run `python benchmarks/masks.py`. The exit code says whether every limit held.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable

import torch

from eigenspan.linops import EigenSubspace, MaskSubspace, OrthonormalSubspace
from eigenspan.metrics import chance, chance_curve, geodesic, jaccard, overlap, overlap_curve

N, K = 10_000_000, 2_000_000
VECTORS = 16
STRATA = 62
LIMIT = 1.0  # seconds


def peak_memory() -> float:
    """The largest resident size of this process so far, in MB."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def report(what: str, compute: Callable[[], object], limit: float = math.inf) -> bool:
    """One line: the best of three times, and the peak memory of the process so far; whether it kept to the limit."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        result = compute()
        seconds.append(time.perf_counter() - start)
    holds = min(seconds) <= limit
    limited = "" if limit == math.inf else f" <= {limit:g} s" if holds else f" <= {limit:g} s  MISSED"
    print(f"{what:44} {min(seconds):8.3f} s{limited} {peak_memory():8.0f} MB   {result}")
    return holds


def main() -> None:
    print(f"n = {N:,}, masks of {K:,}, a basis of {VECTORS} vectors; torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads; import {peak_memory():.0f} MB")
    A, B = (MaskSubspace.random(N, K, seed=seed) for seed in (1, 2))
    scores = torch.rand(N, generator=torch.Generator().manual_seed(3))
    strata = torch.arange(N) * STRATA // N
    report("MaskSubspace.top_k", lambda: MaskSubspace.top_k(scores, K))
    report("MaskSubspace.top_k, ties at random", lambda: MaskSubspace.top_k(scores, K, seed=1))
    report(f"MaskSubspace.top_fraction, {STRATA} strata", lambda: MaskSubspace.top_fraction(scores, K / N, strata))
    report("MaskSubspace.above", lambda: MaskSubspace.above(scores, 1 - K / N))
    held = [
        report("mask-mask cross_gram", lambda: A.cross_gram(B), LIMIT),
        report("mask-mask overlap", lambda: overlap(A, B), LIMIT),
    ]
    report("mask-mask jaccard", lambda: jaccard(A, B))
    report("mask-mask geodesic distance", lambda: geodesic(A, B))
    report("mask-mask chance, uniform", lambda: chance(A, B))
    report(f"mask-mask chance, {STRATA} strata", lambda: chance(A, B, strata))

    vectors = OrthonormalSubspace.random(N, VECTORS, seed=4).vectors
    eig = EigenSubspace(vectors, torch.arange(VECTORS, 0, -1.0), check=False)
    report("mask-basis overlap", lambda: overlap(A, eig))
    report("mask-basis chance, uniform", lambda: chance(A, eig))
    report("overlap_curve", lambda: tuple(overlap_curve(scores, eig).shape))
    report("chance_curve, uniform", lambda: chance_curve(scores, eig))
    report(f"chance_curve, {STRATA} strata", lambda: chance_curve(scores, eig, strata))
    sys.exit(not all(held))


if __name__ == "__main__":
    main()
