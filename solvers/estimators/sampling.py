"""How estimators draw samples: how many, when they stop, and what they take for an operator."""

from __future__ import annotations

import abc
import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor
from tqdm import tqdm

from ...linops import LinearOperator
from ..parameters import as_int, positive_integer, seed_number
from ..template import operator_for, require_known_symmetric
from ..watched import Watched
from .estimates import Estimate, EstimateStatus, Sample, warn_unless_reached

_GROWTH = 1.5  # of the number of samples from one look at them to the next
_FIRST_SAMPLES, _FIRST_PRODUCTS = 10, 20  # before the first look, at least
_ATTAINABLE = 100  # roundings that a tolerance is above


class Sampler(abc.ABC):
    """An estimator of an operator.

    Attributes:
        cost: products for a sample, at most.
        enough: the number of samples that make the estimate exact, but for roundings; None if none does.
    """

    cost: int
    enough: int | None = None

    @abc.abstractmethod
    def draw(self, count: int) -> Sample:
        """What the first ``count`` samples tell, at least two; ``count`` does not fall."""


def _fraction(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is None and attribute.name == "tol":
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{attribute.name} is a number between 0 and 1, got {value!r}")
    if not 0 < value < 1:
        raise ValueError(f"{attribute.name} is between 0 and 1, got {value!r}")


@attrs.frozen(kw_only=True)
class Sampling:
    """How many samples to draw, and when to stop.

    Without ``tol`` as many as ``max_products`` allow. With it the samples are looked at J times, fixed beforehand:
    after at least 10 of them and 20 products, and then whenever they are half as many again. Each time the margin is
    one that fails with probability (1 - confidence) / J. So whichever look the estimator stops at, and however it chose
    it, the margin fails with probability 1 - confidence at most.

    Args:
        tol: stop when the norm of the margin is at most tol times the norm of the value.
        max_products: the most to spend.
        confidence: the probability that a margin holds.
        seed: root of all random numbers.
        block_size: columns multiplied at a time; it does not change the result beyond rounding.
        progress: whether to show a bar that counts products.
    """

    tol: float | None = attrs.field(default=None, validator=_fraction)
    max_products: int = attrs.field(converter=as_int, validator=positive_integer)
    confidence: float = attrs.field(validator=_fraction)
    seed: int = attrs.field(converter=as_int, validator=seed_number)
    block_size: int = attrs.field(default=16, converter=as_int, validator=positive_integer)
    progress: bool = False

    def run(
        self,
        A: LinearOperator,
        make: Callable[[Watched], Sampler],
        name: str,
        then: Callable[[Estimate], Estimate] = lambda estimate: estimate,
    ) -> Estimate:
        """The estimate that ``then`` makes of that of a sampler."""
        self.require_attainable(A)
        with self.watching(A, name) as watched:
            sampler = make(watched)
            counts = self._looks(sampler, A)
            for count in counts:
                doubt = (1 - self.confidence) / len(counts)
                sample, eps = sampler.draw(count), torch.finfo(A.dtype).eps
                status = EstimateStatus.SAMPLED
                estimate = then(sample.estimate(doubt, self.confidence, eps, count, watched.products, status))
                if self.tol is not None:
                    estimate = attrs.evolve(estimate, status=self._status(estimate, self.tol))
                watched.note(repr(estimate))
                if estimate.status.is_success:
                    break
        warn_unless_reached(estimate, stacklevel=3)
        return estimate

    @contextlib.contextmanager
    def watching(self, A: LinearOperator, name: str) -> Iterator[Watched]:
        """A counted, under a bar of that name, and without gradients."""
        with (
            torch.no_grad(),
            tqdm(disable=not self.progress, desc=name, unit=" products", total=self.max_products) as bar,
        ):
            yield Watched(A, bar)

    def require_attainable(self, A: LinearOperator) -> None:
        """Refuse a tolerance that roundings would not let A reach.

        Raises:
            ValueError: a tol below a hundred roundings of the dtype.
        """
        least = _ATTAINABLE * torch.finfo(A.dtype).eps
        if self.tol is not None and self.tol < least:
            raise ValueError(f"tol={self.tol} is below the rounding errors of {A}: choose at least {least:.1e}")

    def _looks(self, sampler: Sampler, A: LinearOperator) -> list[int]:
        """The numbers of samples at which they are looked at."""
        last = self.max_products // sampler.cost
        if last < 2:
            raise ValueError(
                f"a standard error takes two samples of {sampler.cost} products each of {A}, got "
                f"max_products={self.max_products}: choose at least {2 * sampler.cost}"
            )
        if sampler.enough is not None:
            last = min(last, sampler.enough)
        if self.tol is None:
            return [last]
        first = max(_FIRST_SAMPLES, -(-_FIRST_PRODUCTS // sampler.cost))
        growing = (round(first * _GROWTH**look) for look in itertools.count())
        return [*itertools.takewhile(lambda count: count < last, growing), last]

    @staticmethod
    def _status(estimate: Estimate, tol: float) -> EstimateStatus:
        margin, bias, value = (_norm(x) for x in (estimate.margin, estimate.bias, estimate.value))
        if margin <= tol * value:
            return EstimateStatus.REACHED
        return EstimateStatus.OUT_OF_STEPS if bias > tol * value else EstimateStatus.OUT_OF_PRODUCTS


def _norm(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64))


def operand(
    A: Any, name: str, *, square: bool = False, symmetric: bool = False, transpose: bool = False
) -> LinearOperator:
    """The operator that A stands for, if it is one that the estimator of that name can take.

    Raises:
        TypeError: no operator, or in a dtype that is not float32 or float64.
        ValueError: no entries, or not square or not known to be symmetric where it must be.
        NotImplementedError: no transposed product where there must be one.
    """
    operator = operator_for(A, name)
    m, n = operator.shape
    if m == 0 or n == 0:
        raise ValueError(f"{name} takes an operator with entries, got {operator}")
    if (square or symmetric) and m != n:
        raise ValueError(f"{name} is that of a square operator, got {operator}; A.T @ A and A @ A.T are square")
    if symmetric:
        require_known_symmetric(operator, name)
    if transpose:
        with torch.no_grad():  # no columns: it fails where there is no transposed product, and costs none
            operator._rmatmat(torch.empty(m, 0, dtype=operator.dtype, device=operator.device))
    return operator


def choice(what: str, value: Any, options: dict[str, Any]) -> Any:
    """The option that ``value`` names.

    Raises:
        ValueError: a name that is none of them.
    """
    if value not in options:
        raise ValueError(f"{what} is one of {', '.join(map(repr, options))}; got {value!r}")
    return options[value]
