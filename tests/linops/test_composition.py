"""Where a mask lies, counted tensor by tensor."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from eigenspan.linops import Composition, MaskSubspace, ParameterSpace


class Net(nn.Module):
    """A scalar of its own beside two layers; 1 + 6 + 2 + 4 + 4 coordinates."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.layer = nn.Linear(3, 2)
        self.stack = nn.Sequential(nn.LayerNorm(4))


@pytest.fixture
def space(device):
    return ParameterSpace(Net().to(device))


def test_by_tensor(space):
    A = MaskSubspace.random(17, 9, seed=1, device=space.device)
    found = A.composition(space)
    named = A.to_named(space)
    assert found.by == "tensor"
    assert found.names == space.names
    assert found.sizes == tuple(mask.numel() for mask in named.values())
    assert found.counts == tuple(int(mask.sum()) for mask in named.values())
    assert found.densities == tuple(float(mask.double().mean()) for mask in named.values())
    assert found.shares == tuple(count / 9 for count in found.counts)
    assert (sum(found.sizes), sum(found.counts)) == (17, 9)


def test_by_module(space):
    A = MaskSubspace.from_indices(torch.tensor([0, 1, 2, 8, 16], device=space.device), 17)
    found = A.composition(space, by="module")
    assert found == Composition("module", ("", "layer", "stack.0"), (1, 8, 8), (1, 3, 1))
    assert repr(found).splitlines()[1].split() == ["(model)", "1", "1", "100.00%", "20.00%"]


def test_prints_as_a_table():
    found = Composition("tensor", ("0.weight", "0.bias"), (1200, 12), (30, 10))
    assert (
        str(found)
        == repr(found)
        == """\
tensor         size      count  density   share
0.weight       1200         30    2.50%  75.00%
0.bias           12         10   83.33%  25.00%
total          1212         40    3.30% 100.00%"""
    )


def test_as_plain_data():
    found = Composition("tensor", ("a", "b"), (4, 5), (1, 4))
    expected = {
        "a": {"size": 4, "count": 1, "density": 0.25, "share": 0.2},
        "b": {"size": 5, "count": 4, "density": 0.8, "share": 0.8},
    }
    assert found.to_dict() == json.loads(json.dumps(found.to_dict())) == expected


def test_a_tensor_without_entries():
    model = nn.ParameterDict({"a": torch.ones(2), "b": torch.ones(0, 3)})
    found = MaskSubspace(torch.tensor([True, False])).composition(ParameterSpace(model))
    assert (found.sizes, found.counts, found.shares) == ((2, 0), (1, 0), (1.0, 0.0))
    assert math.isnan(found.densities[1])


def test_bad_arguments(space):
    with pytest.raises(ValueError, match=r"<MaskSubspace 2 of 9 .* is no mask of <ParameterSpace 17"):
        MaskSubspace.random(9, 2).composition(space)
    with pytest.raises(ValueError, match=r'by is "tensor" or "module", got \'layer\''):
        MaskSubspace.random(17, 2).composition(space, by="layer")


class TestParts:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4))

    @pytest.mark.parametrize(
        ("by", "sizes"),
        [("tensor", {"0.weight": 6, "0.bias": 2, "1.weight": 8, "1.bias": 4}), ("module", {"0": 8, "1": 12})],
    )
    def test_make_up_the_space(self, by, sizes):
        parts = MaskSubspace.parts(ParameterSpace(self.model), by)
        assert {name: part.dim for name, part in parts.items()} == sizes
        assert sum(part.mask.long() for part in parts.values()).tolist() == [1] * 20

    def test_of_something_else(self):
        with pytest.raises(ValueError, match="got 'layer'"):
            MaskSubspace.parts(ParameterSpace(self.model), "layer")

    def test_tensors_without_entries_are_left_out(self):
        model = nn.Linear(2, 2)
        model.empty = nn.Parameter(torch.zeros(0, 4))
        assert list(MaskSubspace.parts(ParameterSpace(model))) == ["weight", "bias"]
