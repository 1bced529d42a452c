"""Matrix-free curvature operators, eigensolvers and subspaces with Grassmannian metrics for PyTorch models."""

from .linops import *  # noqa: F403
