"""What each rank of a job does with checkpoints in tests: solves that are interrupted, and go on."""

import contextlib
import errno
import functools
import os
import warnings
from unittest import mock

import torch
from checkpoint_cases import Fragile, InterruptedSolveError
from distributed_cases import batches, dense, hessian, message_of, rectangle

import eigenspan as es
from eigenspan.linops import Counted, Dense
from eigenspan.linops.distributed import ColumnParallel, DataParallel, RowSharded, share_of, whole
from eigenspan.solvers import BlockStore

LANCZOS = es.BlockLanczos(k=4, block_size=3, tol=1e-7)
SOLVERS = {
    "columns": LANCZOS,
    "rows": LANCZOS,
    "restarts": es.BlockLanczos(k=3, block_size=3, tol=1e-7, max_basis=16),
    "iteration": es.SubspaceIteration(k=4, tol=1e-2, block_size=4),
    "both sides": es.BlockGolubKahan(k=3, block_size=2),
    "two passes": es.SketchedEigh(k=4, outer=15, block_size=4, two_pass=True),
    "sketch": es.SketchedEigh(k=4, outer=15, block_size=4),
    "choice": es.Auto(k=3, memory_budget=100_000),
    "triplets": es.BlockGolubKahan(k=3, block_size=2),
    "gram": es.GramEigh(k=4),
    "layers": lambda n: es.Auto(k=min(2, n)),
    "data": LANCZOS,
}
SPREAD = ("rows", "sketch", "restarts", "iteration", "both sides", "two passes")
ALLOWED = {"gram": 3, "choice": 1, "restarts": 9, "iteration": 7, "two passes": 6}  # blocks in place of four
SIDES = ("triplets", "both sides")
FOREVER = 10**6


@functools.cache
def matrix():
    """The Hessian as a matrix."""
    return dense(hessian(batches()))


@functools.cache
def data_parallel(mesh):
    """The Hessian of one process, or the shares of it."""
    return hessian(batches()) if mesh is None else DataParallel(hessian(share_of(batches(), mesh)), mesh)


def operator(name, mesh):
    """The operator of a solve, shared out among ranks, or that of one process."""
    if name in ("data", "layers"):
        return data_parallel(mesh)
    A = Dense(rectangle()) if name in SIDES else Dense(rectangle()[:12]) if name == "gram" else matrix()
    if mesh is None:
        return A
    return (RowSharded if name in SPREAD else ColumnParallel)(A, mesh)


def solve(name, mesh=None, checkpoint=None, blocks=FOREVER, interruption=Fragile):
    """What a solve finds, if it is not interrupted, and how many columns it multiplied."""
    A, solver, found = interruption(operator(name, mesh), blocks), SOLVERS[name], {}
    with contextlib.suppress(InterruptedSolveError):
        if name == "layers":
            parts = es.MaskSubspace.parts(A.A.parameters)
            layers = es.solve_diagonal_blocks(solver, A, parts, block_size=20, checkpoint=checkpoint).values()
            found = {
                "values": torch.cat([layer.eigenvalues for layer in layers]),
                "vectors": torch.cat([layer.eigenvectors.flatten() for layer in layers]),
            }
        elif name in SIDES:
            svd = solver.solve(A, checkpoint=checkpoint)
            found = {"values": svd.singular_values, "vectors": whole(svd.left_vectors)}
        else:
            start = matrix().matrix[:, :4] if name == "rows" else None
            eig = solver.solve(A.T @ A if name == "gram" else A, start=start, checkpoint=checkpoint)
            found = {"values": eig.eigenvalues, "vectors": whole(eig.eigenvectors), "notes": list(eig.report.notes)}
    return {**found, "products": A.products}


class Dying(Counted):
    """A, whose last rank dies in the block after so many."""

    def __init__(self, A, blocks):
        super().__init__(A)
        self.blocks = blocks

    def _counted(self, product, X):
        if self.calls == self.blocks and torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
            os._exit(17)
        return super()._counted(product, X)


def interrupted(mesh, folder):
    """All solves are interrupted, in a job the last one by the death of a rank; keeps what the others multiplied."""
    made = {
        name: solve(name, mesh, folder / name, ALLOWED.get(name, 4))["products"] for name in SOLVERS if name != "data"
    }
    if mesh is None or mesh.get_rank() == 0:
        torch.save(made, folder / "made.pt")
    solve("data", mesh, folder / "data", 4, Fragile if mesh is None else Dying)


def resumed(mesh, folder):
    """What all solves find as they go on, and what those of spread rows say where they may not."""

    def found(name):
        try:
            return solve(name, mesh, folder / name)
        except RuntimeError as error:  # of one process, whose vectors are not kept
            return str(error)

    return {name: found(name) for name in SOLVERS}


def repeated(mesh, folder):
    """All solves beside undisturbed ones on the same ranks, then what goes wrong."""
    return {
        "undisturbed": {name: solve(name, mesh) for name in SOLVERS},
        "resumed": resumed(mesh, folder / "same"),
        "damaged": {name: solve(name, mesh, folder / "damaged" / name) for name in ("data", "rows")},
        "from one process": resumed(mesh, folder / "one"),
        "finished": solve("data", mesh, folder / "same" / "data"),
        "refused": refusals(mesh, folder),
        "full": full(mesh, folder),
    }


def refusals(mesh, folder):
    """What each rank says of checkpoints that it cannot have."""
    A = operator("columns", mesh)
    said = [
        message_of(lambda: LANCZOS.solve(2.0 * A, checkpoint=folder / "same" / "columns")),
        message_of(lambda: LANCZOS.solve(A, checkpoint=folder / "file" / "folder")),
    ]
    lock = BlockStore.open(folder / "same" / "rows").hold() if mesh.get_rank() == 0 else contextlib.nullcontext()
    torch.distributed.barrier()
    with lock:
        said.append(message_of(lambda: solve("rows", mesh, folder / "same" / "rows")))
    return said


def full(mesh, folder):
    """A solve on whose first rank the disk is full, where warnings are ignored, and where they are errors."""
    said = []
    no_space = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch.object(BlockStore, "write", side_effect=no_space if mesh.get_rank() == 0 else AssertionError):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said.append(solve("columns", mesh, folder / "full"))
        said.append(message_of(lambda: solve("columns", mesh, folder / "full again")))
    return said


def both(mesh, folder):
    """Data shared out along one axis and rows along the other, undisturbed, interrupted and resumed."""
    found = {}
    for name in ("rows", "sketch"):
        A = RowSharded(DataParallel(hessian(share_of(batches(), mesh["data"])), mesh["data"]), mesh["rows"])
        fragile, again = Fragile(A, 4), Counted(A)
        expected = SOLVERS[name].solve(A)
        with contextlib.suppress(InterruptedSolveError):
            SOLVERS[name].solve(fragile, checkpoint=folder / name)
        eig = SOLVERS[name].solve(again, checkpoint=folder / name)
        same = all(
            torch.equal(whole(getattr(eig, part)), whole(getattr(expected, part)))
            for part in ("eigenvalues", "eigenvectors")
        )
        found[name] = {"same": same, "products": [fragile.products, again.products, expected.report.products]}
    return found
