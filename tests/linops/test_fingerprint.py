"""Fingerprints: the same for the same matrix however it is computed, and another for another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


class TestOthers:
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
