"""Linear operators, their algebra, curvature of models, and subspaces."""

from .basic import Counted, Declared, Dense, Diagonal, Function, Identity
from .block import BlockDiagonal, Kronecker, Stacked
from .composition import Composition
from .coordinate import Embedding, PartialPermutation
from .curvature import (
    GGN,
    CurvatureOperator,
    EmpiricalFisher,
    Hessian,
    Jacobian,
    Loss,
    MonteCarloFisher,
    Objective,
    ProductPlan,
    Risk,
)
from .diagonal import exact_diagonal
from .interop import as_operator, to_scipy
from .mask import MaskSubspace
from .operator import Adjoint, Congruence, LinearOperator, Product, Scaled, Sum
from .orthonormal import EigenSubspace, OrthonormalSubspace
from .parameters import ParameterSpace
from .scores import absolute_gradient, connection_sensitivity, magnitude, movement, random_scores, saliency
from .selection import Ties, ranking
from .structure import Structure
from .subspace import Subspace

__all__ = [
    "GGN",
    "Adjoint",
    "BlockDiagonal",
    "Composition",
    "Congruence",
    "Counted",
    "CurvatureOperator",
    "Declared",
    "Dense",
    "Diagonal",
    "EigenSubspace",
    "Embedding",
    "EmpiricalFisher",
    "Function",
    "Hessian",
    "Identity",
    "Jacobian",
    "Kronecker",
    "LinearOperator",
    "Loss",
    "MaskSubspace",
    "MonteCarloFisher",
    "Objective",
    "OrthonormalSubspace",
    "ParameterSpace",
    "PartialPermutation",
    "Product",
    "ProductPlan",
    "Risk",
    "Scaled",
    "Stacked",
    "Structure",
    "Subspace",
    "Sum",
    "Ties",
    "absolute_gradient",
    "as_operator",
    "connection_sensitivity",
    "exact_diagonal",
    "magnitude",
    "movement",
    "random_scores",
    "ranking",
    "saliency",
    "to_scipy",
]
