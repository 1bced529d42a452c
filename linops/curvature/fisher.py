"""Fisher matrices: second moments of the gradients of single samples, at the data's targets or the model's own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy
import scipy
import torch
from torch import Tensor, nn

from ..basic import is_integer
from ..parameters import Selection
from ..structure import Structure
from .data import length, map_tensors
from .gauss_newton import GaussNewtonOperator, Outputs, Root
from .ggn import model_outputs
from .loss import Loss, tensors_of
from .loss_hessian import output_curvature
from .outputs import taken_apart
from .products import Share, Tensors


class EmpiricalFisher(GaussNewtonOperator):
    """Σ_i w_i ∇ℓ_i ∇ℓ_iᵀ / Σ_i w_i, (n, n), PSD: the second moment of the samples' gradients.

    ℓ_i is the loss of sample i alone, a batch of one, and w_i its weight in the risk (see `Loss`), such as its class
    weight. For summed losses it is Σ_i ∇ℓ_i ∇ℓ_iᵀ. A sample is an index of the first
    dimension: all positions of a sequence count as one. See `CurvatureOperator` for arguments.

    Raises:
        TypeError: an `Objective`, which has no outputs to split at.

    Source: Kunstner, Hennig & Balles (2019), Limitations of the empirical Fisher approximation for natural gradient
    descent.

    Cost: about four forward passes over the data a column; five more where nothing is kept.
    """

    def _known_structure(self) -> Structure:
        return Structure.PSD

    def _outputs(self, theta: Mapping[str, Tensor], batch: Any) -> Outputs:
        outputs = model_outputs(self._risk, theta, batch)
        output = outputs.together(outputs.tensors)
        require_samples(self, length(batch), *tensors_of(output), *tensors_of(outputs.target))
        kept, weights = self._weighing(output, outputs.target, length(batch))
        losses = self._sample_losses(_picked(output, kept), _picked(outputs.target, kept))
        return Outputs((losses,), lambda tensors: tensors[0], weights, outputs.inputs)

    def _weighing(self, output: Any, target: Any, samples: int) -> tuple[Tensor, Tensor]:
        """The samples that weigh something, and the share of each in the risk."""
        loss = self._risk.loss
        assert isinstance(loss, Loss)
        one = self._risk.parameters.values.new_ones(())
        with torch.no_grad():
            shares = [
                float(self._risk.share(one, loss.weight(_sample(output, i), _sample(target, i))))
                for i in range(samples)
            ]
        weights = torch.tensor(shares, dtype=one.dtype, device=one.device)
        return weights.nonzero()[:, 0], weights[weights != 0]

    def _sample_losses(self, output: Any, target: Any) -> Tensor:
        function = self._risk.loss.function
        samples = length((output, target))
        if samples == 0:
            return self._risk.parameters.values.new_zeros(0)

        def single(*tensors: Tensor) -> Tensor:
            return function(*together([tensor[None] for tensor in tensors]))

        tensors, together = taken_apart((output, target))
        try:
            return torch.func.vmap(single)(*tensors)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError):  # a loss that branches on values, or whose tensors are not all of samples
            return torch.stack([function(_sample(output, i), _sample(target, i)) for i in range(samples)])

    def _root(self, outputs: Outputs, points: Tensors) -> Root:
        """One row √w_i ∇ℓ_iᵀ a sample, of those that weigh something."""
        weights = outputs.target
        if bool((weights < 0).any()):
            raise TypeError(f"{self} has no factor B with BᵀB = A, as some samples weigh less than nothing")
        roots = weights.sqrt()
        return Root.of_tensor(lambda u: roots * u, lambda y: roots * y, weights.shape)

    def _middle(self, outputs: Outputs, points: Tensors) -> Share:
        weights = outputs.target
        return lambda tangents, batched: (tangents[0] * weights,)


class MonteCarloFisher(GaussNewtonOperator):
    """Σ_i Jᵢᵀ (1/S Σ_s r_is r_isᵀ) Jᵢ, (n, n), PSD: the Fisher matrix by draws from the model's own likelihood.

    r_is is the gradient of sample i's negative log-likelihood by the model's output, at a target drawn from it: a class
    for cross-entropy, a normal deviate for squared error, 0 or 1 for BCE with logits. Its mean over draws is the GGN,
    which equals the Fisher matrix for these losses; the standard deviation falls as 1/√S.
    The draws of a sample depend on ``seed`` and on the sample's inputs alone, not on batches, order or device. See
    `CurvatureOperator` for the other arguments.

    Args:
        draws: S, for each sample.
        seed: of the draws.

    Raises:
        TypeError: a loss other than PyTorch's cross-entropy, squared error and BCE with logits.
        ValueError: fewer than one draw.

    Source: Martens (2020), New insights and perspectives on the natural gradient method, section 9.2.

    Cost: about four forward passes over the data a column, whatever S; five more where nothing is kept.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        draws: int = 1,
        seed: int = 0,
        parameters: Selection = None,
        **options: Any,
    ) -> None:
        for name, value, least in (("draws", draws, 1), ("seed", seed, 0)):
            if not is_integer(value, least):
                raise ValueError(f"{name} is an integer >= {least}, got {value!r}")
        self._draws, self._seed = int(draws), int(seed)
        super().__init__(model, loss, data, parameters=parameters, **options)
        self._require_likelihood()

    def _content(self) -> Any:
        return [super()._content(), self._draws, self._seed]

    def _known_structure(self) -> Structure:
        return Structure.PSD

    def _require_likelihood(self) -> None:
        with self._risk.conditions(), torch.enable_grad():
            outputs = self._outputs(self._leaves, self._risk.first_batch())
            self._root(outputs, outputs.tensors)

    def _outputs(self, theta: Mapping[str, Tensor], batch: Any) -> Outputs:
        return model_outputs(self._risk, theta, batch)

    def _root(self, outputs: Outputs, points: Tensors) -> Root:
        """Of each sample one row r_isᵀ Jᵢ / √S a draw."""
        output = outputs.together(points)
        found = output_curvature(self._risk, output, outputs.target)
        if found is None:
            raise TypeError(
                "MonteCarloFisher draws targets from the likelihood behind CrossEntropyLoss, MSELoss or "
                f"BCEWithLogitsLoss on one output tensor, not for {self._risk.loss.function!r} on a "
                f"{type(output).__name__}: wrap a model that returns more so that it returns that tensor, or use the "
                "GGN or the EmpiricalFisher"
            )
        require_samples(self, length((outputs.inputs,)), output)
        name, p, scale = found
        if name == "cross_entropy" and output.ndim == 1:
            raise ValueError("MonteCarloFisher takes batches, not a single sample's classes: give a batch of one")
        uniform = self._uniform(outputs.inputs, output, name)
        with torch.no_grad():
            slopes = torch.stack([scale.sqrt() * _DEVIATIONS[name](p, u) for u in uniform]) / len(uniform) ** 0.5
        flat = slopes.flatten(2) if slopes.ndim > 2 else slopes[..., None]

        def push(u: Tensor) -> Tensor:
            return torch.einsum("snc,nc->ns", flat, u.reshape(flat.shape[1:]))

        def pull(y: Tensor) -> Tensor:
            return torch.einsum("snc,ns->nc", flat, y).reshape(output.shape)

        return Root.of_tensor(push, pull, flat.shape[1::-1])

    def _uniform(self, inputs: Any, output: Tensor, name: str) -> list[Tensor]:
        """For each draw, numbers in (0, 1) as the output has entries, or positions; by the samples' inputs."""
        shape = output.shape
        if name == "cross_entropy":
            shape = torch.Size([*output.shape[:1], 1, *output.shape[2:]])
        samples = shape[0]
        size = shape.numel() // max(samples, 1)
        numbers = numpy.stack(
            [
                numpy.random.default_rng([self._seed, key]).random((self._draws, size))
                for key in _sample_keys(inputs, samples)
            ],
            axis=1,
        )
        # Away from 0 and 1, where the normal deviates are infinite.
        numbers = numbers.clip(2.0**-53, 1 - 2.0**-53)
        return list(torch.from_numpy(numbers).reshape(self._draws, *shape).to(output.device))


def require_samples(operator: Any, samples: int, *tensors: Tensor) -> None:
    """Tensors must have the samples along their first dimension.

    Raises:
        ValueError: one that has not; the message says what to do.
    """
    if any(tensor.ndim == 0 or len(tensor) != samples for tensor in tensors):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ValueError(
            f"{type(operator).__name__} takes one gradient for each sample, an index of the first dimension, but for "
            f"{samples} samples there are outputs and targets of shapes {shapes}: keep positions in further dimensions"
        )


def _sample_keys(inputs: Any, samples: int) -> Iterator[int]:
    """A number for each sample, by the bytes of its inputs."""
    held = [
        tensor.detach().cpu().contiguous()
        for tensor in tensors_of(inputs)
        if tensor.ndim > 0 and len(tensor) == samples
    ]
    for i in range(samples):
        digest = hashlib.blake2b(digest_size=8)
        for tensor in held:
            digest.update(tensor[i].reshape(-1).view(torch.uint8).numpy().tobytes())
        yield int.from_bytes(digest.digest(), "little")


def _drawn_class(p: Tensor, uniform: Tensor) -> Tensor:
    """The slope p - e_c for a class c drawn from p: the one in whose part of (0, 1) the uniform number falls."""
    dim = 1 if p.ndim > 1 else 0
    below = (p.double().cumsum(dim) <= uniform * p.double().sum(dim, keepdim=True)).sum(dim, keepdim=True)
    drawn = below.clamp(max=p.shape[dim] - 1)
    return p - torch.zeros_like(p).scatter_(dim, drawn, 1.0)


def _normal(p: Tensor, uniform: Tensor) -> Tensor:
    return torch.from_numpy(scipy.special.ndtri(uniform.cpu().numpy())).to(p)


def _drawn_bit(p: Tensor, uniform: Tensor) -> Tensor:
    """The slope (p - y) / √(p (1 - p)) for a bit y drawn from p: of mean zero and variance one."""
    return torch.where(uniform < p, -((1 - p) / p).sqrt(), (p / (1 - p)).sqrt())


_DEVIATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": _drawn_class,
    "mse_loss": _normal,
    "binary_cross_entropy_with_logits": _drawn_bit,
}


def _sample(tree: Any, i: int) -> Any:
    """Sample i as a batch of one."""
    return map_tensors(lambda tensor: tensor[i : i + 1] if tensor.ndim > 0 else tensor, tree)


def _picked(tree: Any, samples: Tensor) -> Any:
    return map_tensors(lambda tensor: tensor[samples] if tensor.ndim > 0 else tensor, tree)
