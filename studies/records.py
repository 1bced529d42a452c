"""What a record says of a mask of large weights and the leading eigenvectors: plain numbers, for every k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from ..linops import Hessian, MaskSubspace, magnitude
from ..linops.distributed import DataParallel
from ..metrics import ChanceCurve, chance_curve, layer_energy, overlap_curve_interval, participation_ratio
from ..solvers import Certificate, EigenDecomposition, certify

FORMAT = 5
"""Raised whenever records get other keys, so that a folder of earlier ones is refused and not misread."""
LEVEL = 0.95
"""How much of chance its intervals hold."""
DRAWS = 999
"""Random masks that intervals and p-values come from."""
FIRST = 10
"""So many eigenvectors are recorded one by one."""


def record_of(H: Hessian | DataParallel, eig: EigenDecomposition, table_k: Sequence[int], seed: int) -> dict[str, Any]:
    """What is measured of the masks of the k largest weights and the k leading eigenvectors, k = 1, ..., K.

    Args:
        H: the Hessian.
        eig: K leading eigenpairs of it.
        table_k: dimensions of interest, each at most K.
        seed: of the random masks.

    Returns:
        Plain data. Curves over k are lists of K numbers:

        - ``overlap``, and ``overlap_error``: the ends ``low`` and ``high`` of an interval that holds the overlap with
          the true eigenspace, by residual norms; NaN where the eigenpairs are not shown to be the leading ones;
        - ``certificate``: what `certify` shows without products, or None where residual norms were not measured:
          ``radii`` and ``sharp_radii`` of eigenvalues, ``leads``, the ``sines`` and ``overlaps`` of eigenspaces, and
          what all but the radii rest on, the ``premise`` with its ``probability``;
        - ``chance_uniform`` and ``chance_stratified``: ``mean``, ``std``, the ends ``low`` and ``high`` of the central
          interval of probability `LEVEL`, and the two-sided ``p_value``;
        - ``mask_counts``: how many of the K largest weights each tensor has; ``mask_ties``: whether the last of them
          were chosen among equals, see `Ties`, or None;
        - ``layer_energy``: ``eigenvectors``, the shares of the first `FIRST` vectors, (L, `FIRST`); ``eigenspaces``,
          their means over the k leading ones for each k of interest, (L, number of those);
        - ``participation_ratio``: of each eigenvector; ``eigenvalues`` and ``residual_norms``;
        - ``report``: how they were found, see `SolveReport`, with what its status says and all its seconds.

    Cost: that of two chance curves with `DRAWS` draws; no product.
    """
    scores, labels = magnitude(H.parameters), H.parameters.labels()
    curves = [chance_curve(scores, eig.subspace, strata, draws=DRAWS, seed=seed) for strata in (None, labels)]
    certificate = certify(eig) if bool(eig.residual_norms.isfinite().all()) else None  # else they were not measured
    mask, energy = MaskSubspace.top_k(scores, len(eig.eigenvalues)), layer_energy(eig.subspace, labels)
    return {
        "k_max": len(eig.eigenvalues),
        "overlap": curves[0].observed.tolist(),
        "overlap_error": _error(scores, eig, certificate),
        "certificate": None if certificate is None else _certificate(certificate),
        **{f"chance_{curve.null}": _chance(curve) for curve in curves},
        "mask_counts": list(mask.composition(H.parameters).counts),
        "mask_ties": None if mask.ties is None else attrs.asdict(mask.ties),
        "layer_energy": {
            "eigenvectors": energy[:, :FIRST].tolist(),
            "eigenspaces": torch.stack([energy[:, :k].mean(dim=1) for k in table_k], dim=1).tolist(),
        },
        "participation_ratio": participation_ratio(eig.subspace).tolist(),
        "eigenvalues": eig.eigenvalues.tolist(),
        "residual_norms": eig.residual_norms.tolist(),
        "report": eig.report.to_dict() | {"status_text": eig.report.status.value, "seconds": eig.report.seconds},
    }


def _chance(curve: ChanceCurve) -> dict[str, list[float]]:
    low, high = curve.interval(LEVEL)
    numbers = {"mean": curve.mean, "std": curve.std, "low": low, "high": high, "p_value": curve.p_value("two-sided")}
    return {name: values.tolist() for name, values in numbers.items()}


def _error(scores: Tensor, eig: EigenDecomposition, certificate: Certificate | None) -> dict[str, list[float]]:
    if certificate is None:
        unknown = [math.nan] * len(eig.eigenvalues)
        return {"low": unknown, "high": unknown}
    ends = zip(("low", "high"), overlap_curve_interval(scores, eig.subspace, certificate.sine_norms), strict=True)
    return {name: end.cpu().where(certificate.leads, math.nan).tolist() for name, end in ends}


def _certificate(certificate: Certificate) -> dict[str, Any]:
    curves = ("radii", "sharp_radii", "leads", "sines", "overlaps")
    return {
        **{name: getattr(certificate, name).tolist() for name in curves},
        "premise": certificate.premise,
        "probability": certificate.probability,
    }
