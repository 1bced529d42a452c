"""Plans of products: they change time and memory, never the operator, and what they keep is used and given back."""

import gc
import logging
import weakref

import curvature_cases as cases
import pytest
import torch
from torch import nn

import eigenspan as es
from eigenspan.linops.curvature import operator as operator_module

SAMPLES = 24
VECTORS = 4 * 53 * 8  # bytes of one column, as plans reckon


class Watched(nn.Sequential):
    """The MLP of the cases, which notes how many samples each forward pass sees."""

    def __init__(self):
        super().__init__(*cases.mlp())
        self.seen = []

    def forward(self, X):
        self.seen.append(len(X))
        return super().forward(X)


def hessian(model=None, batch=None, operator=es.Hessian, **options):
    batch = cases.classes(SAMPLES) if batch is None else batch
    return operator(cases.mlp() if model is None else model, nn.CrossEntropyLoss(), batch, **options)


@pytest.mark.parametrize("operator", [es.Hessian, es.GGN])
@pytest.mark.parametrize("micro_batch_size", [None, 1, 7, SAMPLES])
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
@pytest.mark.parametrize("tight", [False, True])
def test_every_plan_is_of_the_same_matrix(operator, micro_batch_size, chunk_size, tight):
    """In float64, to rounding. A tight budget holds the graph of half of the data."""
    twin = cases.dense_hessian if operator is es.Hessian else cases.dense_ggn
    expected = twin(cases.mlp(), nn.CrossEntropyLoss(), cases.classes(SAMPLES))
    options = {"micro_batch_size": micro_batch_size, "chunk_size": chunk_size}
    if tight:
        options["memory_budget"] = hessian(operator=operator).plan().graph_bytes // 2 + VECTORS
    if tight and micro_batch_size == SAMPLES:
        with pytest.raises(ValueError, match="memory_budget"):
            hessian(operator=operator, **options).to_dense()
        return
    H = hessian(operator=operator, **options)
    assert H.plan(5).kept == (not tight)
    torch.testing.assert_close(H.to_dense(), expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(H @ torch.ones(53, dtype=torch.float64), expected.sum(1), rtol=1e-12, atol=1e-13)


def test_kept_graphs_spare_forward_passes_until_released():
    model = Watched()
    H = hessian(model, chunk_size=1, micro_batch_size=8)
    v = torch.ones(53, dtype=torch.float64)
    first = H @ v
    model.seen.clear()
    assert torch.equal(H @ v, first)
    assert model.seen == []
    H.release()
    assert torch.equal(H @ v, first)
    assert model.seen == [8, 8, 8]


def test_without_memory_graphs_are_built_for_each_product():
    model = Watched()
    H = hessian(model, chunk_size=1, memory_budget=hessian().plan().graph_bytes // 2 + VECTORS)
    plan = H.plan()
    assert not plan.kept
    model.seen.clear()
    H @ torch.ones(53, 2, dtype=torch.float64)
    assert sum(model.seen) == SAMPLES
    assert max(model.seen) == plan.micro_batch_size < SAMPLES


def test_a_budget_that_is_too_small_says_what_would_do():
    with pytest.raises(ValueError, match=r"about (\d+) bytes") as refusal:
        hessian(memory_budget=100).plan()
    least = int(str(refusal.value).split("about ")[1].split()[0])
    H = hessian(memory_budget=least)
    assert H.plan().micro_batch_size == 1
    torch.testing.assert_close(H.to_dense(), hessian().to_dense(), rtol=1e-12, atol=1e-14)


def test_the_operator_stays_at_its_point():
    model = cases.mlp()
    H = hessian(model)
    v = torch.ones(53, dtype=torch.float64)
    before = H @ v
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert torch.equal(H @ v, before)
    H.release()
    assert torch.equal(H @ v, before)


def test_data_changed_in_place_are_an_error_not_another_matrix():
    inputs, targets = cases.classes(SAMPLES)
    H = hessian(batch=(inputs, targets))
    v = torch.ones(53, dtype=torch.float64)
    H @ v
    inputs.mul_(2)
    with pytest.raises(RuntimeError, match="changed after the operator was built"):
        H @ v


def test_a_loss_that_does_not_add_up_goes_uncut():
    """The logarithm of a sum over samples is no mean over them."""
    model = Watched()

    def contrastive(output, target):
        return torch.logsumexp(output.gather(1, target[:, None]).flatten(), 0)

    H = es.Hessian(model, contrastive, cases.classes(SAMPLES))
    assert H.plan().micro_batch_size is None
    model.seen.clear()
    H.release()
    H @ torch.ones(53, dtype=torch.float64)
    assert model.seen == [SAMPLES]


def test_targets_of_another_length_go_uncut_or_are_refused():
    model = cases.SequenceModel(nn.Identity()).double()

    def loss(output, target):
        return nn.functional.cross_entropy(output.transpose(1, 2).flatten(0, 1), target)

    tokens, targets = torch.randint(0, 11, (20, 5)), torch.randint(0, 11, (100,))
    whole = es.Hessian(model, loss, (tokens, targets))
    assert whole.plan().micro_batch_size is None
    batches = [(tokens[:8], targets[:40]), (tokens[8:], targets[40:])]
    v = torch.randn(whole.shape[0], 2, dtype=torch.float64)
    torch.testing.assert_close(es.Hessian(model, loss, batches) @ v, whole @ v, rtol=1e-10, atol=1e-13)
    with pytest.raises(ValueError, match="cannot be cut"):
        es.Hessian(model, loss, (tokens, targets), micro_batch_size=4)


def test_out_of_memory_halves_the_columns_at_once(monkeypatch, caplog):
    H, widths = hessian(chunk_size=8), []
    product = operator_module.summed_product

    def tight(shares, parameters, X, chunk_size):
        widths.append(chunk_size)
        if chunk_size > 2:
            raise torch.OutOfMemoryError("no memory left")
        return product(shares, parameters, X, chunk_size)

    expected = hessian().to_dense()
    monkeypatch.setattr(operator_module, "summed_product", tight)
    with caplog.at_level(logging.WARNING):
        found = H @ torch.eye(53, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert widths == [8, 4, 2]
    assert H.plan().chunk_size == 2
    assert "out of memory" in caplog.text


def test_graphs_go_with_the_operator():
    H = hessian()
    H @ torch.ones(53, dtype=torch.float64)
    leaf = weakref.ref(next(iter(H._leaves.values())))
    del H
    gc.collect()
    assert leaf() is None


def test_a_plan_reads_as_a_sentence():
    plan = es.ProductPlan(micro_batch_size=50, chunk_size=1, kept=True, graph_bytes=3 * 2**20)
    assert str(plan) == "micro-batches of 50, columns one by one, graphs of 3 MiB kept"
