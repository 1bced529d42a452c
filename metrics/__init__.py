"""What two subspaces are to each other: principal angles, distances, overlap, chance levels, paths. Localisation."""

from .angles import PrincipalAngles, PrincipalVectors, principal_angles, principal_vectors
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
from .localisation import layer_energy, participation_ratio
from .manifold import geodesic_point, grassmann_exp, grassmann_log, karcher_mean
from .nearest import nearest_mask, nearest_subspace
from .overlap import containment, jaccard, overlap, overlap_curve

__all__ = [
    "GRASSMANN_DISTANCES",
    "ChanceCurve",
    "ChanceLevel",
    "GrassmannDistance",
    "OverlapJackknife",
    "PrincipalAngles",
    "PrincipalVectors",
    "asimov",
    "binet_cauchy",
    "chance",
    "chance_curve",
    "chordal",
    "containment",
    "fubini_study",
    "geodesic",
    "geodesic_point",
    "grassmann_exp",
    "grassmann_log",
    "jaccard",
    "karcher_mean",
    "layer_energy",
    "martin",
    "nearest_mask",
    "nearest_subspace",
    "overlap",
    "overlap_curve",
    "overlap_curve_interval",
    "overlap_excess",
    "overlap_interval",
    "overlap_jackknife",
    "participation_ratio",
    "permutation_test",
    "principal_angles",
    "principal_vectors",
    "procrustes",
    "projection",
    "spectral",
]
