"""A study that takes a moment: 27 parameters, three records, two splits."""

import os
from pathlib import Path
from unittest import mock

import torch
from torch import nn

import eigenspan as es
from eigenspan.studies.drawing import svg_of, write_figure
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
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    batch_size=10,
    steps=4,
    record_every=2,
    k=6,
    table_k=(2, 6),
)


UNTIMED = {"report": None, "seconds": None}
"""In the place of what two runs of one record differ in."""


def options(**changes):
    return StudyOptions(**{"k": 6, "steps": 4, "dtype": "float64", **changes})


def run(directory, **changes):
    return OverlapStudy(SMALL, options(**changes), directory).run()


def unarranged(figure, stem):
    """Writes both files of a figure as `write_figure` does, but does not arrange it: how it looks is tested with it."""
    figure.set_layout_engine("none")
    write_figure(figure, stem)


def only_vectors(figure, stem):
    """Writes what a page shows of a figure, not arranged."""
    figure.set_layout_engine("none")
    Path(f"{stem}.svg").write_bytes(svg_of(figure))


def shared(mesh, directory, stop=None):
    """The first record of the study by the ranks of a job; the last one dies in the product after so many.

    Returns the widths of the blocks that this rank multiplied a Hessian by.
    """
    products, matmat = [], es.Hessian._matmat

    def counted(self, X):
        if len(products) == stop and mesh.get_rank() == mesh.size() - 1:
            os._exit(17)
        products.append(X.shape[1])
        return matmat(self, X)

    with mock.patch.object(es.Hessian, "_matmat", counted):
        OverlapStudy(SMALL, options(steps=0), directory, mesh).run()
    return products
