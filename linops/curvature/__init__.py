"""Curvature of models: operators of (model, loss, data) at a point."""

from .ggn import GGN
from .hessian import Hessian
from .loss import Loss, Objective
from .operator import CurvatureOperator
from .plan import ProductPlan
from .risk import Risk

__all__ = ["GGN", "CurvatureOperator", "Hessian", "Loss", "Objective", "ProductPlan", "Risk"]
