"""Operators given directly: a matrix, a diagonal, the identity, functions; and wrappers that count or declare."""

from __future__ import annotations

import functools
import math
import numbers
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .operator import LinearOperator, product_outside_inference_mode
from .structure import Structure


class Dense(LinearOperator):
    """The operator of an explicit (m, n) matrix.

    Args:
        matrix: (m, n); kept as it is, not copied.
        structure: what the caller knows of it; it is not checked.

    Raises:
        TypeError: no tensor.
        ValueError: a tensor that is not two-dimensional.

    Cost: 2 m n k flops for a block of k columns.
    """

    def __init__(self, matrix: Tensor, structure: Structure = Structure.NONE) -> None:
        _require_tensor("Dense", matrix)
        if matrix.ndim != 2:
            raise ValueError(f"Dense takes an (m, n) matrix, got shape {tuple(matrix.shape)}")
        m, n = matrix.shape
        super().__init__((m, n), matrix.dtype, matrix.device, structure)
        self.matrix = matrix.detach()

    def _matmat(self, X: Tensor) -> Tensor:
        return self.matrix @ X

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self.matrix.mT @ X

    def to_dense(self) -> Tensor:
        """A copy of the matrix, (m, n).

        Cost: m n numbers.
        """
        return self.matrix.clone()


class Diagonal(LinearOperator):
    """diag(d), (n, n) and symmetric, of an (n,) tensor d.

    Its definiteness is read off the signs of d once, at construction.

    Args:
        diagonal: d, (n,); kept as it is, not copied.

    Raises:
        TypeError: no tensor.
        ValueError: a tensor that is not one-dimensional.

    Cost: n k flops for a block of k columns.
    """

    def __init__(self, diagonal: Tensor) -> None:
        _require_tensor("Diagonal", diagonal)
        if diagonal.ndim != 1:
            raise ValueError(f"Diagonal takes an (n,) tensor, got shape {tuple(diagonal.shape)}")
        super().__init__((len(diagonal), len(diagonal)), diagonal.dtype, diagonal.device, Structure.SYMMETRIC)
        if bool((diagonal >= 0).all()):
            self.structure |= Structure.NONNEGATIVE
        if bool((diagonal <= 0).all()):
            self.structure |= Structure.NONPOSITIVE
        if bool((diagonal.abs() == 1).all()):
            self.structure |= Structure.ISOMETRY
        self.diagonal = diagonal.detach()

    def _matmat(self, X: Tensor) -> Tensor:
        return self.diagonal[:, None] * X


def _require_tensor(kind: str, given: object) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{kind} takes a tensor, got a {type(given).__name__}: convert it by torch.as_tensor")


class Identity(LinearOperator):
    """The (n, n) identity.

    Args:
        n: rows and columns.
        dtype: dtype of the blocks.
        device: device of the blocks.

    Cost: a copy.
    """

    def __init__(self, n: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        super().__init__((n, n), dtype, device, Structure.PSD | Structure.ISOMETRY)

    def _matmat(self, X: Tensor) -> Tensor:
        return X.clone()


class Function(LinearOperator):
    """The linear map that ``matmat`` computes, and ``rmatmat`` for its transpose.

    Args:
        matmat: maps an (n, k) block to an (m, k) block, linearly, for any k >= 0. It may use autograd, and must not
            write to the block.
        shape: (m, n).
        dtype: dtype of the blocks.
        device: device of the blocks.
        rmatmat: the transpose, (m, k) to (n, k); not needed if ``structure`` says symmetric.
        structure: what the caller knows of the map; solvers test symmetry, the rest is not checked.

    Raises:
        RuntimeError: in a product, a function that writes to its argument.

    Cost: what ``matmat`` costs.
    """

    def __init__(
        self,
        matmat: Callable[[Tensor], Tensor],
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        *,
        rmatmat: Callable[[Tensor], Tensor] | None = None,
        structure: Structure = Structure.NONE,
    ) -> None:
        super().__init__(shape, dtype, device, structure)
        self.matmat, self.rmatmat = matmat, rmatmat

    def _matmat(self, X: Tensor) -> Tensor:
        return self._image(self.matmat, X)

    def _rmatmat(self, X: Tensor) -> Tensor:
        if self.rmatmat is None and not self.is_symmetric:
            raise NotImplementedError(
                f"{self} has no transposed product: give Function its rmatmat=, or structure= if it is symmetric"
            )
        return self._image(self.rmatmat or self.matmat, X)

    @torch.enable_grad()
    def _image(self, function: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        """The image of a block under a function, which may take derivatives."""
        if torch.is_inference_mode_enabled() or X.is_inference():
            return product_outside_inference_mode(functools.partial(self._image, function), X)
        written = X._version
        Y = function(X)
        if X._version != written:
            raise RuntimeError(f"the function of {self} writes to the block that it is given: let it take X.clone()")
        return Y.detach() if isinstance(Y, Tensor) else Y  # which the gate refuses


class Counted(LinearOperator):
    """A itself, with counts of its use since construction.

    Attributes:
        products: columns multiplied, by A or its transpose.
        calls: blocks multiplied, each one pass over the data of a curvature operator.
        seconds: time spent in A.

    Cost: one product of A; on a GPU each block is awaited, so that the time is true.
    """

    def __init__(self, A: LinearOperator) -> None:
        super().__init__(A.shape, A.dtype, A.device, A.structure)
        self.A, self.row_mesh = A, A.row_mesh
        self.products, self.calls, self.seconds = 0, 0, 0.0

    def _matmat(self, X: Tensor) -> Tensor:
        return self._counted(self.A._matmat, X)

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self._counted(self.A._rmatmat, X)

    def _counted(self, product: Callable[[Tensor], Tensor], X: Tensor) -> Tensor:
        synchronise(self.device)
        start = time.perf_counter()
        result = product(X)
        synchronise(self.device)
        self.seconds += time.perf_counter() - start
        self.products += X.shape[1]
        self.calls += 1
        return result


def is_integer(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether ``value`` is an integer from ``least`` to ``most``, of NumPy's too, and no boolean."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and least <= int(value) <= most


def is_count(value: Any, most: float = math.inf) -> bool:
    """Whether ``value`` is an integer from 1 to ``most``."""
    return is_integer(value, 1, most)


def require_count(what: str, value: Any) -> None:
    """``value`` must be an integer >= 1; ``what`` begins the message: what it is of."""
    if not is_count(value):
        raise ValueError(f"{what} an integer >= 1, got {value!r}")


def seeded(seed: Any) -> torch.Generator:
    """A generator of random numbers on the CPU, of an integer seed, NumPy's too."""
    if not is_integer(seed):
        raise TypeError(f"a seed is an integer, got {seed!r}")
    return torch.Generator().manual_seed(int(seed))


def require_labels(what: str, labels: Any, n: int, device: torch.device) -> None:
    """``labels`` must be integers, one for each of n coordinates, on ``device``; ``what`` is what they are called."""
    dtype = labels.dtype if isinstance(labels, Tensor) else None
    if dtype is None or dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        given = dtype or type(labels).__name__
        raise TypeError(f"{what} are integer labels, (n,), got {given}; use H.parameters.labels()")
    if labels.shape != (n,):
        raise ValueError(f"{what} have one label for each of {n} coordinates, got shape {tuple(labels.shape)}")
    if labels.device != device:
        raise TypeError(
            f"{what} on {labels.device} and what they label, on {device}, are on different devices; move one"
        )


def synchronise(device: torch.device) -> None:
    """Await what a GPU still computes, so that a time taken now is true; nothing to await on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Declared(LinearOperator):
    """A with ``structure`` added to what is known of it, on the caller's word.

    Args:
        A: an operator.
        structure: what it has besides; it is not checked.

    Raises:
        TypeError: an A that is no operator.
        ValueError: symmetry declared of an A that is not square.

    Cost: one product of A.
    """

    def __init__(self, A: LinearOperator, structure: Structure) -> None:
        if not isinstance(A, LinearOperator):
            raise TypeError(
                f"Declared takes an operator, got {type(A).__name__}: as_operator(A, structure=…) makes one"
            )
        super().__init__(A.shape, A.dtype, A.device, A.structure | structure)
        self.A, self.row_mesh = A, A.row_mesh

    def _matmat(self, X: Tensor) -> Tensor:
        return self.A._matmat(X)

    def _rmatmat(self, X: Tensor) -> Tensor:
        return self._matmat(X) if self.is_symmetric else self.A._rmatmat(X)
