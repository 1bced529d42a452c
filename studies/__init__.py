"""The experiments, the command line, plots and the report."""

from .options import StudyOptions
from .overlap_study import OverlapStudy
from .own import own_problem
from .problem import DataRequest, HessianPlan, Problem, ProblemData

__all__ = ["DataRequest", "HessianPlan", "OverlapStudy", "Problem", "ProblemData", "StudyOptions", "own_problem"]
