"""The problem gpt-char: a causal transformer, on text that every Python has."""

import pytest
import torch

import eigenspan as es
from eigenspan.studies.problem import DataRequest
from eigenspan.studies.problems import find_problem

PROBLEM = find_problem("gpt-char")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PROBLEM.model().eval()


@pytest.fixture(scope="module")
def data():
    return PROBLEM.load(DataRequest(hessian_samples=3))


def test_its_size(model):
    assert sum(parameter.numel() for parameter in model.parameters()) == 842_496


def test_no_character_sees_those_after_it(model):
    text = torch.randint(0, 128, (2, 128), generator=torch.Generator().manual_seed(0))
    changed = text.clone()
    changed[:, 60] = (text[:, 60] + 1) % 128
    with torch.no_grad():
        before, after = model(text), model(changed)
    assert before.shape == (2, 128, 128)
    torch.testing.assert_close(before[..., :60], after[..., :60], rtol=0, atol=1e-6)  # roundings of scores of order one
    assert not torch.allclose(before[..., 60:], after[..., 60:], rtol=0, atol=1e-3)


def test_targets_are_the_characters_that_follow(data):
    for inputs, targets in (data.train, *data.hessian.values()):
        assert inputs.shape == targets.shape
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert int(inputs.max()) < 128
    text = bytes(data.train[0][:40].flatten().tolist()).decode()
    assert "statement" in text


def test_test_text_is_not_trained_on(data):
    known = {row.numpy().tobytes() for row in data.train[0]}
    assert all(row.numpy().tobytes() in known for row in data.hessian["train"][0])
    assert not any(row.numpy().tobytes() in known for row in data.hessian["test"][0])
    assert "SHA-256" in data.description
    with pytest.raises(ValueError, match=r"the train text has \d+ pieces of 128 characters, fewer than the 100000"):
        PROBLEM.load(DataRequest(hessian_samples=100_000))


def test_products_are_those_of_nested_differentiation(model, data):
    """By differences of gradients in float64; its error is that of a step of 1e-5, about 1e-9, and of rounding."""
    double = PROBLEM.model().double().eval()
    double.load_state_dict(model.state_dict())
    inputs, targets = (tensor[:1, :12] for tensor in data.hessian["train"])
    H = es.Hessian(double, PROBLEM.loss, (inputs, targets))
    v = torch.randn(H.shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    v /= v.norm()
    parameters = list(double.parameters())
    point = torch.nn.utils.parameters_to_vector(parameters).detach()

    def gradient(shift):
        torch.nn.utils.vector_to_parameters(point + shift * v, parameters)
        found = torch.autograd.grad(PROBLEM.loss(double(inputs), targets), parameters)
        return torch.nn.utils.parameters_to_vector(found)

    expected = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    torch.nn.utils.vector_to_parameters(point, parameters)
    torch.testing.assert_close(H @ v, expected, rtol=0, atol=1e-7 * float(expected.norm()))
