"""Fingerprints: the same for the same matrix however it is computed, and another for another."""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy
import pytest
import torch
import worker_cases
from torch import nn
from torch.nn import functional

import eigenspan as es
from eigenspan.linops import Counted, Dense, Diagonal, Function, Hessian, Structure

X, Y = torch.randn(24, 5, generator=torch.Generator().manual_seed(1)), torch.arange(24) % 3


def network(activation=nn.Tanh):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 4), activation(), nn.BatchNorm1d(4), nn.Linear(4, 3)).eval()


def hessian(model=None, loss=None, data=(X, Y), **options):
    return Hessian(
        network() if model is None else model, nn.CrossEntropyLoss() if loss is None else loss, data, **options
    )


class Shuffled(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i], Y[i]


class TestCurvature:
    @pytest.mark.parametrize(
        "same",
        [
            lambda: hessian(micro_batch_size=5),
            lambda: hessian(engine="retained", chunk_size=2),
            lambda: hessian(data=[(X[:7], Y[:7]), (X[7:], Y[7:])]),
            lambda: hessian(data=[(X[20:], Y[20:]), (X[:20], Y[:20])]),
            lambda: hessian(data=torch.utils.data.DataLoader(Shuffled(), batch_size=9, shuffle=True)),
            lambda: Counted(hessian()),
            lambda: es.as_operator(hessian(), structure=Structure.PSD),
        ],
        ids=["micro-batches", "engine", "batches", "order", "shuffled", "counted", "declared"],
    )
    def test_is_that_of_the_matrix(self, same):
        assert same().fingerprint() == hessian().fingerprint()

    def test_depends_on_all_that_the_matrix_does(self):
        def changed(change):
            model = network()
            change(model)
            return hessian(model)

        moved, relabelled, swapped = X.clone(), Y.clone(), X.clone()
        moved[3, 2] += 1e-6
        relabelled[3] = (relabelled[3] + 1) % 3
        swapped[[0, 1]] = X[[1, 0]]
        operators = {
            "itself": hessian(),
            "a parameter": changed(lambda model: model[0].weight.data[0, 0].mul_(1 + 1e-6)),
            "a fixed parameter": hessian(parameters="0.*"),
            "another fixed parameter": hessian(parameters="3.*"),
            "a buffer": changed(lambda model: model[2].running_mean.add_(0.1)),
            "an attribute": changed(lambda model: setattr(model[2], "eps", 1e-2)),
            "an activation": hessian(network(nn.Sigmoid)),
            "an input": hessian(data=(moved, Y)),
            "a target": hessian(data=(X, relabelled)),
            "inputs swapped": hessian(data=(swapped, Y)),
            "a sample less": hessian(data=(X[1:], Y[1:])),
            "a sample twice": hessian(data=(torch.cat([X, X[:1]]), torch.cat([Y, Y[:1]]))),
            "an option of the loss": hessian(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
            "class weights": hessian(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))),
            "a function": hessian(loss=lambda output, target: functional.cross_entropy(output, target)),
            "another function": hessian(loss=lambda output, target: 2 * functional.cross_entropy(output, target)),
            "a third": hessian(loss=lambda output, target: functional.multi_margin_loss(output, target)),
            "the precision": hessian(network().double(), data=(X.double(), Y)),
            "the class": es.GGN(network(), nn.CrossEntropyLoss(), (X, Y)),
            "its factor": es.GGN(network(), nn.CrossEntropyLoss(), (X, Y)).factor(),
            "draws": es.MonteCarloFisher(network(), nn.CrossEntropyLoss(), (X, Y)),
            "other draws": es.MonteCarloFisher(network(), nn.CrossEntropyLoss(), (X, Y), seed=1),
            "a Jacobian": es.Jacobian(network(), (X, None)),
            "rows in another order": es.Jacobian(network(), (X.flip(0), None)),
            "a multiple": 0.5 * hessian(),
            "another multiple": 0.25 * hessian(),
        }
        found = {name: A.fingerprint() for name, A in operators.items()}
        assert len(set(found.values())) == len(found), found
        assert all(len(digits) == 32 and int(digits, 16) >= 0 for digits in found.values())

    def test_rows_do_not_depend_on_how_they_are_cut(self):
        assert (
            es.Jacobian(network(), (X, None)).fingerprint()
            == es.Jacobian(network(), [(X[:9], None), (X[9:], None)], micro_batch_size=4).fingerprint()
        )

    def test_what_a_closure_holds_counts(self):
        def scaled(factor):
            return hessian(loss=lambda output, target: factor * functional.cross_entropy(output, target))

        assert scaled(2.0).fingerprint() == scaled(2.0).fingerprint()
        assert scaled(2.0).fingerprint() != scaled(3.0).fingerprint()

    def test_training_further_does_not_change_it(self):
        model = network()
        A = hessian(model)
        before = A.fingerprint()
        model[0].weight.data.add_(1)
        assert A.fingerprint() == before

    def test_is_the_same_in_another_process(self):
        code = "from worker_cases import hessian; print(hessian().fingerprint())"
        folder = str(Path(__file__).parent.parent)
        process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        assert process.stdout.strip() == worker_cases.hessian().fingerprint()


CODE = """
class Base(nn.Module):
    def forward(self, x):
        return @super@(self.first(x))

class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return @autograd@ * x

    @staticmethod
    def backward(ctx, gradient):
        return @autograd@ * gradient

@dataclasses.dataclass
class Settings:
    gain: float

class Slots:
    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.apply(x)

    def apply(self, x):
        return @call@ * self.factor * x

GLOBAL, SCALES = @global@, {"one": @mapping@}

def inner(x):
    return @function@ * x

def outer(x):
    return inner(x)

@functools.wraps(functional.relu)
def wrapping(x):
    return @wraps@ * x

class Net(Base):
    shift = @entry@

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)
        self._factor, self.tensor, self.number = @private@, torch.tensor(@tensor@), numpy.float32(@number@)
        self.settings, self.slots, self.wrapping = Settings(@dataclass@), Slots(@slots@), wrapping
        self.calls = self._last = 0
        self.space = types.SimpleNamespace(factor=@namespace@)
        self.table, self.bound = {"factor": @table@}, torch.tensor(@bound@).mul
        self.first.register_forward_hook(lambda module, inputs, output: @hook@ * output)

    @property
    def squared(self):
        return @property@ * self._factor

    def count(self):
        self.calls, self._last = self.calls + 1, self._last + 1

    def activation(self, x):
        return torch.tanh(@method@ * x)

    def forward(self, x):
        self.seen = x.detach()
        self.count()
        x = self.activation(super().forward(x)) * self.squared * self._factor + self.shift
        x = x * self.tensor * float(self.number) * self.settings.gain * self.space.factor * self.table["factor"]
        return self.last(self.bound(self.slots(self.wrapping(outer(Doubled.apply(x * GLOBAL * SCALES["one"]))))))
"""
PLACES = sorted(set(re.findall(r"@(\w+)@", CODE)))


def written(**changes):
    """A network of one's own, with other code in some places."""
    code = CODE
    for place in PLACES:
        code = code.replace(f"@{place}@", changes.get(place, "torch.sigmoid" if place == "super" else "1.0"))
    names = {"torch": torch, "nn": nn, "functional": functional, "functools": functools, "numpy": numpy}
    names |= {"types": types, "dataclasses": dataclasses, "__name__": "one_of_mine"}
    sys.modules["one_of_mine"] = types.ModuleType("one_of_mine")  # where dataclasses look names up
    try:
        exec(code, names)
    finally:
        del sys.modules["one_of_mine"]
    return names["Net"]()


class TestCodeOfOnesOwn:
    def test_is_the_same_for_the_same_code_on_other_lines_and_after_it_ran(self):
        model = written()
        before = hessian(model).fingerprint()
        model(X)
        assert hessian(model).fingerprint() == before == hessian(written()).fingerprint()

    @pytest.mark.parametrize("place", PLACES)
    def test_what_forward_reads_counts(self, place):
        changed = written(**{place: "torch.tanh" if place == "super" else "2.0"})
        assert hessian(changed).fingerprint() != hessian(written()).fingerprint()

    def test_a_traced_graph_counts(self):
        def traced(activation):
            class Net(nn.Module):
                def __init__(self):
                    super().__init__()
                    torch.manual_seed(3)
                    self.linear = nn.Linear(5, 3)

                def forward(self, x):
                    return activation(self.linear(x))

            return torch.fx.symbolic_trace(Net())

        tanh, again, sigmoid = map(traced, (torch.tanh, torch.tanh, torch.sigmoid))
        assert hessian(tanh).fingerprint() == hessian(again).fingerprint() != hessian(sigmoid).fingerprint()


class TestOthers:
    def test_parts_count_however_deep(self):
        def nested(last):
            matrix = torch.eye(4, dtype=torch.float64)
            A = Dense(matrix * (1 + last))
            for i in range(12):
                A = Dense(matrix * i) + A
            return A

        assert nested(0).fingerprint() == nested(0).fingerprint() != nested(1e-6).fingerprint()

    def test_what_is_deflated_counts(self):
        basis = torch.linalg.qr(torch.randn(9, 2, dtype=torch.float64)).Q
        turned = torch.linalg.qr(basis + 1e-5 * torch.eye(9, 2, dtype=torch.float64)).Q
        A = Dense(torch.eye(9, dtype=torch.float64))
        one, again, other = (
            A.deflated(es.OrthonormalSubspace(each)).fingerprint() for each in (basis, basis.clone(), turned)
        )
        assert one == again != other

    @pytest.mark.parametrize("operator", [es.linops.Stacked, es.linops.BlockDiagonal, es.linops.Kronecker])
    def test_blocks_are_told_by_their_entries(self, operator):
        def of(entry):
            blocks = [Diagonal(torch.tensor([1.0, entry])), Diagonal(torch.tensor([2.0, 3.0]))]
            return operator(*blocks) if operator is es.linops.Kronecker else operator(blocks)

        assert of(1.0).fingerprint() == of(1.0).fingerprint() != of(1.0001).fingerprint()

    def test_by_entries(self, device):
        matrix = torch.randn(6, 4, device=device)
        assert Dense(matrix).fingerprint() == Dense(matrix.mT.contiguous().mT).fingerprint()
        assert Dense(matrix).fingerprint() == Dense(matrix.cpu()).fingerprint()
        nearly = matrix.clone()
        nearly[2, 1] = torch.nextafter(nearly[2, 1], torch.tensor(9.0, device=device))
        assert Dense(matrix).fingerprint() != Dense(nearly).fingerprint()
        assert Dense(matrix).fingerprint() != Dense(matrix).T.fingerprint()
        assert Diagonal(matrix[:, 0]).fingerprint() != Diagonal(matrix[:, 1]).fingerprint()

    @pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20, 0.0])
    def test_by_products(self, scale, device):
        matrix = scale * torch.randn(40, 30, dtype=torch.float64, device=device)

        def function(matrix):
            return Function(lambda block: matrix @ block, matrix.shape, torch.float64, device)

        digits = function(matrix).fingerprint()
        assert function(matrix.clone()).fingerprint() == digits
        assert (
            Function(lambda block: -matrix @ (-(1 + 1e-15) * block), matrix.shape, torch.float64, device).fingerprint()
            == digits
        )
        for other in (-matrix, 1.01 * matrix, matrix.roll(1, 0), matrix.roll(1, 1)):
            assert (function(other).fingerprint() != digits) == (scale > 0)

    def test_without_entries(self):
        empty = Function(lambda block: block.new_zeros(0, block.shape[1]), (0, 3), torch.float32)
        assert empty.fingerprint() != Function(lambda block: block[:0], (0, 4), torch.float32).fingerprint()

    def test_rounding_of_single_precision_rarely_tells_them_apart(self):
        """Of 400 matrices whose entries are off by a part in a million: 12 rounded numbers each, so one is expected."""
        told_apart = 0
        for seed in range(400):
            matrix = torch.randn(50, 50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            noise = 1 + 1e-6 * torch.randn(50, 50, generator=torch.Generator().manual_seed(-seed), dtype=torch.float64)
            first, second = (
                Function(lambda block, entries=entries: entries @ block, (50, 50), torch.float64)
                for entries in (matrix, matrix * noise)
            )
            told_apart += first.fingerprint() != second.fingerprint()
        assert told_apart <= 6  # of a Poisson law of mean 1.2, one in 2,000
