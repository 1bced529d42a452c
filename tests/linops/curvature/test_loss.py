"""Losses know what they are means over."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

import eigenspan as es
from eigenspan.linops.curvature.loss import as_loss


def weight_of(loss, output, target):
    return as_loss(loss).weight(output, target)


LOGITS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, -100, 1, -100])
CLASS_WEIGHT = torch.tensor([1.0, 2.0, 0.5])


def test_cross_entropy_weighs_by_targets_that_are_kept():
    assert weight_of(nn.CrossEntropyLoss(), LOGITS, CLASSES) == 4
    assert weight_of(nn.CrossEntropyLoss(ignore_index=1), LOGITS, CLASSES.clamp(min=0)) == 4
    assert weight_of(functional.cross_entropy, LOGITS, CLASSES) == 4


def test_cross_entropy_weighs_by_class_weights():
    expected = 1 + 2 + 0.5 + 2
    assert weight_of(nn.CrossEntropyLoss(weight=CLASS_WEIGHT), LOGITS, CLASSES) == expected
    partial = functools.partial(functional.cross_entropy, weight=CLASS_WEIGHT)
    assert weight_of(partial, LOGITS, CLASSES) == expected
    assert weight_of(nn.NLLLoss(weight=CLASS_WEIGHT), LOGITS, CLASSES) == expected


def test_cross_entropy_with_class_probabilities_weighs_by_positions():
    sequence = torch.randn(2, 3, 5)
    assert weight_of(nn.CrossEntropyLoss(weight=CLASS_WEIGHT), LOGITS, LOGITS.softmax(1)) == 6
    assert weight_of(nn.CrossEntropyLoss(), sequence, sequence.softmax(1)) == 10


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.BCEWithLogitsLoss(), functional.l1_loss, nn.HuberLoss()])
def test_elementwise_losses_weigh_by_elements(loss):
    assert weight_of(loss, LOGITS, LOGITS) == 18


def test_other_losses_weigh_by_samples():
    assert weight_of(lambda output, target: output.mean(), LOGITS, CLASSES) == 6
    assert weight_of(nn.KLDivLoss(reduction="batchmean"), LOGITS, LOGITS) == 6


def test_a_weight_is_the_denominator_of_the_mean():
    """Mean times weight is the sum: PyTorch's own reductions are the independent check; float32 rounding of 6 terms."""
    for mean, total in [
        (nn.CrossEntropyLoss(CLASS_WEIGHT), nn.CrossEntropyLoss(CLASS_WEIGHT, reduction="sum")),
        (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.1, reduction="sum")),
        (nn.NLLLoss(CLASS_WEIGHT), nn.NLLLoss(CLASS_WEIGHT, reduction="sum")),
    ]:
        weighted = mean(LOGITS, CLASSES) * weight_of(mean, LOGITS, CLASSES)
        torch.testing.assert_close(weighted, total(LOGITS, CLASSES), rtol=1e-5, atol=0)


def test_convexity_is_known_of_pytorch_losses_only():
    assert as_loss(nn.CrossEntropyLoss()).convex
    assert not as_loss(nn.CrossEntropyLoss(weight=-CLASS_WEIGHT)).convex
    assert not as_loss(lambda output, target: output.sum()).convex

    class Other(nn.CrossEntropyLoss):
        def forward(self, output, target):
            return -super().forward(output, target)

    assert not as_loss(Other()).convex


def test_reduction_none_is_refused():
    with pytest.raises(ValueError, match="reduction='none'"):
        as_loss(nn.MSELoss(reduction="none"))
    with pytest.raises(ValueError, match="reduction"):
        es.Loss(functional.mse_loss, reduction="none")


def test_what_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="callable"):
        as_loss("cross-entropy")
