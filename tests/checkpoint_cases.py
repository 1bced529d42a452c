"""Solves that are interrupted, in tests: operators that fail or take a time. A child process imports it by name."""

import time

import torch
from worker_cases import dense

from eigenspan.linops import Counted, Dense
from eigenspan.solvers import BlockLanczos


class InterruptedSolveError(Exception):
    """A solve was stopped from outside."""


class Fragile(Counted):
    """A, known by its fingerprint, which stops the solve at the block after so many."""

    def __init__(self, A, blocks=None):
        super().__init__(A)
        self.blocks = blocks

    def _counted(self, product, X):
        if self.calls == self.blocks:
            raise InterruptedSolveError
        return super()._counted(product, X)


class Slow(Counted):
    """A, known by its fingerprint, whose products take a time."""

    def __init__(self, A, seconds):
        super().__init__(A)
        self.pause = seconds

    def _counted(self, product, X):
        time.sleep(self.pause)
        return super()._counted(product, X)


def lanczos(**options):
    return BlockLanczos(**{"k": 5, "block_size": 2, **options})


def rectangular(seed=0):
    return Dense(torch.randn(50, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def solve(folder, result, seconds):
    """A slow solve, whose result goes to a file."""
    torch.set_num_threads(1)
    lanczos().solve(Slow(dense(), seconds), checkpoint=folder).save(result)
