"""A study that takes a moment: 27 parameters, three records, two splits."""

import torch
from torch import nn

from eigenspan.studies.options import StudyOptions
from eigenspan.studies.overlap_study import OverlapStudy
from eigenspan.studies.problem import Problem, ProblemData


def small_model():
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))


def small_data(request=None):
    generator = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(60, 4, generator=generator), torch.randint(0, 3, (60,), generator=generator)
    hessian = {"train": (inputs[:20], targets[:20]), "test": (inputs[40:], targets[40:])}
    return ProblemData(train=(inputs[:40], targets[:40]), hessian=hessian, description="random points")


SMALL = Problem(
    name="small",
    title="A small study",
    model=small_model,
    loss=nn.CrossEntropyLoss(),
    sources={"embedded": small_data, "folder": small_data},
    optimiser=lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    batch_size=10,
    steps=4,
    record_every=2,
    k=6,
    table_k=(2, 6),
)


def options(**changes):
    return StudyOptions(**{"k": 6, "steps": 4, "dtype": "float64", **changes})


def run(directory, **changes):
    return OverlapStudy(SMALL, options(**changes), directory).run()
