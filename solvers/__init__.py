"""Eigensolvers of symmetric operators, their results, and random test matrices."""

from .dense import DenseEigh
from .lanczos import BlockLanczos, Lanczos
from .measurement import Measurement
from .report import ConvergenceWarning, SolveReport, Status
from .results import EigenDecomposition, SingularValueDecomposition
from .scipy_adapters import Arpack
from .sketched import SketchedEigh
from .sketched_svd import SketchedSVD
from .sketches import SSRFT, Gaussian, Rademacher, Sketch, SparseSign
from .solver import EigenPairs, EigenSolver, Which
from .svd_solver import SingularTriplets, SVDSolver

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
    "Lanczos",
    "Measurement",
    "Rademacher",
    "SVDSolver",
    "SingularTriplets",
    "SingularValueDecomposition",
    "Sketch",
    "SketchedEigh",
    "SketchedSVD",
    "SolveReport",
    "SparseSign",
    "Status",
    "Which",
]
