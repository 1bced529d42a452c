"""Curvature of models: operators of (model, loss, data) at a point."""

from .fisher import EmpiricalFisher, MonteCarloFisher
from .ggn import GGN
from .hessian import Hessian
from .jacobian import Jacobian
from .loss import Loss, Objective
from .operator import CurvatureOperator
from .plan import ProductPlan
from .risk import Risk

__all__ = [
    "GGN",
    "CurvatureOperator",
    "EmpiricalFisher",
    "Hessian",
    "Jacobian",
    "Loss",
    "MonteCarloFisher",
    "Objective",
    "ProductPlan",
    "Risk",
]
