"""What would make an operator another one than it says: refused, or kept from happening; and models that need care."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import curvature_cases as cases
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

import eigenspan as es

CROSS_ENTROPY = nn.CrossEntropyLoss()


def assert_close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def finite_differences(H_of, model, batch, loss=CROSS_ENTROPY):
    """Central differences of the gradient, for models whose double backward is in doubt: good to about 1e-7."""
    columns = []
    parameters = list(model.parameters())
    for parameter in parameters:
        for index in range(parameter.numel()):
            sides = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    parameter.view(-1)[index] += step
                sides.append(
                    torch.cat([g.flatten() for g in torch.autograd.grad(loss(model(batch[0]), batch[1]), parameters)])
                )
                with torch.no_grad():
                    parameter.view(-1)[index] -= step
            columns.append((sides[0] - sides[1]) / 2e-5)
    torch.testing.assert_close(H_of.to_dense(), torch.stack(columns, 1), rtol=0, atol=1e-7)


class TestDataInPieces:
    def test_no_forward_pass_exceeds_the_micro_batch(self):
        seen = []

        class Watched(nn.Sequential):
            def forward(self, X):
                seen.append(len(X))
                return super().forward(X)

        H = es.Hessian(Watched(*cases.mlp()), CROSS_ENTROPY, cases.classes(20), micro_batch_size=4)
        H @ torch.ones(53, 2, dtype=torch.float64)
        H.gradient()
        assert max(seen) == 4

    @pytest.mark.parametrize(
        ("loss", "targets", "sizes"),
        [
            # Class weights that the library cannot see, and batches that are nearly of one class each.
            (
                lambda o, t: functional.cross_entropy(o, t, weight=torch.tensor([1.0, 2.0, 7.0]).double()),
                None,
                (4, 5, 2),
            ),
            (lambda o, t: functional.cross_entropy(o, t), [0, 1, 2, 0, 1, 2, -100, -100, 0, 1, 2], (4, 5, 2)),
            (lambda o, t: functional.cross_entropy(o, t).sqrt(), None, (1,) * 11),
            (lambda o, t: functional.cross_entropy(o, t).sqrt(), None, (3, 4, 4)),
        ],
        ids=["hidden class weights", "hidden ignored targets", "root of single samples", "root"],
    )
    def test_losses_that_do_not_add_up_are_refused(self, loss, targets, sizes):
        X, _ = cases.classes(11)
        y = torch.tensor([0] * 4 + [1] * 4 + [2] * 3 if targets is None else targets)
        batches = list(zip(X.split(sizes), y.split(sizes), strict=True))
        with pytest.raises(ValueError, match="not that of its parts"):
            es.Hessian(cases.mlp(), loss, batches)
        assert es.Hessian(cases.mlp(), loss, (X, y)).plan().micro_batch_size is None

    def test_a_first_batch_of_no_weight_is_a_batch_like_others(self):
        X, _ = cases.classes(9)
        y = torch.tensor([0, 0, 0, 1, 2, 1, 2, 1, 2])
        loss = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 3.0]).double())
        batches = list(zip(X.split(3), y.split(3), strict=True))
        assert_close(
            es.Hessian(cases.mlp(), loss, batches).to_dense(), es.Hessian(cases.mlp(), loss, (X, y)).to_dense()
        )

    def test_a_loader_of_tuples_gives_positional_arguments(self):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.core = cases.mlp()

            def forward(self, X, Z):
                return self.core(X * Z)

        X, y = cases.classes(8)
        samples = [((x, x + 1), label) for x, label in zip(X, y, strict=True)]
        loaded = es.Hessian(Two(), CROSS_ENTROPY, DataLoader(samples, batch_size=4))
        assert_close(loaded.to_dense(), es.Hessian(Two(), CROSS_ENTROPY, ((X, X + 1), y)).to_dense())

    def test_a_tuple_of_batches_is_refused(self):
        X, y = cases.classes(8)
        with pytest.raises(TypeError, match="list of batches"):
            es.Hessian(cases.mlp(), CROSS_ENTROPY, ((X[:4], y[:4]), (X[4:], y[4:])))

    def test_the_generator_of_a_loader_does_not_move(self):
        generator = torch.Generator().manual_seed(3)
        X, y = cases.classes(8)
        loader = DataLoader(list(zip(X, y, strict=True)), batch_size=4, shuffle=True, generator=generator)
        before = generator.get_state()
        es.Hessian(cases.mlp(), CROSS_ENTROPY, loader) @ torch.ones(53, dtype=torch.float64)
        assert torch.equal(generator.get_state(), before)


class TestStateOfTheModel:
    def test_a_buffer_that_the_model_writes_does_not_move_the_operator(self):
        class Counting(nn.Module):
            def __init__(self):
                super().__init__()
                self.core = cases.mlp()
                self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

            def forward(self, X):
                self.calls += 1
                return self.core(X) * self.calls

        model = Counting()
        H = es.Hessian(model, CROSS_ENTROPY, cases.classes())
        assert_close(H.to_dense(), es.Hessian(cases.mlp(), CROSS_ENTROPY, cases.classes()).to_dense())
        H.release()
        assert_close(H.to_dense(), es.Hessian(cases.mlp(), CROSS_ENTROPY, cases.classes()).to_dense())
        assert float(model.calls) == 0

    @pytest.mark.parametrize("engine", ["linearised", "retained", "forward"])
    def test_threads_take_turns(self, engine):
        """Each would find the parameters of the other in the model, and leave them there."""

        class Slow(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(6, 4).double()

            def forward(self, X):
                time.sleep(0.002)  # the other thread goes on
                return self.layer(X)

        model, data = Slow(), cases.classes()
        operators = [es.Hessian(model, nn.CrossEntropyLoss(), data, engine=engine, micro_batch_size=4)]
        with torch.no_grad():
            model.layer.weight.mul_(2)
        operators.append(es.Hessian(model, nn.CrossEntropyLoss(), data, engine=engine, micro_batch_size=4))
        before = list(model.parameters())
        with ThreadPoolExecutor(4) as pool:
            products = list(pool.map(lambda number: operators[number % 2].to_dense(), range(8)))
        for number, product in enumerate(products):
            torch.testing.assert_close(product, operators[number % 2].to_dense(), rtol=1e-12, atol=1e-14)
        assert all(one is other for one, other in zip(model.parameters(), before, strict=True))

    @pytest.mark.parametrize("name", ["release", "plan"])
    def test_what_a_product_uses_is_not_given_back_meanwhile(self, name):
        entered, changed, seen = threading.Event(), threading.Event(), []

        class Waiting(nn.Linear):
            def forward(self, X):
                if waits:
                    entered.set()
                    seen.append(changed.wait(0.2))  # the other thread would have done it at once
                return super().forward(X)

        waits = False
        H = es.Hessian(Waiting(6, 4).double(), nn.CrossEntropyLoss(), cases.classes(), engine="forward")
        H.plan()
        waits = True

        def change():
            entered.wait()
            getattr(H, name)()
            changed.set()

        with ThreadPoolExecutor(1) as pool:
            pool.submit(change)
            _ = H @ torch.ones(H.shape[0], dtype=torch.float64)
        assert seen
        assert not any(seen)
        assert changed.is_set()

    def test_a_loss_that_reads_the_model_itself_is_refused(self):
        model = cases.mlp()

        def decayed(output, target):
            return CROSS_ENTROPY(output, target) + 0.1 * sum(p.square().sum() for p in model.parameters())

        with pytest.raises(ValueError, match="Objective"):
            es.Hessian(model, decayed, cases.classes())
        objective = es.Objective(
            lambda model, batch: (
                CROSS_ENTROPY(model(batch[0]), batch[1]) + 0.1 * sum(p.square().sum() for p in model.parameters())
            )
        )
        plain = es.Hessian(model, CROSS_ENTROPY, cases.classes()).to_dense()
        expected = plain + 0.2 * torch.eye(53, dtype=torch.float64)
        assert_close(es.Hessian(model, objective, cases.classes()).to_dense(), expected)

    def test_autocast_around_a_product_changes_nothing(self):
        model, (X, y) = cases.mlp(dtype=torch.float32), cases.classes(dtype=torch.float32)
        V = torch.randn(53, 3)
        expected = es.Hessian(model, CROSS_ENTROPY, (X, y)) @ V
        H = es.Hessian(model, CROSS_ENTROPY, (X, y))
        with torch.autocast("cpu", torch.bfloat16):
            found = H @ V
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)  # rounding of float32

    @pytest.mark.parametrize("engine", ["linearised", "retained", "forward"])
    def test_autocast_around_the_construction_is_of_the_function(self, engine):
        """The same as double backward under autocast, to some roundings of bfloat16 (4e-3 each)."""
        model, (X, y) = cases.mlp(dtype=torch.float32), cases.classes(dtype=torch.float32)
        parameters = list(model.parameters())
        v = torch.randn(53, generator=cases.generator())
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            H = es.Hessian(model, CROSS_ENTROPY, (X, y), engine=engine)
            loss = CROSS_ENTROPY(model(X), y)
            gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])
            expected = torch.cat([g.flatten() for g in torch.autograd.grad(gradient @ v, parameters)])
        assert H.loss() == pytest.approx(float(loss.detach()), rel=1e-6)
        assert (H @ v - expected).norm() < 0.02 * expected.norm()


class TestModelsThatNeedCare:
    @pytest.mark.parametrize("normed", [nn.utils.parametrizations.weight_norm])
    def test_weight_normalisation(self, normed):
        """Plain double backward is wrong here, so that the twin is by finite differences."""
        torch.manual_seed(0)
        model = nn.Sequential(normed(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 3)).double().eval()
        batch = cases.classes()
        finite_differences(es.Hessian(model, CROSS_ENTROPY, batch), model, batch)

    def test_what_plain_autograd_can_do(self):
        """Checkpoints, hooks, functions of one's own and gradients inside the model."""

        class Square(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                ctx.save_for_backward(x)
                return x * x

            @staticmethod
            def backward(ctx, gradient):
                return 2 * ctx.saved_tensors[0] * gradient

        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.core = cases.mlp()
                self.core[2].register_full_backward_hook(lambda *_: None)

            def forward(self, X):
                hidden = checkpoint(self.core[1], self.core[0](X), use_reentrant=False)
                return self.core[2](Square.apply(hidden))

        class Plain(Odd):
            def forward(self, X):
                return self.core[2](self.core[1](self.core[0](X)) ** 2)

        V = torch.eye(53, 7, dtype=torch.float64)
        odd = es.Hessian(Odd(), CROSS_ENTROPY, cases.classes(), chunk_size=1) @ V
        assert_close(odd, es.Hessian(Plain(), CROSS_ENTROPY, cases.classes()) @ V)

    def test_outputs_in_a_dictionary_beside_integers(self):
        class Answer(nn.Module):
            def __init__(self):
                super().__init__()
                self.core = cases.mlp()

            def forward(self, X):
                logits = self.core(X)
                return {"logits": logits, "choice": logits.argmax(1), "cache": None}

        G = es.GGN(Answer(), lambda output, target: CROSS_ENTROPY(output["logits"], target), cases.classes())
        assert_close(G.to_dense(), cases.dense_ggn(cases.mlp(), CROSS_ENTROPY, cases.classes()))


def test_masks_do_not_follow_the_tensor_they_came_from():
    mask = torch.tensor([True, False, False])
    subspace = es.MaskSubspace(mask)
    mask[1] = True
    assert subspace.mask.tolist() == [True, False, False]
