"""The experiments, the command line, plots and the report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .options import StudyOptions
from .overlap_study import OverlapStudy
from .own import own_problem, study_checkpoints
from .problem import DataRequest, HessianPlan, Problem, ProblemData
from .recorder import CurvatureRecorder
from .results import read_results

if TYPE_CHECKING:
    from .report import write_report
    from .run_comparison import write_comparison

_DRAWN = {"write_report": ".report", "write_comparison": ".run_comparison"}  # which import matplotlib

__all__ = [
    "CurvatureRecorder",
    "DataRequest",
    "HessianPlan",
    "OverlapStudy",
    "Problem",
    "ProblemData",
    "StudyOptions",
    "own_problem",
    "read_results",
    "study_checkpoints",
    "write_comparison",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _DRAWN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_DRAWN[name], __name__), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f'eigenspan.studies.{name} needs {error.name}, which is missing: pip install "eigenspan[studies]"'
        ) from error
