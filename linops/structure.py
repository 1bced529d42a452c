"""What is known of an operator beyond its entries: symmetry, definiteness, orthonormal columns."""

from __future__ import annotations

import enum


class Structure(enum.Flag):
    """A set of algebraic properties that an operator has by construction or by declaration.

    - ``SYMMETRIC``: A = Aᵀ.
    - ``NONNEGATIVE``: xᵀ A x >= 0 for every x; ``NONPOSITIVE`` likewise.
    - ``ISOMETRY``: Aᵀ A = I, that is orthonormal columns.
    - ``PSD`` and ``NSD``: symmetric and non-negative (non-positive).

    Members combine with ``|`` and are asked for with ``in``: ``Structure.SYMMETRIC in A.structure``.
    """

    NONE = 0
    SYMMETRIC = 1
    NONNEGATIVE = 2
    NONPOSITIVE = 4
    ISOMETRY = 8
    PSD = 1 | 2
    NSD = 1 | 4

    def scaled(self, factor: float) -> Structure:
        """Structure of ``factor * A`` for an A of this structure."""
        kept = self & Structure.SYMMETRIC
        if abs(factor) == 1:
            kept |= self & Structure.ISOMETRY
        if factor >= 0:
            kept |= self & (Structure.NONNEGATIVE | Structure.NONPOSITIVE)
        if factor <= 0:
            kept |= self._mirrored()
        return kept

    def added(self, other: Structure) -> Structure:
        """Structure of ``A + B`` for A of this and B of the ``other`` structure."""
        return self & other & ~Structure.ISOMETRY

    def transposed(self) -> Structure:
        """Structure of ``A.T``: orthonormal columns become orthonormal rows, which is another property."""
        return self if Structure.SYMMETRIC in self else self & ~Structure.ISOMETRY

    def _mirrored(self) -> Structure:
        mirrored = Structure.NONE
        if Structure.NONNEGATIVE in self:
            mirrored |= Structure.NONPOSITIVE
        if Structure.NONPOSITIVE in self:
            mirrored |= Structure.NONNEGATIVE
        return mirrored

    def __str__(self) -> str:
        """The properties in words, the strongest name for each: ``"psd isometry"``; empty for none."""
        words = []
        if Structure.SYMMETRIC in self:
            definite = [flag.name for flag in (Structure.PSD, Structure.NSD) if flag in self]
            words += definite or [Structure.SYMMETRIC.name]
        else:
            words += [flag.name for flag in (Structure.NONNEGATIVE, Structure.NONPOSITIVE) if flag in self]
        if Structure.ISOMETRY in self:
            words.append(Structure.ISOMETRY.name)
        return " ".join(str(word).lower() for word in words)
