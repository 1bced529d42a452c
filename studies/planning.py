"""What a study will take, before it is run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import attrs
import torch

from ..linops import Hessian
from ..linops.distributed import DataParallel
from ..solvers import DenseEigh, SolvePlan
from ..solvers.planning import size_text
from .checkpoints import checkpoints_of
from .options import DTYPES, SPLITS, StudyOptions
from .problem import Problem
from .solves import StepSolver

_MOST = 2 / 3  # of the time of a record: a part that takes more is where it is slow


@attrs.frozen(kw_only=True)
class StudyPlan:
    """What the solves of a study's Hessians are expected to take, with the preparation of each Hessian.

    Training, the comparison with masks, and the solves of GGNs, of other data and of layers by ``--compare``, some
    three times the products, are not among it.

    Attributes:
        study: its name.
        records: how many there are.
        solve: the plan of the solve of a record, at the first step.
        exact: that of the dense diagonalisation of a record, where one is asked for.
        compare: whether a record has comparisons, whose solves come beside these.
    """

    study: str
    records: int
    solve: SolvePlan
    exact: SolvePlan | None
    compare: bool

    @property
    def seconds_per_record(self) -> float:
        """Wall time of the solves of a record, and of what its Hessian chooses and builds, which each has its own."""
        return self.solve.seconds_spent + self.solve.seconds + (0.0 if self.exact is None else self.exact.seconds)

    @property
    def seconds(self) -> float:
        """Wall time of all solves."""
        return self.records * self.seconds_per_record

    @property
    def memory(self) -> int:
        """Bytes that a record takes at most."""
        return max(plan.memory for plan in self._plans)

    @property
    def bottleneck(self) -> str:
        """Where it would be slow, and what would help, in a sentence."""
        exact = 0.0 if self.exact is None else self.exact.seconds
        parts = {
            "the dense diagonalisation: leave out --exact": exact,
            "the preparation of products, anew for each record: fewer take less": self.solve.seconds_spent,
            "products: fewer data or a smaller k take less": self.solve.seconds_in_products,
            "the algebra of the solver: a smaller k, or more threads": self.solve.seconds_outside,
        }
        slowest = max(parts, key=lambda part: parts[part])
        share = parts[slowest] / self.seconds_per_record
        if share < _MOST:
            return "No part takes most of the time."
        return f"{share:.0%} of the time goes into {slowest}."

    @property
    def _plans(self) -> list[SolvePlan]:
        return [self.solve] if self.exact is None else [self.solve, self.exact]

    def to_dict(self) -> dict[str, Any]:
        """The plan as numbers, strings and dictionaries, ready for JSON."""
        derived = ("seconds_per_record", "seconds", "memory", "bottleneck")
        return {
            "study": self.study,
            "records": self.records,
            **{name: getattr(self, name) for name in derived},
            "solve": self.solve.to_dict(),
            "exact": None if self.exact is None else self.exact.to_dict(),
            "compare": self.compare,
        }

    def __str__(self) -> str:
        """The plan as tables of a few lines."""
        beside = (
            ", and comparisons, some three times the products (--no-compare leaves them out)" if self.compare else ""
        )
        return "\n".join(
            [
                *(f"{plan}\n" for plan in self._plans),
                f"{self.study}: {self.records} records of {self.seconds_per_record:.3g} s, {self.seconds:.3g} s in "
                f"all, beside training and masks{beside}; {size_text(self.memory)} of memory",
                self.bottleneck,
            ]
        )


def plan_study(problem: Problem, options: StudyOptions) -> StudyPlan:
    """The plan of a study, by its Hessian at the first step on the first of its splits; nothing is trained or kept.

    Raises:
        ValueError: a k that is larger than the number of trainable parameters.
        FileNotFoundError: data that are missing.

    Cost: that of `EigenSolver.plan`.
    """
    H, solver = first_hessian(problem, options), options.eigensolver()
    return StudyPlan(
        study=problem.name,
        records=record_count(problem, options),
        solve=solver.plan(H),
        exact=DenseEigh(k=options.k).plan(H) if options.exact else None,
        compare=options.compare,
    )


def record_count(problem: Problem, options: StudyOptions) -> int:
    """How many records a study has."""
    return len(problem.recorded(options.steps)) * len(SPLITS[options.split])


def first_hessian(problem: Problem, options: StudyOptions) -> Hessian | DataParallel:
    """The Hessian of a study at its first step, on the first of its splits.

    Raises:
        FileNotFoundError: data that are missing.

    Cost: a forward pass over the data.
    """
    problem = problem if options.weights is None else problem.with_weights(Path(options.weights))
    data, dtype = problem.load(problem.resolved(options.data_request())), DTYPES[options.dtype]
    with tempfile.TemporaryDirectory() as directory:
        (checkpoint,) = checkpoints_of(
            problem,
            data,
            directory,
            steps=problem.recorded(options.steps)[0],
            seed=options.seed,
            dtype=dtype,
            device=torch.device(options.device),
        )
        model = checkpoint.restore(problem, data, device=options.device)
    return StepSolver(problem, options, data).operator(Hessian, model, SPLITS[options.split][0])
