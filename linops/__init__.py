"""Linear operators, their algebra, curvature of models, and subspaces."""

from .basic import Counted, Declared, Dense, Diagonal, Function, Identity
from .block import BlockDiagonal, Kronecker, Stacked
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
from .interop import as_operator, to_scipy
from .mask import MaskSubspace, absolute_gradient, magnitude, random_scores, ranking
from .operator import Adjoint, Congruence, LinearOperator, Product, Scaled, Sum
from .parameters import ParameterSpace
from .structure import Structure
from .subspace import EigenSubspace, OrthonormalSubspace, Subspace

__all__ = [
    "GGN",
    "Adjoint",
    "BlockDiagonal",
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
    "absolute_gradient",
    "as_operator",
    "magnitude",
    "random_scores",
    "ranking",
    "to_scipy",
]
