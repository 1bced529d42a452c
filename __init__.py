"""Matrix-free curvature operators, eigensolvers and subspaces with Grassmannian metrics for PyTorch models.

Three nouns and one verb: a `LinearOperator`, built from a model or from anything that multiplies vectors; an
`EigenSolver`, whose ``solve`` gives an `EigenDecomposition`; and a `Subspace`, of eigenvectors or of a parameter mask,
compared with another one by scalar functions of the principal angles.
"""

import importlib.metadata

from . import linops, metrics, solvers
from .linops import *  # noqa: F403
from .metrics import *  # noqa: F403
from .solvers import *  # noqa: F403

__version__ = importlib.metadata.version("eigenspan")
"""The version that is installed."""

__all__ = ["__version__"]
__all__ += linops.__all__
__all__ += metrics.__all__
__all__ += solvers.__all__
