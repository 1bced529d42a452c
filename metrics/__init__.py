"""What two subspaces are to each other: principal angles, distances, overlap, chance levels, and paths between them."""

from .angles import PrincipalAngles, PrincipalVectors, principal_angles, principal_vectors
from .chance import ChanceCurve, ChanceLevel, chance, chance_curve
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
from .manifold import geodesic_point, grassmann_exp, grassmann_log, karcher_mean
from .nearest import nearest_mask, nearest_subspace
from .overlap import containment, jaccard, overlap, overlap_curve

__all__ = [
    "GRASSMANN_DISTANCES",
    "ChanceCurve",
    "ChanceLevel",
    "GrassmannDistance",
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
    "martin",
    "nearest_mask",
    "nearest_subspace",
    "overlap",
    "overlap_curve",
    "principal_angles",
    "principal_vectors",
    "procrustes",
    "projection",
    "spectral",
]
