"""Gradients by the weight of a linear layer, as sums of outer products that are not formed."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from ..row_gram import row_products

_ENTRIES = 1 << 22  # of what is formed at a time


@attrs.frozen(eq=False)
class LayerRows:
    """Rows Σ_p δ_rp a_pᵀ, flat (out in) matrices, r of a sample and p its positions.

    Samples of fewer rows or positions than others are filled up with zeros.

    Attributes:
        inputs: a, (samples, positions, in).
        slopes: δ, (samples, rows of a sample, positions, out).
        places: of the rows among all (samples, rows of a sample); None for all of them in order.
    """

    inputs: Tensor
    slopes: Tensor
    places: Tensor | None

    @classmethod
    def of_samples(cls, samples: Sequence[tuple[Tensor, Tensor]]) -> LayerRows:
        """From inputs (positions, in) and slopes (rows, positions, out) of each sample."""
        slopes = _stacked([slopes for _, slopes in samples])
        rows = slopes.shape[1]
        places = [number * rows + row for number, (_, each) in enumerate(samples) for row in range(len(each))]
        complete = len(places) == len(samples) * rows
        return cls(
            _stacked([inputs for inputs, _ in samples]),
            slopes,
            None if complete else torch.tensor(places, device=slopes.device),
        )

    def row_gram(self) -> Tensor:
        """Σ_pq ⟨a_p, a_q⟩ ⟨δ_rp, δ_sq⟩, (rows, rows) in float64.

        Cost: for m rows of N samples at P positions P² (m² out + N² in) flops.
        """
        samples, rows, positions, _ = self.slopes.shape
        inputs = [self.inputs[:, p].contiguous() for p in range(positions)]
        slopes = [self.slopes[:, :, p].flatten(0, 1).contiguous() for p in range(positions)]
        total = torch.zeros(samples * rows, samples * rows, dtype=torch.float64, device=self.slopes.device)
        for p in range(positions):
            for q in range(p, positions):
                part = row_products(slopes[p], slopes[q])
                of_samples = row_products(inputs[p], inputs[q])
                part.view(samples, rows, samples, rows).mul_(of_samples[:, None, :, None])
                total += part
                if q > p:
                    total += part.mT
        return total if self.places is None else total[self.places][:, self.places]

    def pushed(self, X: Tensor) -> Tensor:
        """The product with an (out in, k) block, (rows, k)."""
        samples, rows, positions, out = self.slopes.shape
        images = []
        for start in range(0, X.shape[1], self._width):
            block = X[:, start : start + self._width]
            k = block.shape[1]
            weights = block.mT.reshape(k * out, self.inputs.shape[2])
            image = weights @ self.inputs.flatten(0, 1).mT  # of the layer, for each column: (k out, samples positions)
            image = image.view(k, out, samples, positions).permute(2, 3, 1, 0).reshape(samples, positions * out, k)
            images.append(torch.bmm(self.slopes.flatten(2), image).flatten(0, 1))
        image = torch.cat(images, 1) if images else X.new_zeros(samples * rows, 0)
        return image if self.places is None else image[self.places]

    def pull(self, Y: Tensor, result: Tensor) -> None:
        """Write the product of the transpose with Y, (rows, k), into the rows of ``result``, (k, out in)."""
        samples, rows, positions, out = self.slopes.shape
        if self.places is not None:
            Y = Y.new_zeros(samples * rows, Y.shape[1]).index_copy_(0, self.places, Y)
        for start in range(0, Y.shape[1], self._width):
            block = Y[:, start : start + self._width]
            k = block.shape[1]
            # Of each sample, its rows summed up: (samples, k, positions out).
            slopes = torch.bmm(block.reshape(samples, rows, k).mT, self.slopes.flatten(2))
            slopes = slopes.view(samples, k, positions, out).permute(1, 3, 0, 2)
            image = slopes.reshape(k * out, samples * positions) @ self.inputs.flatten(0, 1)
            result[start : start + k] = image.view(k, out * self.inputs.shape[2])

    @property
    def _width(self) -> int:
        """Columns at a time."""
        samples, _, positions, out = self.slopes.shape
        return max(1, _ENTRIES // max(1, out * self.inputs.shape[2], samples * positions * out))


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """One after the other along a new first dimension, with zeros where some are shorter."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape for tensor in tensors), strict=True)]
    stack = tensors[0].new_zeros(len(tensors), *shape)
    for place, tensor in zip(stack, tensors, strict=True):
        place[tuple(slice(size) for size in tensor.shape)] = tensor
    return stack
