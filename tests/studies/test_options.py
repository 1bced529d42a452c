"""What the options of a study may be."""

from __future__ import annotations

import json

import attrs
import numpy
import pytest
import torch
from study_cases import small_data, small_model

from eigenspan.studies import OverlapStudy, StudyOptions, own_problem

PLAIN = StudyOptions(k=3, steps=4, seed=2, hessian_samples=9, image_size=8, dtype="float64", device="cpu")


def test_integers_of_numpy_and_objects_of_pytorch_are_written_as_what_they_name():
    found = StudyOptions(
        k=numpy.int64(3),
        steps=numpy.int32(4),
        seed=numpy.uint8(2),
        hessian_samples=numpy.int64(9),
        image_size=numpy.int64(8),
        dtype=torch.float64,
        device=torch.device("cpu"),
    )
    assert found == PLAIN
    assert json.loads(json.dumps(attrs.asdict(found))) == attrs.asdict(PLAIN)


@pytest.mark.parametrize("name", ["k", "steps", "seed"])
@pytest.mark.parametrize("value", [3.0, "3", True, None])
def test_what_is_no_integer_is_refused_by_name(name, value):
    with pytest.raises(TypeError, match=f"{name} is an integer, got {value!r}"):
        attrs.evolve(PLAIN, **{name: value})


def test_a_dtype_that_studies_do_not_compute_in_is_refused():
    with pytest.raises(ValueError, match="dtype is one of float32, float64; got 'float16'"):
        StudyOptions(k=3, steps=0, dtype=torch.float16)


@pytest.mark.parametrize(
    ("batches", "own"),
    [
        (["test"], {"steps": 0, "split": "test", "compare": False}),
        (["train", "test"], {"steps": 0, "split": "train", "compare": True}),
    ],
)
def test_what_is_not_given_is_as_the_problem_has_it(tmp_path, batches, own):
    network, data = small_model(), small_data()
    problem = own_problem(
        lambda: network, torch.nn.CrossEntropyLoss(), {split: data.hessian[split] for split in batches}, k=4
    )
    assert StudyOptions.of(problem) == StudyOptions(k=4, **own)
    assert StudyOptions.of(problem, k=2, compare=None) == StudyOptions(k=2, **own)
    results = OverlapStudy(problem, StudyOptions.of(problem, k=2), tmp_path).run()
    assert [record["split"] for record in results["records"]] == [own["split"]]
    assert results["options"]["compare"] is own["compare"]
