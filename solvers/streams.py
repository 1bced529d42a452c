"""Random numbers: one root seed, and one named stream for every purpose."""

from __future__ import annotations

import hashlib

import numpy


def stream(seed: int, purpose: str, index: int = 0) -> numpy.random.Generator:
    """An independent stream of random numbers, the same for the same (seed, purpose, index) wherever it is drawn.

    Streams of different names share nothing, so a sketch and the vectors that verify it may have one root seed. Draws
    are made on the CPU: ``torch.Generator`` differs between devices and is seeded by 32 bits only, too few for one
    stream per column.

    Args:
        seed: the root seed, a non-negative integer.
        purpose: what the numbers are for, such as ``"sketch"``, ``"verification"`` or ``"start"``.
        index: the number of the column, or of the block, within the purpose.

    Cost: one hash.
    """
    name = int.from_bytes(hashlib.blake2b(purpose.encode(), digest_size=8).digest(), "little")
    return numpy.random.default_rng(numpy.random.SeedSequence(seed, spawn_key=(name, index)))
