"""Stochastic estimators of an operator's trace, diagonal, norms and spectral density, with margins that hold."""

from .density import SpectralDensity, eigenvalue_count, spectral_density
from .diagonal import diagonal
from .estimates import Bounds, Estimate, EstimateStatus
from .norms import frobenius_norm, nuclear_norm, spectral_norm
from .trace import trace

__all__ = [
    "Bounds",
    "Estimate",
    "EstimateStatus",
    "SpectralDensity",
    "diagonal",
    "eigenvalue_count",
    "frobenius_norm",
    "nuclear_norm",
    "spectral_density",
    "spectral_norm",
    "trace",
]
