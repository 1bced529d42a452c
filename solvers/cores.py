"""Cores of single-pass sketches: small matrices C ≈ Qᵀ A P, fitted to products that were measured without Q and P."""

from __future__ import annotations

import math

import attrs
import torch
from torch import Tensor

_ROUNDINGS = 100  # a fit that leaves no more roundings than these unexplained is exact


@attrs.frozen(eq=False)
class Core:
    """A fitted (o, o) matrix C ≈ Qᵀ A P, small, and how well it is known.

    Attributes:
        matrix: C.
        misfit: the norm of what the fit leaves unexplained of the measured products, as a part of theirs.
        error: an estimate of ‖C - Qᵀ A P‖₂, infinite where as many products as unknowns leave nothing to tell by.
    """

    matrix: Tensor
    misfit: float
    error: float

    def notes(self, values: Tensor, remedy: str, rounding: float) -> tuple[str, ...]:
        """What there is to warn of, in a sentence, if the wanted ``values`` are not well above the error of the core.

        The error comes from A outside the spans of Q and P, whose part in the products passes for a part of C; the fit
        amplifies it. It shows where the spectrum decays slowly. Of an indefinite or unsymmetric A it is random, and
        the estimate holds within a factor of two; of a semidefinite A it is a bias that the misfit shows in part only.

        Args:
            values: the eigenvalues or singular values to be returned.
            remedy: what to do.
            rounding: the relative rounding error of the products.
        """
        if math.isinf(self.error):
            return (
                f"A core fits inner = outer products whatever they are, so nothing tells how far off it is: {remedy}.",
            )
        doubtful = int((values.abs() < 2 * self.error).sum())
        if doubtful == 0 or self.misfit < _ROUNDINGS * rounding:
            return ()
        return (
            f"The core is ill-determined: {self.misfit:.2g} of the norm of the products is unexplained, so it is "
            f"off by about {self.error:.1e}, and {doubtful} of {len(values)} values are below twice that: {remedy}.",
        )


def least_squares_core(right: Tensor, image: Tensor, left: Tensor, coimage: Tensor) -> Core:
    """The C that minimises ‖image - C right‖² + ‖coimage - Cᵀ left‖² (Frobenius), of (o, s) matrices, o <= s.

    They are right = Pᵀ Ω, image = Qᵀ A Ω, left = Qᵀ Υ and coimage = Pᵀ Aᵀ Υ. With left = U Σ Yᵀ and right = V T Zᵀ it
    is C = U X Vᵀ, X_ij = ((Uᵀ image Z)_ij τ_j + σ_i (Vᵀ coimage Y)_ji) / (σ_i² + τ_j²). Where left = right and image =
    coimage C is symmetric. Of matrices of lower rank it is the C of least norm: singular values that are rounding
    errors count as zero.

    The error is that of a regression, with s - o degrees of freedom for each row of what is left unexplained.

    Source: for symmetric A, Higham (1988), The symmetric Procrustes problem, BIT 28.

    Cost: two singular value decompositions, about 20 s o² flops.
    """
    U, sigma, Yt = _decomposed(left)
    V, tau, Zt = _decomposed(right)
    squares = sigma.square()[:, None] + tau.square()
    numerator = (U.mT @ image @ Zt.mT) * tau + sigma[:, None] * (Yt @ coimage.mT @ V)
    C = U @ torch.where(squares > 0, numerator / squares, 0) @ V.mT
    unexplained = math.hypot(_norm(image - C @ right), _norm(coimage - C.mT @ left))
    o, s = left.shape
    entries = math.hypot(_inverse_norm(sigma), _inverse_norm(tau)) * unexplained / 2  # times √(s - o)
    return _core(C, unexplained, math.hypot(_norm(image), _norm(coimage)), entries, s - o)


def two_sided_core(left: Tensor, squared: Tensor, right: Tensor) -> Core:
    """leftᵀ⁺ squared right⁺, the C that minimises ‖squared - leftᵀ C right‖_F, of (o, s) and (s, s) matrices, o <= s.

    They are left = Qᵀ Φ, squared = Φᵀ A Ψ and right = Pᵀ Ψ.

    Source: Tropp, Yurtsever, Udell & Cevher (2019), section 2, the core of their reconstruction.

    Cost: two singular value decompositions, about 20 s o² flops, and 4 s² o.
    """
    U, sigma, Yt = _decomposed(left)
    V, tau, Zt = _decomposed(right)
    squares = sigma[:, None] * tau
    C = U @ torch.where(squares > 0, (Yt @ squared @ Zt.mT) / squares, 0) @ V.mT
    unexplained = _norm(squared - left.mT @ C @ right)
    o, s = left.shape
    return _core(C, unexplained, _norm(squared), unexplained * _inverse_norm(sigma) * _inverse_norm(tau), s**2 - o**2)


def _core(C: Tensor, unexplained: float, measured: float, entries: float, freedom: int) -> Core:
    """C, whose error has the Frobenius norm entries / √freedom, spread evenly: so its 2-norm is 2 / √o of that."""
    error = 2 * entries / math.sqrt(len(C) * freedom) if freedom else math.inf
    return Core(C, unexplained / measured if measured else 0.0, error)


def _decomposed(X: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The singular value decomposition of (o, s), with zero for singular values that are rounding errors."""
    U, sigma, Yt = torch.linalg.svd(X, full_matrices=False)
    return U, torch.where(sigma > max(X.shape) * torch.finfo(X.dtype).eps * sigma[0], sigma, 0), Yt


def _inverse_norm(sigma: Tensor) -> float:
    """The Frobenius norm of the pseudoinverse."""
    return _norm(1 / sigma[sigma > 0])


def _norm(X: Tensor) -> float:
    return float(torch.linalg.vector_norm(X))
