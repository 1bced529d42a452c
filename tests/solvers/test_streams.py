"""Named streams of random numbers."""

from __future__ import annotations

import itertools

import numpy
import pytest

from eigenspan.solvers.streams import stream


def test_a_name_gives_the_same_numbers_whenever_it_is_called():
    first = stream(3, "sketch", 7).standard_normal(20)
    stream(3, "sketch", 8).standard_normal(5)
    numpy.testing.assert_array_equal(stream(3, "sketch", 7).standard_normal(20), first)


def test_bits_are_the_same_in_every_process():
    """No randomised ``hash`` of the name; NumPy guarantees the bits of its generators across versions."""
    raw = stream(0, "sketch").bit_generator.random_raw(3).tolist()
    assert raw == [4419833649771792598, 15409576197528589282, 493228992229595452]
    raw = stream(7, "start", 5).bit_generator.random_raw(2).tolist()
    assert raw == [12465970355518337157, 16438842116220189921]


def test_streams_of_another_seed_purpose_or_index_share_nothing():
    names = list(itertools.product((0, 1, 2**40), ("sketch", "verification", "start", "completion"), (0, 1, 70)))
    draws = numpy.stack([stream(*name).standard_normal(4000) for name in names])
    correlation = draws @ draws.T / 4000
    numpy.fill_diagonal(correlation, 0)
    # 630 pairs with a standard deviation of 1/√4000: five of them.
    assert abs(correlation).max() < 5 / 4000**0.5


@pytest.mark.parametrize("shift", [1, 2, 64])
def test_neighbouring_columns_are_not_shifts_of_one_another(shift):
    first, second = stream(0, "sketch", 0).standard_normal(2000), stream(0, "sketch", 1).standard_normal(2000)
    assert abs(first[shift:] @ second[:-shift]) / 2000 < 5 / 2000**0.5
