"""Solvers of eigenvalues and singular values, their results and certificates, estimators, random test matrices."""

from .auto import Auto, choose, choose_svd
from .block_store import BlockStore
from .certificates import Certificate, certify
from .dense import DenseEigh, DenseSVD
from .diagonal_blocks import solve_diagonal_blocks
from .drivers import eigsh, svds
from .estimators import (
    Bounds,
    Estimate,
    EstimateStatus,
    SpectralDensity,
    diagonal,
    eigenvalue_count,
    frobenius_norm,
    nuclear_norm,
    spectral_density,
    spectral_norm,
    trace,
)
from .golub_kahan import BlockGolubKahan
from .gram import GramEigh
from .iteration import SubspaceIteration
from .lanczos import BlockLanczos, Lanczos
from .lobpcg import Lobpcg
from .manifest import StoredMatrix
from .measurement import Measurement
from .nystrom import Nystrom
from .planning import SolvePlan
from .report import ConvergenceWarning, SolveReport, Status
from .results import EigenDecomposition, SingularValueDecomposition
from .scipy_adapters import Arpack
from .scipy_svd import ArpackSVD, Propack
from .scree import Scree, scree
from .sketched import SketchedEigh
from .sketched_svd import SketchedSVD
from .sketches import SSRFT, Gaussian, Rademacher, Sketch, SparseSign
from .solver import EigenPairs, EigenSolver, Which
from .storage import Storage
from .svd_solver import SingularTriplets, SVDSolver
from .workers import decompose_folder, measure_columns

__all__ = [
    "SSRFT",
    "Arpack",
    "ArpackSVD",
    "Auto",
    "BlockGolubKahan",
    "BlockLanczos",
    "BlockStore",
    "Bounds",
    "Certificate",
    "ConvergenceWarning",
    "DenseEigh",
    "DenseSVD",
    "EigenDecomposition",
    "EigenPairs",
    "EigenSolver",
    "Estimate",
    "EstimateStatus",
    "Gaussian",
    "GramEigh",
    "Lanczos",
    "Lobpcg",
    "Measurement",
    "Nystrom",
    "Propack",
    "Rademacher",
    "SVDSolver",
    "Scree",
    "SingularTriplets",
    "SingularValueDecomposition",
    "Sketch",
    "SketchedEigh",
    "SketchedSVD",
    "SolvePlan",
    "SolveReport",
    "SparseSign",
    "SpectralDensity",
    "Status",
    "Storage",
    "StoredMatrix",
    "SubspaceIteration",
    "Which",
    "certify",
    "choose",
    "choose_svd",
    "decompose_folder",
    "diagonal",
    "eigenvalue_count",
    "eigsh",
    "frobenius_norm",
    "measure_columns",
    "nuclear_norm",
    "scree",
    "solve_diagonal_blocks",
    "spectral_density",
    "spectral_norm",
    "svds",
    "trace",
]
