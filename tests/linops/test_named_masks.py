"""Masks to and from tensors by name, and those that torch.nn.utils.prune makes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import eigenspan as es
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


def unstructured(model):
    prune.l1_unstructured(model[0], "weight", amount=0.3)
    prune.random_unstructured(model[1], "bias", amount=2)


def structured(model):
    prune.ln_structured(model[0], "weight", amount=0.5, n=2, dim=0)
    prune.ln_structured(model[3], "weight", amount=1, n=1, dim=1)


def globally(model):
    tensors = [(model[0], "weight"), (model[3], "weight")]
    prune.global_unstructured(tensors, pruning_method=prune.L1Unstructured, amount=0.4)


def twice(model):
    """The mask is that of both."""
    unstructured(model)
    prune.l1_unstructured(model[0], "weight", amount=5)


class TestPruned:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("method", [unstructured, structured, globally, twice])
    def test_is_what_prune_kept(self, method, dtype, device):
        """No parameter is zero by itself once the biases are ones: what prune.remove leaves is the mask."""
        model = network(device, dtype)
        with torch.no_grad():
            for bias in (model[0].bias, model[1].bias):
                bias.fill_(1)
        before = ParameterSpace(model)
        method(model)
        after = ParameterSpace(model)
        assert "0.weight_orig" in after.names
        assert "0.weight" in before.names
        found = MaskSubspace.from_pruned(model, before), MaskSubspace.from_pruned(model, after)
        for module in model:
            for name in ("weight", "bias"):
                if hasattr(module, name + "_orig"):
                    prune.remove(module, name)
        values = dict(model.named_parameters())
        for A, space in zip(found, (before, after), strict=True):
            for name, mask in A.to_named(space).items():
                assert torch.equal(mask, values[name.removesuffix("_orig")] != 0)
            assert A.dtype == dtype
            assert 0 < A.dim < 40

    def test_a_selection_of_the_parameters(self):
        model = network()
        unstructured(model)
        space = ParameterSpace(model, ["0.weight_orig", "3"])
        assert MaskSubspace.from_pruned(model, space).composition(space).counts == (14, 8)

    def test_the_way_back(self, device):
        """A magnitude mask of a tensor, applied by prune, is the one that l1_unstructured makes."""
        ours, theirs = network(device), network(device)
        space = ParameterSpace(ours)
        A = MaskSubspace.top_k(es.magnitude(space), 13, within=space.indices("0.weight"))
        prune.custom_from_mask(ours[0], "weight", A.to_named(space)["0.weight"])
        prune.l1_unstructured(theirs[0], "weight", amount=7)
        assert torch.equal(ours[0].weight_mask, theirs[0].weight_mask)
        assert torch.equal(ours[0].weight, theirs[0].weight)
        kept = MaskSubspace.from_pruned(ours, space)
        assert torch.equal(kept.mask[:20], A.mask[:20])
        assert bool(kept.mask[20:].all())

    def test_pruning_reorders_the_coordinates(self):
        """The pruned tensor follows the others of its module: a mask is of the space that it was made for."""
        model = network()
        before = ParameterSpace(model, "0")
        prune.l1_unstructured(model[0], "weight", amount=7)
        after = ParameterSpace(model, "0")
        assert (before.names, after.names) == (("0.weight", "0.bias"), ("0.bias", "0.weight_orig"))
        assert [MaskSubspace.from_pruned(model, space).composition(space).counts for space in (before, after)] == [
            (13, 4),
            (4, 13),
        ]

    def test_the_hessian_of_a_pruned_model_lies_within(self):
        """Coordinates that are pruned have no influence on the loss."""
        model = network(dtype=torch.float64)
        globally(model)
        X = torch.randn(9, 5, dtype=torch.float64)
        H = es.Hessian(model, nn.CrossEntropyLoss(), (X, torch.arange(9) % 2))
        A = MaskSubspace.from_pruned(model, H.parameters)
        dense = H.to_dense()
        assert bool((dense[~A.mask] == 0).all())
        assert float(dense.norm()) > 0
        torch.testing.assert_close(H.masked(A).to_dense(), dense)

    def test_a_model_that_is_not_pruned(self):
        model = network()
        for _ in range(2):
            with pytest.raises(ValueError, match=r"holds no mask of torch.nn.utils.prune; .*parameters.values != 0"):
                MaskSubspace.from_pruned(model, ParameterSpace(model))
            unstructured(model)
            prune.remove(model[0], "weight")
            prune.remove(model[1], "bias")

    def test_a_space_of_another_model(self):
        model = network()
        unstructured(model)
        with pytest.raises(ValueError, match=r"0.0.weight, 0.0.bias, .* is no parameter of the Sequential"):
            MaskSubspace.from_pruned(model, ParameterSpace(nn.Sequential(network())))

    @pytest.mark.parametrize("pruned", [0, 2])
    def test_a_tensor_that_is_pruned_in_one_place_only(self, pruned):
        model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
        model[2].weight = model[0].weight
        prune.l1_unstructured(model[pruned], "weight", amount=2)
        with pytest.raises(ValueError, match=r"0.weight.* and 2.weight.* are one tensor, but are not pruned alike"):
            MaskSubspace.from_pruned(model, ParameterSpace(model))
        prune.custom_from_mask(model[2 - pruned], "weight", model[pruned].weight_mask)
        assert MaskSubspace.from_pruned(model, ParameterSpace(model)).dim == 7 + 3 + 3
