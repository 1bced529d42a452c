"""Localisation: on which layers, and on how many coordinates, a vector lives."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..linops.basic import require_labels
from ..linops.orthonormal import OrthonormalSubspace
from ..linops.tall_matrix import row_slices


def layer_energy(vectors: Tensor | OrthonormalSubspace, labels: Tensor) -> Tensor:
    """The shares Σ_{i in layer} vᵢ² / ‖v‖² of every vector, (L, k) float64; each column sums to one.

    Of orthonormal vectors the mean of the columns, times k and over the size of a layer, is the mean leverage of its
    coordinates: that with which a mask overlaps by chance if it is random within layers.

    Args:
        vectors: (n, k) a vector in each column, or a subspace with such a basis, an eigenspace.
        labels: (n,) integers 0 … L - 1, the layer of each coordinate, such as ``H.parameters.labels()`` for tensors
            or ``module_labels()``.

    Returns:
        (L, k) on the device of the vectors, a row a layer and a column a vector; nan for a vector of zeros.

    Raises:
        TypeError: vectors or labels of another kind, complex vectors, labels that are not integers, or different
            devices.
        ValueError: vectors that are not (n, k), not one label for each coordinate, or a negative one.

    Cost: O(n k) operations, the rows read once; L k numbers and a block of rows in memory.
    """
    vectors, n, k, device = _described(vectors)
    require_labels("labels", labels, n, device)
    labels = labels.long()
    if int(labels.min()) < 0:
        raise ValueError(f"labels number the layers from 0, got {int(labels.min())}; renumber them")
    energy = torch.zeros(k, int(labels.max()) + 1, dtype=torch.float64, device=device)
    for rows, squares in _squares(vectors):
        energy.scatter_add_(1, labels[rows].expand(k, -1), squares.mT)
    return (energy / energy.sum(dim=1, keepdim=True)).mT


def participation_ratio(vectors: Tensor | OrthonormalSubspace) -> Tensor:
    """The number of coordinates that take part in every vector, (Σ vᵢ²)² / Σ vᵢ⁴, (k,) float64, in [1, n].

    It is m for m equal entries among zeros, and about n / 3 for a vector in a uniformly random direction: the mean of
    Σ vᵢ⁴ is 3 / (n + 2). Its inverse is known as the inverse participation ratio.

    Args:
        vectors: (n, k) a vector in each column, or a subspace with such a basis, an eigenspace.

    Returns:
        (k,) on the device of the vectors; nan for a vector of zeros.

    Raises:
        TypeError: vectors of another kind, or complex ones.
        ValueError: vectors that are not (n, k).

    Source: Bell & Dean, Atomic vibrations in vitreous silica, Discuss. Faraday Soc. 50 (1970).

    Cost: O(n k) operations, the rows read once; a block of them in memory.
    """
    vectors, _, k, device = _described(vectors)
    total = torch.zeros(k, dtype=torch.float64, device=device)
    of_squares = torch.zeros_like(total)
    for _, squares in _squares(vectors):
        total += squares.sum(dim=0)
        of_squares += squares.square().sum(dim=0)
    return total.square() / of_squares


def _squares(vectors: Tensor | OrthonormalSubspace) -> Iterator[tuple[slice, Tensor]]:
    """vᵢ² of some rows at a time, (b, k) float64, each with its place; of a tensor up to a factor for each column."""
    if isinstance(vectors, OrthonormalSubspace):
        for rows, block in vectors.row_blocks():
            yield rows, block.double().square()
        return
    places = list(row_slices(*vectors.shape))
    largest = torch.stack([vectors[rows].abs().amax(dim=0) for rows in places]).amax(dim=0).double()
    # Divided by a power of two near the largest entry, fourth powers neither overflow nor vanish, and nothing rounds.
    unit = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1)
    for rows in places:
        yield rows, (vectors[rows].double() / unit).square()


def _described(
    vectors: Tensor | OrthonormalSubspace,
) -> tuple[Tensor | OrthonormalSubspace, int, int, torch.device]:
    """Vectors without a graph, n, k and their device, once they are known to be such."""
    if isinstance(vectors, OrthonormalSubspace):
        return vectors, vectors.ambient_dim, vectors.dim, vectors.device
    if not isinstance(vectors, Tensor):
        raise TypeError(
            f"expected vectors, (n, k), or a subspace that holds them, got {type(vectors).__name__}; "
            "a decomposition has its .subspace, and where a mask lies its composition() says"
        )
    if vectors.ndim != 2 or len(vectors) == 0:
        raise ValueError(f"vectors are the columns of (n, k), got shape {tuple(vectors.shape)}; of one take v[:, None]")
    if vectors.is_complex():
        raise TypeError(f"vectors are real, got {vectors.dtype}; of complex ones take v.abs(), which has their energy")
    if vectors.dtype == torch.bool:
        raise TypeError("vectors are numbers, got torch.bool; of a mask take mask.double()")
    return vectors.detach(), len(vectors), vectors.shape[1], vectors.device
