"""Eigenspaces beside those of other operators and of single tensors, as by hand."""

import logging

import pytest
import torch
from study_cases import SMALL, run, small_data
from torch import nn

import eigenspan as es
from eigenspan.linops import Dense, Structure
from eigenspan.studies import tables
from eigenspan.studies.comparison_plots import comparison_figure, layer_matrices
from eigenspan.studies.comparisons import LAYER_K, comparison, layer_eigenpairs
from eigenspan.studies.findings import findings
from eigenspan.studies.results import records_of
from eigenspan.studies.training import train


def model_at(directory, step):
    """The network at a step of the study, whose training is there already."""
    options = {"steps": 4, "record_every": 2, "seed": 0, "dtype": torch.float64, "device": "cpu"}
    there = train(SMALL, small_data(), directory / "checkpoints", **options)
    (checkpoint,) = [checkpoint for checkpoint in there if checkpoint.step == step]
    return checkpoint.restore(SMALL, small_data(), device="cpu")


@pytest.fixture(scope="module")
def study(tmp_path_factory, finished):
    directory = tmp_path_factory.mktemp("study")
    return directory, finished(directory, split="both")


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("step", [0, 2, 4])
def test_records_hold_overlaps_with_other_operators(study, split, step):
    directory, results = study
    model, loss = model_at(directory, step), nn.CrossEntropyLoss()
    batches = {name: (x.double(), y) for name, (x, y) in small_data().hessian.items()}
    other = {"train": "test", "test": "train"}[split]
    words = {"train": "training", "test": "test"}
    untimed = {"engine": "retained", "chunk_size": 9}
    eig = es.DenseEigh(k=6).solve(es.Hessian(model, loss, batches[split], **untimed))
    expected = {
        "GGN": es.DenseEigh(k=6).solve(es.GGN(model, loss, batches[split], **untimed)),
        f"Hessian on {words[other]} data": es.DenseEigh(k=6).solve(es.Hessian(model, loss, batches[other], **untimed)),
    }
    (found,) = [record for record in results["records"] if (record["step"], record["split"]) == (step, split)]
    assert found["comparison"].keys() == expected.keys()
    for name, exact in expected.items():
        by_hand = [es.overlap(eig.subspace.leading(k), exact.subspace.leading(k)) for k in range(1, 7)]
        # Overlaps of single eigenvectors are as exact as residuals over gaps, which are 1e-9 over 1e-3 here.
        assert found["comparison"][name] == pytest.approx(by_hand, abs=1e-4)


def test_what_an_operator_does_not_have_is_not_compared():
    vectors, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    full = Dense(vectors @ torch.arange(8.0, 0, -1).double().diag() @ vectors.T, Structure.SYMMETRIC)
    two = Dense(vectors[:, :2] @ torch.tensor([3.0, 1.0]).double().diag() @ vectors[:, :2].T, Structure.SYMMETRIC)
    eig, other = (es.DenseEigh(k=4).solve(A) for A in (full, two))
    (curve,) = comparison(eig, {"two": other}).values()
    assert curve[:2] == pytest.approx([1, 1])
    assert torch.tensor(curve[2:]).isnan().all()


def test_layers_are_those_of_diagonal_blocks(study):
    directory, _ = study
    inputs, targets = small_data().hessian["train"]
    H = es.Hessian(model_at(directory, 4), nn.CrossEntropyLoss(), (inputs.double(), targets))
    matrix, found = H.to_dense(), layer_eigenpairs(H, seed=0)
    assert list(found) == list(H.parameters.names)
    for name, part in H.parameters.slices.items():
        values = torch.linalg.eigvalsh(matrix[part, part])
        leading = values[values.abs().argsort(descending=True)][:LAYER_K]
        torch.testing.assert_close(found[name].eigenvalues, leading, rtol=0, atol=1e-9 * float(values.abs().max()))


def test_of_many_tensors_the_largest_are_followed(tmp_path, monkeypatch, caplog):
    """Each takes a solve of its own a record: of a thousand tensors nobody would wait for all."""
    monkeypatch.setattr(tables, "TENSORS", 2)
    caplog.set_level(logging.INFO, logger="eigenspan")
    results = run(tmp_path, steps=2)  # of tensors with 12, 3, 9 and 3 entries
    assert "comparisons follow the 2 largest of 4 tensors" in caplog.text
    assert list(layer_matrices(results, "train")) == ["0.weight", "2.weight"]
    drawn = comparison_figure(results, records_of(results, "train"))
    assert "Only the 2 largest of 4 tensors are followed." in drawn.caption
    (layers,) = (tmp_path / "eigenspaces").glob("00000002-*-layers")
    assert sorted(file.stem for file in layers.iterdir()) == ["0.weight", "2.weight"]


def test_layers_of_steps_are_compared_and_drawn(study):
    _, results = study
    for split in ("train", "test"):
        matrices = layer_matrices(results, split)
        assert len(matrices) == len(results["parameters"]["names"])
        for matrix in matrices.values():
            assert matrix.shape == (3, 3)
            assert matrix.diagonal() == pytest.approx([1, 1, 1])
        drawn = comparison_figure(results, records_of(results, split))
        assert [len(axes.lines) for axes in drawn.figure.axes[:2]] == [3, 3]
    assert len(findings(results)["Beside other operators"]) == 2


def test_a_study_without_comparisons(tmp_path):
    results = run(tmp_path, compare=False)
    assert all("comparison" not in record for record in results["records"])
    assert "Beside other operators" not in findings(results)
    assert not list((tmp_path / "eigenspaces").glob("*-layers"))


def test_one_record_is_drawn_without_layers(tmp_path, finished):
    results = finished(tmp_path, steps=0)
    drawn = comparison_figure(results, records_of(results, "train"))
    assert [bool(axes.lines) for axes in drawn.figure.axes] == [True, True]
    assert "step before" not in drawn.caption


def test_a_lost_layer_says_what_to_remove(study, tmp_path):
    directory, _ = study
    (directory / "tracking" / "train.json").unlink()
    lost = next((directory / "eigenspaces" / "00000002-train-layers").iterdir())
    kept = lost.read_bytes()
    lost.unlink()
    with pytest.raises(ValueError, match=r"layers.*missing: remove .*00000002-train.json"):
        run(directory, split="both")
    lost.write_bytes(kept)
    assert run(directory, split="both")["tracking"]["train"]
