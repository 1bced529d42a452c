"""Eigenpairs of many diagonal blocks of one operator, whose products share their passes."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from tqdm import tqdm

from ..linops import LinearOperator, Subspace
from ..linops.basic import require_count
from .report import ConvergenceWarning, solver_to_dict
from .results import EigenDecomposition
from .shared_log import Log, log_of
from .solver import EigenSolver
from .watched import Watched


def solve_diagonal_blocks(
    solver: Callable[[int], EigenSolver],
    A: LinearOperator,
    blocks: Mapping[str, Subspace],
    *,
    block_size: int | None = None,
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
) -> dict[str, EigenDecomposition]:
    """The leading eigenpairs of the compressions Bᵀ A B of A to several subspaces, by name.

    With the masks of single parameter tensors, ``MaskSubspace.parts(H.parameters)``, these are the Hessians layer by
    layer. All are solved for at once: whenever each waits for a product, all are made by one product of A with the
    blocks side by side. So the passes through the data are those of the slowest, not the sum, and A is never multiplied
    by two at a time. The results are those of ``solver.solve(A.restricted(S))``, to the rounding of wider blocks.

    Args:
        solver: a function of the dimension of a block that gives its solver, such as
            ``lambda n: BlockLanczos(k=min(10, n))``.
        A: a symmetric operator, (n, n).
        blocks: subspaces of Rⁿ by name.
        block_size: how many columns A is multiplied by at once, which bounds the memory; None for all that are asked
            for, in the fewest passes.
        progress: whether to show a bar that counts columns.
        checkpoint: a folder to keep every product in, so that the same call goes on after an interruption, see
            `EigenSolver.solve`.

    Returns:
        Decompositions by name, in the coordinates of the blocks: ``S.lift(decomposition.eigenvectors)`` are their
        vectors in Rⁿ. The seconds of their reports count those of the others as well.

    Raises:
        TypeError: something that is no solver, operator or subspace.
        ValueError: no block, subspaces of another space, a block size below one, or what a solver raises; the first
            error ends all; a checkpoint of something else.
        OSError, RuntimeError: a checkpoint that cannot be written, is in use, or does not fit.

    Warns:
        ConvergenceWarning: for each block whose pairs do not all meet the tolerance.

    Cost: that of the solvers, each column a product of A; and 2 n numbers, vector and product, for each column that is
    multiplied at once: with many blocks on a large space set ``block_size``.
    """
    _require_blocks(A, blocks)
    if block_size is not None:
        require_count("block_size is", block_size)
    solvers = {name: solver(subspace.dim) for name, subspace in blocks.items()}
    for name, each in solvers.items():
        if not isinstance(each, EigenSolver):
            raise TypeError(f"solver= gives an EigenSolver, got {type(each).__name__} for block {name!r}")
    with contextlib.ExitStack() as stack:
        log = None
        if checkpoint is not None:
            log = _log(A, checkpoint, solvers, blocks, block_size)
            stack.enter_context(log.held())
            log.begin(None, None)
        done = 0 if log is None else log.done
        bar = stack.enter_context(tqdm(disable=not progress, desc="diagonal blocks", unit=" products", initial=done))
        watched = Watched(A, bar, log)
        found = _solve_together(solvers, watched, blocks, block_size)
        if log is not None:
            log.finish(watched.products)
    for name, result in found.items():
        if result.report.status.is_failure:
            warnings.warn(f"block {name!r}: {result._ending}", ConvergenceWarning, stacklevel=2)
    return found


def _require_blocks(A: LinearOperator, blocks: Mapping[str, Subspace]) -> None:
    if not isinstance(A, LinearOperator):
        raise TypeError(f"expected a LinearOperator, got {type(A).__name__}; as_operator makes one of a matrix")
    if not blocks:
        raise ValueError("no blocks to solve for")
    for name, subspace in blocks.items():
        if not isinstance(subspace, Subspace):
            raise TypeError(f"block {name!r} is a Subspace, such as a MaskSubspace, got {type(subspace).__name__}")
        if subspace.ambient_dim != A.shape[0]:
            raise ValueError(f"block {name!r}, {subspace}, is no part of the space of {A}")


def _solve_together(
    solvers: Mapping[str, EigenSolver], A: Watched, blocks: Mapping[str, Subspace], block_size: int | None
) -> dict[str, EigenDecomposition]:
    """Run each solver in a thread of its own, and multiply for all of them in this one."""
    exchange = _Exchange(A, {name: subspace.basis for name, subspace in blocks.items()}, block_size)
    parts = {name: _Compression(exchange, name, A.A, subspace) for name, subspace in blocks.items()}
    with ThreadPoolExecutor(len(parts), thread_name_prefix="diagonal block") as pool:
        try:
            waiting = {name: pool.submit(exchange.run, name, solvers[name], parts[name]) for name in parts}
            exchange.serve()
        except BaseException as error:  # threads that wait for products would wait for ever
            exchange.fail(error)
            raise
    if exchange.error is not None:
        raise exchange.error
    return {name: future.result() for name, future in waiting.items()}


def _log(
    A: LinearOperator,
    folder: str | os.PathLike[str],
    solvers: Mapping[str, EigenSolver],
    blocks: Mapping[str, Subspace],
    block_size: int | None,
) -> Log:
    """The products that all blocks share in a folder."""
    identity = {
        "solve": {name: solver_to_dict(solver) for name, solver in solvers.items()},
        "blocks": {name: subspace.basis.fingerprint() for name, subspace in blocks.items()},
        "block size": block_size,
        "shape": A.shape,
        "dtype": str(A.dtype),
        "operator": A.fingerprint(),
    }
    return log_of(folder, identity, A)


class _InterruptedError(RuntimeError):
    """A product that another solver waits for was not made."""


class _Exchange:
    """Where solvers in threads of their own leave blocks to multiply, and one thread multiplies all at once.

    The lock is held by whoever computes, so that one thread runs at a time, as coroutines would.
    """

    def __init__(self, A: Watched, bases: dict[str, LinearOperator], block_size: int | None) -> None:
        self.A, self._bases, self._block_size = A, bases, block_size
        self._running = set(bases)
        self._turn = threading.Condition()
        self._asked: dict[str, Tensor] = {}
        self._answered: dict[str, Tensor] = {}
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Let all solvers end; of several errors the first one counts."""
        with self._turn:
            self.error = error if self.error is None else self.error
            self._turn.notify_all()

    def run(self, name: str, solver: EigenSolver, part: LinearOperator) -> EigenDecomposition:
        """Solve, in a thread of its own."""
        with self._turn:
            try:
                self._require_no_error()
                return solver._solve_silently(part, None, progress=False)
            except BaseException as error:
                self.fail(error)
                raise
            finally:
                self._running.discard(name)
                self._turn.notify_all()

    def product(self, name: str, X: Tensor) -> Tensor:
        """Bᵀ A B X, together with what the others ask for."""
        self._asked[name] = X
        self._turn.notify_all()
        self._turn.wait_for(lambda: name in self._answered or self.error is not None)
        self._require_no_error()
        return self._answered.pop(name)

    def _require_no_error(self) -> None:
        if self.error is not None:
            raise _InterruptedError("another block has failed") from self.error

    @torch.no_grad()
    def serve(self) -> None:
        """Multiply until no solver is left."""
        with self._turn:
            while True:
                self._turn.wait_for(lambda: len(self._asked) == len(self._running) or self.error is not None)
                if not self._running or self.error is not None:
                    return
                self._answer()

    def _answer(self) -> None:
        # In the order of the blocks, not of the threads: products round by what is beside them.
        asked, self._asked = {name: self._asked[name] for name in self._bases if name in self._asked}, {}
        answers = {name: torch.empty_like(X) for name, X in asked.items()}
        for group in _groups({name: X.shape[1] for name, X in asked.items()}, self._block_size):
            self._multiply(asked, answers, group)
        self._answered = answers
        self._turn.notify_all()

    def _multiply(self, asked: dict[str, Tensor], answers: dict[str, Tensor], group: list[tuple[str, slice]]) -> None:
        ends = list(itertools.accumulate((part.stop - part.start for _, part in group), initial=0))
        places = [slice(*pair) for pair in itertools.pairwise(ends)]
        together = torch.empty(ends[-1], self.A.shape[0], dtype=self.A.dtype, device=self.A.device).mT
        for (name, part), place in zip(group, places, strict=True):
            together[:, place] = self._bases[name] @ asked[name][:, part]
        products = self.A._matmat(together)
        for (name, part), place in zip(group, places, strict=True):
            answers[name][:, part] = self._bases[name].T @ products[:, place]


def _groups(widths: Mapping[str, int], size: int | None) -> Iterator[list[tuple[str, slice]]]:
    """The columns of blocks of those widths, in groups of at most ``size``: names, and which columns of each."""
    size = size or max(1, sum(widths.values()))
    group: list[tuple[str, slice]] = []
    room = size
    for name, width in widths.items():
        start = 0
        while start < width:
            stop = min(width, start + room)
            group.append((name, slice(start, stop)))
            room -= stop - start
            start = stop
            if room == 0:
                yield group
                group, room = [], size
    if group:
        yield group


class _Compression(LinearOperator):
    """Bᵀ A B, whose products with A are made together with those of others."""

    def __init__(self, exchange: _Exchange, name: str, A: LinearOperator, subspace: Subspace) -> None:
        self._exchange, self._name = exchange, name
        restricted = A.restricted(subspace)
        # Not kept as an operator: ranks meet in products of all blocks alone, as threads take turns in any order.
        self._factor = restricted.factor
        super().__init__(restricted.shape, A.dtype, A.device, restricted.structure)

    def factor(self) -> LinearOperator:
        return self._factor()

    def __repr__(self) -> str:
        return f"<block {self._name!r} {self.shape[0]}x{self.shape[0]} of {self._exchange.A.A}>"

    def _matmat(self, X: Tensor) -> Tensor:
        return self._exchange.product(self._name, X)
