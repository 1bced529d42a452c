"""Masks to and from tensors by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eigenspan.linops import MaskSubspace, ParameterSpace

DTYPES = [torch.float64, torch.float32]


def network(device="cpu", dtype=torch.float32):
    """20 + 4 + 4 + 4 + 8 coordinates."""
    torch.manual_seed(0)
    layers = nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2, bias=False)
    return nn.Sequential(*layers).to(device, dtype)


def random_masks(space, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.rand(shape, generator=generator) < 0.4).to(space.device) for name, shape in space.shapes.items()
    }


class TestNamed:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    def test_there_and_back(self, dtype, device):
        space = ParameterSpace(network(device, dtype))
        masks = random_masks(space)
        for given in (masks, dict(reversed(masks.items()))):
            A = MaskSubspace.from_named(space, given)
            assert (A.dtype, A.device, A.ambient_dim) == (dtype, space.device, 40)
            assert A.mask.tolist() == torch.cat([masks[name].flatten() for name in space.names]).tolist()
            named = A.to_named(space)
            assert list(named) == list(space.names)
            assert all(torch.equal(named[name], masks[name]) for name in space.names)

    def test_numbers_that_are_exactly_zero_or_one(self):
        space = ParameterSpace(network())
        masks = random_masks(space)
        expected = MaskSubspace.from_named(space, masks).mask
        for dtype in (torch.float32, torch.float64, torch.uint8, torch.int64):
            numbers = {name: mask.to(dtype) for name, mask in masks.items()}
            assert torch.equal(MaskSubspace.from_named(space, numbers).mask, expected)
        for wrong in (0.999, -1.0, 2.0, float("nan")):
            numbers = masks | {"1.bias": torch.tensor([1.0, 0.0, wrong, 1.0])}
            with pytest.raises(ValueError, match=r"mask of 1.bias in torch.float32 has entries other than 0 and 1"):
                MaskSubspace.from_named(space, numbers)

    @pytest.mark.parametrize("missing", [True, False])
    def test_tensors_without_a_mask(self, missing, device):
        space = ParameterSpace(network(device))
        masks = random_masks(space)
        del masks["0.weight"], masks["1.bias"]
        with pytest.raises(ValueError, match=r"no mask for 0.weight, 1.bias of .*missing=True keeps whole"):
            MaskSubspace.from_named(space, masks)
        named = MaskSubspace.from_named(space, masks, missing=missing).to_named(space)
        assert all(bool((named[name] == missing).all()) for name in ("0.weight", "1.bias"))
        assert all(torch.equal(named[name], mask) for name, mask in masks.items())

    def test_what_does_not_fit(self):
        space = ParameterSpace(network(), ["0", "1"])
        masks = random_masks(space)
        for name, wrong, error, message in [
            ("3.weight", torch.ones(2, 4).bool(), ValueError, r"has no 3.weight; its tensors are 0.weight, 0.bias"),
            ("0.weight", torch.ones(5, 4).bool(), ValueError, r"0.weight has shape \(5, 4\), the tensor \(4, 5\)"),
            ("0.bias", torch.ones(1, 4).bool(), ValueError, r"0.bias has shape \(1, 4\)"),
            ("0.bias", [True] * 4, TypeError, "mask of 0.bias is a boolean tensor, got list"),
            ("0.bias", torch.ones(4, device="meta").bool(), TypeError, "mask of 0.bias is on meta"),
        ]:
            with pytest.raises(error, match=message):
                MaskSubspace.from_named(space, masks | {name: wrong})
        with pytest.raises(ValueError, match="selects no coordinate"):
            MaskSubspace.from_named(space, {}, missing=False)
        with pytest.raises(ValueError, match="is no mask of <ParameterSpace 32"):
            MaskSubspace.random(40, 3).to_named(space)

    def test_tensors_are_copies(self):
        space = ParameterSpace(network())
        A = MaskSubspace.random(40, 7)
        for mask in A.to_named(space).values():
            mask.fill_(True)
        assert int(A.mask.sum()) == 7
