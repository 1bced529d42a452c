"""The experiments, the command line, plots and the report."""

from .options import StudyOptions
from .overlap_study import OverlapStudy
from .own import own_problem, study_checkpoints
from .problem import DataRequest, HessianPlan, Problem, ProblemData
from .recorder import CurvatureRecorder

__all__ = [
    "CurvatureRecorder",
    "DataRequest",
    "HessianPlan",
    "OverlapStudy",
    "Problem",
    "ProblemData",
    "StudyOptions",
    "own_problem",
    "study_checkpoints",
]
