"""Eigenspaces followed through training: against themselves, masks, the gradient, and other operators."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from operator import index
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from ..linops import CurvatureOperator, EigenSubspace, LinearOperator, MaskSubspace, Subspace, magnitude
from ..linops.files import write_json
from ..metrics import overlap, overlap_curve
from ..solvers import BlockLanczos, EigenDecomposition, EigenSolver, solve_diagonal_blocks

_CLOSE = 0.75  # overlap of the last two eigenspaces, from which on the last one tells enough of the next
_FEW = 12  # pairs: of more, a block Lanczos method has too little room in its first block


@attrs.frozen(eq=False, repr=False)
class Snapshot:
    """What was found at one step.

    Attributes:
        step: of the training.
        eig: the leading eigenpairs of the operator that is followed.
        scores: (n,) tensors by name, whose largest entries make up masks.
        gradient: (n,), or None.
        others: the leading eigenpairs of other operators at this step, by name.
        layers: those of diagonal blocks of the operator, by name, in the coordinates of the blocks.
    """

    step: int
    eig: EigenDecomposition
    scores: dict[str, Tensor]
    gradient: Tensor | None
    others: dict[str, EigenDecomposition] = attrs.field(factory=dict)
    layers: dict[str, EigenDecomposition] = attrs.field(factory=dict)

    def gradient_share(self) -> Tensor:
        """The share of ‖g‖² in the span of the first k eigenvectors for every k = 1, ..., K, (K,) float64.

        A random direction has the share k / n; a zero gradient has none, and NaN.

        Raises:
            ValueError: no gradient.

        Source: Gur-Ari, Roberts & Dyer (2018), Gradient descent happens in a tiny subspace.
        """
        if self.gradient is None:
            raise ValueError(f"the snapshot at step {self.step} has no gradient; give it to record(gradient=)")
        gradient = self.gradient.to(self.eig.eigenvectors)
        squared = gradient.double().square().sum()
        return (self.eig.eigenvectors.mT @ gradient).double().square().cumsum(0) / squared

    def __repr__(self) -> str:
        return f"<Snapshot at step {self.step}: {self.eig!r}>"


class EigenspaceTracker:
    """Follows the leading eigenspace of an operator through training, and compares all steps with one another.

    Each `record` solves for the leading pairs at one step, from the last eigenspace where that pays: if the two before
    overlapped by 0.75 or more, and for `BlockLanczos` up to twelve pairs. An eigenspace that turns faster, as that of a
    Hessian does within tens of steps of SGD, is found as fast from random vectors; and no start can save more than
    half of the two products for each pair that hundreds of them take, since one confirms it.

    All eigenvectors are kept, n K numbers a record.

    Args:
        solver: what solves for the pairs, such as ``BlockLanczos(k=100)``.
        warm_start: whether to start from the last eigenspace where that pays.

    Attributes:
        snapshots: one a record.
    """

    def __init__(self, solver: EigenSolver, *, warm_start: bool = True) -> None:
        if not isinstance(solver, EigenSolver):
            raise TypeError(f"an EigenspaceTracker takes an EigenSolver, got {type(solver).__name__}")
        self.solver, self.warm_start = solver, warm_start
        self.snapshots: list[Snapshot] = []

    @torch.no_grad()
    def record(
        self,
        step: int,
        operator: LinearOperator,
        *,
        scores: Mapping[str, Tensor] | None = None,
        gradient: Tensor | None = None,
        others: Mapping[str, LinearOperator] | None = None,
        layers: Mapping[str, Subspace] | None = None,
        progress: bool = False,
    ) -> Snapshot:
        """Solves at one step, and keeps what was found.

        Args:
            step: of the training, later than those before.
            operator: symmetric, (n, n), the one that is followed, such as the Hessian on training data.
            scores: (n,) by name; by default the magnitudes of the parameters, for a curvature operator.
            gradient: (n,); by default that of a curvature operator.
            others: operators to compare with at this step, by name, such as the Hessian on test data or the GGN.
            layers: subspaces by name, such as ``MaskSubspace.parts(H.parameters)``: the compressions of the operator to
                them are solved for as well, in passes that they share.
            progress: whether solvers show bars.

        Raises:
            TypeError: as the solver; a step that is no integer.
            ValueError: as the solver; a step that is not later, another n than before, other names than in the records
                before, scores of another size or with NaN, or other operators of another size.

        Cost: a solve for each operator and layer; a product for a column of a layer is one of the whole operator.
        """
        step = index(step)
        self._require_next(step, operator.shape[0], repr(operator))
        if isinstance(operator, CurvatureOperator):
            scores = {"magnitude": magnitude(operator.parameters)} if scores is None else scores
            gradient = operator.gradient() if gradient is None else gradient
        self._require_same_contents(_contents(scores, gradient, others, layers))
        for name, values in [*(scores or {}).items(), *([] if gradient is None else [("gradient", gradient)])]:
            if not isinstance(values, Tensor) or values.shape != (operator.shape[0],):
                shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
                raise ValueError(f"{name} has shape {shape}, {operator} takes a tensor ({operator.shape[0]},)")
            if bool(values.isnan().any()):
                raise ValueError(f"{name} holds NaN at step {step}; mend the model first")
        for name, other in (others or {}).items():
            if other.shape != operator.shape or other.dtype != operator.dtype:
                raise ValueError(f"{name!r}, {other}, is not comparable with {operator}: another shape or dtype")
        snapshot = Snapshot(
            step,
            self.solver.solve(operator, self._start(), progress),
            {name: values.detach().clone() for name, values in (scores or {}).items()},
            None if gradient is None else gradient.detach().clone(),
            {name: self.solver.solve(other, self._start(name), progress) for name, other in (others or {}).items()},
            solve_diagonal_blocks(self._solver_of, operator, layers, progress=progress) if layers else {},
        )
        self.add(snapshot)
        return snapshot

    def add(self, snapshot: Snapshot) -> None:
        """Keeps what was found elsewhere, such as eigenpairs that were loaded from files.

        Raises:
            ValueError: a step that is not later, another n than before, or other names than in the records before.
        """
        self._require_same_contents(_contents(snapshot.scores, snapshot.gradient, snapshot.others, snapshot.layers))
        self._require_next(snapshot.step, snapshot.eig.eigenvectors.shape[0], repr(snapshot))
        self.snapshots.append(snapshot)

    @property
    def steps(self) -> list[int]:
        """Those that were recorded."""
        return [snapshot.step for snapshot in self.snapshots]

    def eigenspaces(self, k: int) -> Tensor:
        """Overlaps of the leading k eigenvectors of every step with those of every other, (T, T) float64."""
        spaces = self._eigenspaces(k)
        return _matrix(spaces, spaces)

    def masks(self, name: str, k: int) -> Tensor:
        """Overlaps of the masks of the k largest scores of that name of every step, (T, T): the share in common."""
        masks = self._masks(name, k)
        return _matrix(masks, masks)

    def masks_with_eigenspaces(self, name: str, k: int) -> Tensor:
        """Overlaps of the mask of step i with the eigenspace of step j, (T, T) float64."""
        return _matrix(self._masks(name, k), self._eigenspaces(k))

    def with_others(self, name: str) -> Tensor:
        """Overlaps with the eigenspaces of another operator at the same step for every k = 1, ..., K, (T, K) float64.

        Raises:
            ValueError: a step without that operator.
        """
        others = self._named(name, "operator", lambda snapshot: snapshot.others)
        pairs = zip(self.snapshots, others, strict=True)
        return torch.stack([overlap_curve(snapshot.eig.subspace, other.subspace) for snapshot, other in pairs])

    def layers(self, name: str, k: int) -> Tensor:
        """`eigenspaces` of one diagonal block, (T, T) float64; of its whole space where that is smaller than k."""
        found = self._named(name, "block", lambda snapshot: snapshot.layers)
        spaces = [each.subspace.leading(min(k, len(each.eigenvalues))) for each in found]
        return _matrix(spaces, spaces)

    def gradient_shares(self) -> Tensor:
        """The share of ‖g‖² in the first k eigenvectors, for k = 1 … K, step by step: (T, K) float64."""
        self._require_records()
        return torch.stack([snapshot.gradient_share() for snapshot in self.snapshots])

    def to_dict(self, ks: Iterable[int]) -> dict[str, Any]:
        """All comparisons at the dimensions ``ks``, as plain data: matrices are lists of rows.

        Raises:
            ValueError: nothing recorded, or a k beyond what was solved for.
        """
        self._require_records()
        first = self.snapshots[0]
        result: dict[str, Any] = {
            "steps": self.steps,
            "solver": repr(self.solver),
            "products": [snapshot.eig.report.products for snapshot in self.snapshots],
            "others": {name: self.with_others(name).tolist() for name in first.others},
            "by_k": {},
        }
        if first.gradient is not None:
            result["gradient_shares"] = self.gradient_shares().tolist()
        for k in ks:
            result["by_k"][str(k)] = {
                "eigenspaces": self.eigenspaces(k).tolist(),
                "layers": {name: self.layers(name, k).tolist() for name in first.layers},
                "masks": {name: self.masks(name, k).tolist() for name in first.scores},
                "masks_with_eigenspaces": {
                    name: self.masks_with_eigenspaces(name, k).tolist() for name in first.scores
                },
            }
        return result

    def save(self, path: str | os.PathLike[str], ks: Iterable[int]) -> None:
        """Writes `to_dict` as JSON. The file appears whole or not at all; eigenvectors are not in it.

        Raises:
            OSError: the file cannot be written.
            ValueError: as `to_dict`.
        """
        write_json(self.to_dict(ks), Path(path))

    def __repr__(self) -> str:
        steps = f"steps {self.steps[0]} … {self.steps[-1]}" if self.snapshots else "nothing yet"
        return f"<EigenspaceTracker of {len(self.snapshots)} records, {steps}: {self.solver!r}>"

    def _require_next(self, step: int, size: int, what: str) -> None:
        if not self.snapshots:
            return
        last = self.snapshots[-1]
        if step <= last.step:
            raise ValueError(f"records go forward: step {step} does not come after {last.step}")
        n = last.eig.eigenvectors.shape[0]
        if size != n:
            raise ValueError(f"{what} is of another dimension than the records before, {n}")

    def _require_same_contents(self, contents: dict[str, list[str]]) -> None:
        if not self.snapshots:
            return
        first = self.snapshots[0]
        wanted = _contents(first.scores, first.gradient, first.others, first.layers)
        if contents != wanted:
            raise ValueError(f"all records hold the same: the first one {wanted}, this one {contents}")

    def _require_records(self) -> None:
        if not self.snapshots:
            raise ValueError("nothing was recorded yet")

    def _start(self, name: str | None = None) -> EigenSubspace | None:
        """The last eigenspace of an operator, the followed one or one of the others, where starting from it pays."""
        past = self.snapshots[-2:]
        known = [snapshot.eig if name is None else snapshot.others.get(name) for snapshot in past]
        if not self.warm_start or not self.solver.uses_start or len(known) < 2 or None in known:
            return None
        if isinstance(self.solver, BlockLanczos) and self.solver.k > _FEW:
            return None
        before, last = (found.subspace for found in known if found is not None)
        return last if overlap(before, last) >= _CLOSE else None

    def _solver_of(self, n: int) -> EigenSolver:
        return attrs.evolve(self.solver, k=min(self.solver.k, n))

    def _eigenspaces(self, k: int) -> list[Subspace]:
        self._require_records()
        return [snapshot.eig.subspace.leading(k) for snapshot in self.snapshots]

    def _masks(self, name: str, k: int) -> list[Subspace]:
        scores = self._named(name, "scores", lambda snapshot: snapshot.scores)
        dtype = self.snapshots[0].eig.eigenvectors.dtype
        return [MaskSubspace.top_k(each, k).to(dtype=dtype) for each in scores]

    def _named(self, name: str, kind: str, find: Callable[[Snapshot], dict[str, Any]]) -> list[Any]:
        """What all snapshots have by that name."""
        self._require_records()
        first = self.snapshots[0]  # all others hold the same
        if name not in find(first):
            known = ", ".join(find(first)) or "none"
            raise ValueError(f"step {first.step} has no {kind} {name!r}; it has {known}")
        return [find(snapshot)[name] for snapshot in self.snapshots]


def _contents(
    scores: Mapping[str, Any] | None, gradient: Any, others: Mapping[str, Any] | None, layers: Mapping[str, Any] | None
) -> dict[str, list[str]]:
    """The names of what a record holds beside the eigenpairs."""
    named = {
        "scores": scores,
        "others": others,
        "layers": layers,
        "gradient": None if gradient is None else {"given": gradient},
    }
    return {kind: sorted(held or {}) for kind, held in named.items()}


def _matrix(rows: list[Subspace], columns: list[Subspace]) -> Tensor:
    """Overlaps of each with each, (T, T) float64."""
    if rows is columns:  # symmetric
        upper = torch.tensor(
            [[overlap(A, B) if j >= i else 0.0 for j, B in enumerate(columns)] for i, A in enumerate(rows)],
            dtype=torch.float64,
        )
        return upper + upper.triu(1).mT
    return torch.tensor([[overlap(A, B) for B in columns] for A in rows], dtype=torch.float64)
