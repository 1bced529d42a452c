"""Subnetwork masks of laplace-torch as subspaces, and ours as its subnetworks, in float64."""

import curvature_cases as cases
import pytest
import torch
from interop_cases import EXTRA, theirs_to_mend
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import eigenspan as es

laplace = pytest.importorskip("laplace", reason=EXTRA)
subnetmask = pytest.importorskip("laplace.utils.subnetmask", reason=EXTRA)

# BackPACK, within laplace's diagonal, hooks a network whose inputs are data.
pytestmark = [*theirs_to_mend, pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")]


def loader():
    return DataLoader(TensorDataset(*cases.classes(12)), batch_size=12)


def diagonal(model):
    return laplace.Laplace(model, "classification", subset_of_weights="all", hessian_structure="diag")


MASKS = {
    "random": lambda model: subnetmask.RandomSubnetMask(model, 9),
    "magnitude": lambda model: subnetmask.LargestMagnitudeSubnetMask(model, 9),
    "variance": lambda model: subnetmask.LargestVarianceDiagLaplaceSubnetMask(model, 9, diagonal(model)),
    "SWAG": lambda model: subnetmask.LargestVarianceSWAGSubnetMask(model, 9, swag_n_snapshots=3),
    "parameters": lambda model: subnetmask.ParamNameSubnetMask(model, ["0.bias", "2.weight"]),
    "modules": lambda model: subnetmask.ModuleNameSubnetMask(model, ["2"]),
    "last layer": lambda model: subnetmask.LastLayerSubnetMask(model),
}


@pytest.mark.parametrize("kind", MASKS)
def test_every_mask_is_a_subspace(kind):
    """Its GGN in those coordinates is, as a sum over the samples, the precision of their subnetwork Laplace."""
    model = cases.mlp()
    chosen = MASKS[kind](model)
    chosen.select(loader())
    G = es.GGN(model, nn.CrossEntropyLoss(), cases.classes(12))
    mask = es.MaskSubspace.from_indices(chosen.indices, G.parameters.size, G.dtype)
    assert mask.dim == chosen.n_params_subnet
    theirs = laplace.Laplace(
        model,
        "classification",
        subset_of_weights="subnetwork",
        hessian_structure="full",
        subnetwork_indices=mask.indices,
        backend=laplace.curvature.CurvlinopsGGN,
    )
    theirs.fit(loader())
    expected = 12 * cases.dense_ggn(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(12))
    rows = chosen.indices
    for found in (theirs.H, 12 * G.restricted(mask).to_dense()):
        torch.testing.assert_close(found, expected[rows][:, rows], rtol=0, atol=1e-10)  # sums of 12, far above rounding


def test_masks_by_name_are_those_of_the_space():
    model = cases.mlp()
    space = es.ParameterSpace(model)
    for kind, patterns in {"parameters": ["0.bias", "2.weight"], "modules": ["2"], "last layer": ["2"]}.items():
        assert torch.equal(MASKS[kind](model).select(loader()), space.indices(*patterns))


def test_masks_by_magnitude_are_ours():
    model = cases.mlp()
    ours = es.MaskSubspace.top_k(es.magnitude(es.ParameterSpace(model)), 9)
    assert torch.equal(MASKS["magnitude"](model).select(), ours.indices)


def test_a_mask_of_the_whole_network_in_a_selection_of_it():
    """Their indices count frozen tensors too; the space of all of them embeds that of the selection."""
    model = cases.mlp()
    model[0].requires_grad_(False)
    chosen = subnetmask.ParamNameSubnetMask(model, ["2.bias"]).select()
    G = es.GGN(model, nn.CrossEntropyLoss(), cases.classes(12))
    whole = es.ParameterSpace(model, "*")
    mask = es.MaskSubspace.from_indices(chosen, whole.size, whole.dtype).extracted(whole.embedding(G.parameters))
    assert mask.composition(G.parameters).counts == (0, 3)
    outside = es.MaskSubspace.from_indices(torch.arange(4), whole.size, whole.dtype)
    with pytest.raises(ValueError, match="does not lie in the 18 coordinates"):
        outside.extracted(whole.embedding(G.parameters))
