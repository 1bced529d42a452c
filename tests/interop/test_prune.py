"""Masks of torch.nn.utils.prune as subspaces, and ours as its masks: booleans, so that all is exact."""

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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("method", [unstructured, structured, globally, twice])
def test_is_what_prune_kept(method, dtype, device):
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


def test_a_selection_of_the_parameters():
    model = network()
    unstructured(model)
    space = ParameterSpace(model, ["0.weight_orig", "3"])
    assert MaskSubspace.from_pruned(model, space).composition(space).counts == (14, 8)


def test_the_way_back(device):
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


def test_pruning_reorders_the_coordinates():
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


def test_the_hessian_of_a_pruned_model_lies_within():
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


def test_a_model_that_is_not_pruned():
    model = network()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"holds no mask of torch.nn.utils.prune; .*parameters.values != 0"):
            MaskSubspace.from_pruned(model, ParameterSpace(model))
        unstructured(model)
        prune.remove(model[0], "weight")
        prune.remove(model[1], "bias")


def test_a_space_of_another_model():
    model = network()
    unstructured(model)
    with pytest.raises(ValueError, match=r"0.0.weight, 0.0.bias, .* is no parameter of the Sequential"):
        MaskSubspace.from_pruned(model, ParameterSpace(nn.Sequential(network())))


@pytest.mark.parametrize("pruned", [0, 2])
def test_a_tensor_that_is_pruned_in_one_place_only(pruned):
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    prune.l1_unstructured(model[pruned], "weight", amount=2)
    with pytest.raises(ValueError, match=r"0.weight.* and 2.weight.* are one tensor, but are not pruned alike"):
        MaskSubspace.from_pruned(model, ParameterSpace(model))
    prune.custom_from_mask(model[2 - pruned], "weight", model[pruned].weight_mask)
    assert MaskSubspace.from_pruned(model, ParameterSpace(model)).dim == 7 + 3 + 3
