"""Scores of parameters: what masks rank them by, one flat tensor in the coordinates of the operator.

One more belongs to a subspace, its `leverage`: of all masks of k axes, that of its top k overlaps the subspace most.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .basic import seeded
from .curvature.operator import CurvatureOperator
from .parameters import ParameterSpace


def magnitude(parameters: ParameterSpace) -> Tensor:
    """|θ|, (n,): the absolute value of each parameter at the point, the score of magnitude pruning.

    Args:
        parameters: those of the operator, ``H.parameters``.

    Raises:
        TypeError: something that is no ParameterSpace, such as a model.

    Cost: none to speak of.
    """
    _require_space("magnitude", parameters)
    return parameters.values.abs()


def absolute_gradient(operator: CurvatureOperator) -> Tensor:
    """|∇L(θ)|, (n,): the absolute derivative of the operator's loss by each of its parameters.

    Raises:
        TypeError: something that is no curvature operator.

    Cost: one backward pass over the data.
    """
    _require_curvature("absolute_gradient", operator)
    return operator.gradient().abs()


def connection_sensitivity(operator: CurvatureOperator) -> Tensor:
    """|θ ∂L/∂θ|, (n,): the change of the operator's loss, to first order, when a parameter is set to zero.

    The score of SNIP, but for a factor that all entries share: they are not divided by their sum.

    Raises:
        TypeError: something that is no curvature operator.

    Source: Lee, Ajanthan & Torr (2019), SNIP: single-shot network pruning based on connection sensitivity.

    Cost: one backward pass over the data.
    """
    _require_curvature("connection_sensitivity", operator)
    return (operator.parameters.values * operator.gradient()).abs()


def saliency(parameters: ParameterSpace, diagonal: Tensor) -> Tensor:
    """θ² h / 2, (n,): the rise of the loss, to second order at a minimum, when one parameter alone is set to zero.

    With the diagonal h of the Hessian it is the saliency of optimal brain damage, with that of the empirical Fisher
    matrix the one of Theis et al.; a GGN does as well. Where an indefinite Hessian has a negative h the saliency stays
    negative, and ranks below all others: the loss is predicted to fall.

    Args:
        parameters: those of the operator, ``H.parameters``.
        diagonal: h, (n,): from `exact_diagonal`, or estimated by ``eigenspan.diagonal(H).value``.

    Raises:
        ValueError: a diagonal that does not have n entries.
        TypeError: something that is no ParameterSpace, or a diagonal of another dtype or device.

    Source: LeCun, Denker & Solla (1989), Optimal brain damage; Theis, Korshunova, Tejani & Huszár (2018), Faster gaze
    prediction with dense networks and Fisher pruning.

    Cost: none to speak of.
    """
    _require_space("saliency", parameters)
    if not isinstance(diagonal, Tensor):
        raise TypeError(f"saliency takes a diagonal, (n,), got {type(diagonal).__name__}; an Estimate has its .value")
    if diagonal.shape != (parameters.size,):
        raise ValueError(f"{parameters} has a diagonal of shape ({parameters.size},), got {tuple(diagonal.shape)}")
    if diagonal.dtype != parameters.dtype or diagonal.device != parameters.device:
        raise TypeError(
            f"saliency: {parameters} and a diagonal in {diagonal.dtype} on {diagonal.device} differ in dtype or "
            "device; convert it with diagonal.to(parameters.values)"
        )
    return parameters.values.square() * diagonal / 2


def movement(parameters: ParameterSpace, earlier: ParameterSpace) -> Tensor:
    """|θ - θ₀|, (n,): how far each parameter is from where it was at an earlier point.

    The "movement" of Zhou et al., from initialisation to the end of training. The movement pruning of Sanh et al. has
    another score: -Σ θ ∂L/∂θ summed over the steps of training, large where a parameter moved away from zero.

    Args:
        parameters: those of the operator, ``H.parameters``.
        earlier: the same tensors at the earlier point: ``ParameterSpace(model)``, made then, keeps a copy.

    Raises:
        ValueError: spaces of different tensors.
        TypeError: something that is no ParameterSpace, or spaces of different dtypes or devices.

    Source: Zhou, Lan, Liu & Yosinski (2019), Deconstructing lottery tickets: zeros, signs, and the supermask; Sanh,
    Wolf & Rush (2020), Movement pruning: adaptive sparsity by fine-tuning.

    Cost: none to speak of.
    """
    for space in (parameters, earlier):
        _require_space("movement", space)
    if list(parameters.shapes.items()) != list(earlier.shapes.items()):
        different = sorted(dict(set(parameters.shapes.items()) ^ set(earlier.shapes.items()))) or ["their order"]
        raise ValueError(
            f"{parameters} and {earlier}, the earlier point, are of different tensors ({', '.join(different[:6])}); "
            "select the same parameters of the same architecture"
        )
    if parameters.dtype != earlier.dtype or parameters.device != earlier.device:
        raise TypeError(f"{parameters} and {earlier}, the earlier point, differ in dtype or device; convert the model")
    return (parameters.values - earlier.values).abs()


def random_scores(parameters: ParameterSpace, seed: int = 0) -> Tensor:
    """A random ranking of the coordinates, (n,), whose top k is a uniformly random mask.

    In the parameters' dtype where that tells all ranks apart, which half precision and, from n = 2²⁴ on, float32 do
    not; else in float32 or float64.

    Raises:
        TypeError: something that is no ParameterSpace, or a seed that is no integer.

    Cost: a random permutation, drawn on the CPU so that a seed gives the same scores on every device.
    """
    _require_space("random_scores", parameters)
    order = torch.randperm(parameters.size, generator=seeded(seed))
    least = torch.float32 if parameters.size <= 2**24 else torch.float64
    dtype = torch.promote_types(parameters.dtype, least)
    return order.to(parameters.device, dtype)


def _require_space(score: str, parameters: Any) -> None:
    if not isinstance(parameters, ParameterSpace):
        raise TypeError(f"{score} takes the parameters of an operator, H.parameters, got {type(parameters).__name__}")


def _require_curvature(score: str, operator: Any) -> None:
    if not isinstance(operator, CurvatureOperator):
        raise TypeError(
            f"{score} takes an operator that has a loss, such as a Hessian or GGN, got {type(operator).__name__}"
        )
