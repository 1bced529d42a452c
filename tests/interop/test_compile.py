"""Networks and losses under torch.compile: the operators are those of what was compiled, which stays compiled.

Compiled code has one derivative, in reverse. The backend is PyTorch's own without code generation, which counts
what it compiles. All is in float64: 1e-12 is far above rounding at this size.
"""

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import eigenspan as es
from eigenspan.linops.fingerprint import fingerprint

LOSS = nn.CrossEntropyLoss()

# What the compiler does at a network's output, by itself.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(scope="module")
def backend():
    from torch._dynamo.testing import CompileCounterWithBackend

    yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


def wrapped(backend):
    return torch.compile(cases.mlp(), backend=backend), LOSS


def in_place(backend):
    model = cases.mlp()
    model.compile(backend=backend)
    return model, LOSS


def in_part(backend):
    model = cases.mlp()
    model[0] = torch.compile(model[0], backend=backend)
    return model, LOSS


def the_loss(backend):
    return cases.mlp(), torch.compile(nn.functional.cross_entropy, backend=backend)


@pytest.mark.parametrize("compiled", [wrapped, in_place, in_part, the_loss])
def test_products_are_right_and_the_network_stays_compiled(compiled, backend):
    model, loss = compiled(backend)
    inputs, targets = cases.classes(11)

    def train():
        value = loss(model(inputs), targets)
        value.backward()
        return value

    value, frames = train(), backend.frame_count
    assert frames > 0
    for kind, twin in [(es.Hessian, cases.dense_hessian), (es.GGN, cases.dense_ggn)]:
        expected = twin(cases.mlp(), LOSS, (inputs, targets))
        for engine in ("linearised", "retained", "forward"):
            found = kind(model, loss, (inputs, targets), engine=engine)
            torch.testing.assert_close(found.to_dense(), expected, rtol=0, atol=1e-12)
    assert torch.equal(train(), value)
    assert backend.frame_count == frames  # neither the operators nor what came after compiled anything


def test_names_are_those_of_the_network(backend):
    """So that masks of the one are masks of the other."""
    plain, (model, _) = cases.mlp(), wrapped(backend)
    space = es.ParameterSpace(model)
    assert space.names == es.ParameterSpace(plain).names
    for network in (model, in_part(backend)[0]):
        assert es.ParameterSpace(network).names == space.names
        H = es.Hessian(network, LOSS, cases.classes(11), parameters=["0.bias", "2"])
        assert H.parameters.names == ("0.bias", "2.weight", "2.bias")
    prune.l1_unstructured(plain[0], "weight", amount=7)
    pruned = torch.compile(plain, backend=backend)
    masks = [es.MaskSubspace.from_pruned(network, space).mask for network in (plain, pruned)]
    assert torch.equal(*masks)


def test_an_objective_gets_the_network_as_it_is(backend):
    model, _ = wrapped(backend)
    objective = es.Objective(lambda network, batch: LOSS(network(batch[0]), batch[1]))
    H = es.Hessian(model, objective, cases.classes(11))
    expected = cases.dense_hessian(cases.mlp(), LOSS, cases.classes(11))
    torch.testing.assert_close(H.to_dense(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("function", [nn.functional.cross_entropy, nn.CrossEntropyLoss()], ids=["function", "module"])
def test_a_compiled_loss_is_known(function, backend):
    """By its name PyTorch's loss says that it is convex, and that ignored targets have no weight in a mean."""
    inputs, targets = cases.classes(12)
    targets[:5] = -100
    batches = [(inputs[:6], targets[:6]), (inputs[6:], targets[6:])]
    G = es.GGN(cases.mlp(), torch.compile(function, backend=backend), batches)
    assert G.is_psd
    expected = cases.dense_ggn(cases.mlp(), LOSS, (inputs, targets))
    torch.testing.assert_close(G.to_dense(), expected, rtol=0, atol=1e-12)


def test_fingerprints_are_those_of_what_was_compiled(backend):
    """So that a solve of the one goes on with that of the other."""
    (model, _), (_, loss), batch = wrapped(backend), the_loss(backend), cases.classes(11)
    compiled = es.Hessian(model, loss, batch)
    plain = es.Hessian(cases.mlp(), nn.functional.cross_entropy, batch)
    assert fingerprint(es.Hessian(in_part(backend)[0], loss, batch)) == fingerprint(plain)
    assert fingerprint(compiled) == fingerprint(plain) != fingerprint(es.Hessian(cases.mlp(), LOSS, batch))
