"""Eigensolvers of symmetric operators, their results, and random test matrices."""

from .dense import DenseEigh
from .lanczos import BlockLanczos
from .results import ConvergenceWarning, EigenDecomposition, SolveReport, Status
from .scipy_adapters import Arpack
from .sketched import SketchedEigh
from .sketches import SSRFT, Gaussian, Rademacher, Sketch
from .solver import EigenPairs, EigenSolver, Which

__all__ = [
    "SSRFT",
    "Arpack",
    "BlockLanczos",
    "ConvergenceWarning",
    "DenseEigh",
    "EigenDecomposition",
    "EigenPairs",
    "EigenSolver",
    "Gaussian",
    "Rademacher",
    "Sketch",
    "SketchedEigh",
    "SolveReport",
    "Status",
    "Which",
]
