"""Scalars that compare two subspaces: principal angles, Grassmann distances, overlap and chance levels."""

from .angles import PrincipalAngles, principal_angles
from .chance import ChanceLevel, chance, overlap_excess, permutation_test
from .chance_curve import ChanceCurve, chance_curve
from .error_bars import OverlapJackknife, overlap_curve_interval, overlap_interval, overlap_jackknife
from .grassmann import (
    GRASSMANN_DISTANCES,
    GrassmannDistance,
    asimov,
    binet_cauchy,
    chordal,
    fubini_study,
    geodesic,
    martin,
    procrustes,
    projection,
    spectral,
)
from .overlap import containment, jaccard, overlap, overlap_curve

__all__ = [
    "GRASSMANN_DISTANCES",
    "ChanceCurve",
    "ChanceLevel",
    "GrassmannDistance",
    "OverlapJackknife",
    "PrincipalAngles",
    "asimov",
    "binet_cauchy",
    "chance",
    "chance_curve",
    "chordal",
    "containment",
    "fubini_study",
    "geodesic",
    "jaccard",
    "martin",
    "overlap",
    "overlap_curve",
    "overlap_curve_interval",
    "overlap_excess",
    "overlap_interval",
    "overlap_jackknife",
    "permutation_test",
    "principal_angles",
    "procrustes",
    "projection",
    "spectral",
]
