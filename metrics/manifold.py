"""The Grassmannian as a Riemannian manifold: logarithm, exponential, geodesics and means.

A tangent at a subspace is given in its basis A, (n, k), as the (n, k) matrix H with AᵀH = 0 (the horizontal lift); the
metric is the Frobenius product, and the length of the shortest path is the distance `geodesic`. The small algebra is
done in float64, the tall in the dtype of the subspaces.

Formulas after Edelman, Arias and Smith, The geometry of algorithms with orthogonality constraints, SIAM J. Matrix Anal.
Appl. 20 (1998), and Bendokat, Zimmermann and Absil, A Grassmann manifold handbook, Adv. Comput. Math. 50 (2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..linops.lattice import half_digits
from ..linops.orthonormal import OrthonormalSubspace
from ..linops.subspace import Subspace
from ..linops.tall_qr import triangular_factor
from .angles import check_pair, principal_coordinates


def grassmann_log(A: Subspace, B: Subspace) -> Tensor:
    """The tangent at A of the shortest path to B, (n, k): of Frobenius norm `geodesic(A, B)`, with AᵀH = 0.

    With principal vectors B V = A U diag(cos θ) + R V it is R V diag(θ / sin θ) Uᵀ, which divides by no cosine, as the
    formula with (AᵀB)⁻¹ does, and loses no digits at small angles.

    At a right angle several shortest paths lead to B. One of them is taken; it is as long as the others, but rounding
    decides which.

    Args:
        A: a subspace of dimension k, whose basis the tangent refers to.
        B: another one of dimension k.

    Raises:
        TypeError: not subspaces, or of different dtype or device.
        ValueError: different dimensions.

    Source: Edelman, Arias and Smith (1998), section 2.5.1; Bendokat, Zimmermann and Absil (2024), algorithm 5.3.

    Cost: O(n k²) operations and two (n, k) blocks.
    """
    check_pair(A, B)
    if A.dim != B.dim:
        raise ValueError(
            f"{A} and {B} differ in dimension and lie on different Grassmannians; compare subspaces of the same "
            "dimension, as of nearest_subspace or .leading"
        )
    pairs = principal_coordinates(A, B)
    angles, sines = pairs.angles.radians, pairs.angles.sines
    stretch = torch.where(sines > 0, angles / sines, 1.0)
    tangent = pairs.residual @ ((pairs.projected * stretch) @ pairs.projecting.mT).to(A.dtype)
    # The residual of a near subspace is orthogonal to rounding of the bases, not of its own length.
    return tangent - A.lift(A.coordinates(tangent))


def grassmann_exp(A: Subspace, tangent: Tensor) -> OrthonormalSubspace:
    """The end of the geodesic that leaves A with the velocity H = W diag(θ) Uᵀ: the span of A U cos θ + W sin θ.

    Its basis is that times Uᵀ, which goes over into the basis of A as H goes to zero.

    Args:
        A: a subspace of dimension k.
        tangent: H, (n, k), with AᵀH = 0. Beyond π/2 in an angle the path is no longer the shortest one.

    Raises:
        ValueError: another shape, entries that are not finite, or a tangent that is not orthogonal to A to half the
            digits of its dtype.
        TypeError: no subspace, or another dtype or device.

    Source: Edelman, Arias and Smith (1998), theorem 2.3.

    Cost: O(n k²) operations and two (n, k) blocks.
    """
    _require_tangent(A, tangent)
    _, angles, Uh = torch.linalg.svd(triangular_factor(tangent), full_matrices=False)
    along = (Uh.mT * angles.cos()) @ Uh
    across = (Uh.mT * torch.sinc(angles / torch.pi)) @ Uh  # sin θ / θ, which divides by no angle
    X = A.lift(along.to(A.dtype)) + tangent @ across.to(A.dtype)
    # To the nearest orthonormal basis by a step of Newton and Schulz: what the tangent has along A is gone, squared.
    gram = X.mT @ X
    return OrthonormalSubspace(X @ (1.5 * torch.eye(A.dim, dtype=A.dtype, device=A.device) - gram / 2), check=False)


def geodesic_point(A: Subspace, B: Subspace, t: float) -> OrthonormalSubspace:
    """The point at time t of the shortest path from A, at 0, to B, at 1, run through with constant speed.

    Times outside [0, 1] go on along the path. Where A and B have a right angle it is one of several, see
    `grassmann_log`, which raises what this raises.

    Cost: that of `grassmann_log` and `grassmann_exp`.
    """
    if not math.isfinite(t):
        raise ValueError(f"a time is a finite number, got {t!r}")
    return grassmann_exp(A, t * grassmann_log(A, B))


def karcher_mean(
    subspaces: Sequence[Subspace],
    weights: Sequence[float] | Tensor | None = None,
    tol: float | None = None,
    max_steps: int = 100,
) -> OrthonormalSubspace:
    """The subspace at which Σ wᵢ d(X, Aᵢ)², with d the distance `geodesic`, has its minimum: the mean on the manifold.

    Found by gradient descent with unit steps X ← exp(X, Σ wᵢ log(X, Aᵢ)), which descend because the curvature is not
    negative, from the subspace of the largest weight. The minimum is unique, and the only stationary point near, where
    all subspaces lie within a ball of radius less than π/4 in that distance; beyond, the result is a stationary point
    that depends on where the descent began.

    Args:
        subspaces: one or more, of the same dimension.
        weights: wᵢ >= 0, not all zero; by default equal. They are divided by their sum.
        tol: the Frobenius norm of the gradient at which to stop, in radians; by default 100 √k ε of the dtype.
        max_steps: the largest number of steps.

    Raises:
        ValueError: no subspace, different dimensions, or weights that do not fit.
        TypeError: not subspaces, or of different dtype or device.
        RuntimeError: no convergence; the message says what to do.

    Source: Karcher, Comm. Pure Appl. Math. 30 (1977); Afsari, Riemannian Lᵖ center of mass, Proc. AMS 139 (2011) for
    the radius; Afsari, Tron and Vidal, SIAM J. Control Optim. 51 (2013) for the steps.

    Cost: a step takes a logarithm for each subspace and one exponential.
    """
    if not isinstance(subspaces, Sequence):
        raise TypeError(f"the mean is that of a list of subspaces, got {type(subspaces).__name__}")
    if len(subspaces) == 0:
        raise ValueError("the mean of no subspaces; give at least one")
    shares = _shares(weights, len(subspaces))
    first = subspaces[shares.index(max(shares))]
    check_pair(first, first)
    tolerance = 100 * first.dim**0.5 * torch.finfo(first.dtype).eps if tol is None else tol
    mean = OrthonormalSubspace(first.basis.to_dense(), check=False)
    norm = float("inf")
    for _ in range(max_steps):
        logs = (share * grassmann_log(mean, A) for share, A in zip(shares, subspaces, strict=True) if share > 0)
        gradient = sum(logs, torch.zeros_like(mean.vectors))
        norm = float(gradient.norm())
        if norm <= tolerance:
            return mean
        mean = grassmann_exp(mean, gradient)
    raise RuntimeError(
        f"the mean of {len(subspaces)} subspaces like {first} has a gradient of {norm:.1e} after {max_steps} steps, "
        f"above tol={tolerance:.1e}; raise max_steps or tol, or give subspaces nearer to one another: only within a "
        "distance of π/4 from a centre is a mean sure to be one"
    )


def _shares(weights: Sequence[float] | Tensor | None, count: int) -> list[float]:
    """Weights that sum to one."""
    given = torch.ones(count).double() if weights is None else torch.as_tensor(weights, dtype=torch.float64)
    if given.shape != (count,) or not bool((given >= 0).all()) or not 0 < float(given.sum()) < float("inf"):
        raise ValueError(f"{count} subspaces have as many finite weights >= 0, not all zero, got {weights}")
    return [float(weight) for weight in given / given.sum()]


def _require_tangent(A: Subspace, tangent: Tensor) -> None:
    check_pair(A, A)
    if not isinstance(tangent, Tensor):
        raise TypeError(f"a tangent at {A} is a tensor, got {type(tangent).__name__}; convert it by torch.as_tensor")
    if tangent.shape != A.basis.shape or not bool(tangent.isfinite().all()):
        raise ValueError(f"a tangent at {A} is a finite {A.basis.shape} matrix, got shape {tuple(tangent.shape)}")
    if tangent.dtype != A.dtype or tangent.device != A.device:
        raise TypeError(f"{A} and a tangent in {tangent.dtype} on {tangent.device} differ; convert one with .to")
    along = float(A.coordinates(tangent).norm())
    if along > half_digits(A.dtype) * max(1.0, float(tangent.norm())):
        raise ValueError(
            f"the tangent is not orthogonal to {A}: its part along it has norm {along:.1e}; take it off by "
            "A.complement_projector @ tangent"
        )
