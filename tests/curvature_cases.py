"""Small models with data, and their derivatives by plain autograd, as twins for the curvature operators."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp(device="cpu", dtype=torch.float64):
    """6-5-3 with tanh: 53 parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(device, dtype)


def classes(samples=11, device="cpu", dtype=torch.float64):
    """Inputs and class targets for `mlp`."""
    inputs = torch.randn(samples, 6, generator=generator(1), dtype=torch.float64)
    targets = torch.randint(0, 3, (samples,), generator=generator(2))
    return inputs.to(device, dtype), targets.to(device)


def risk_of_vector(model, loss, batch):
    """(point, function of the flat parameters) of a loss over one batch, by functional_call alone."""
    named = {name: parameter.detach() for name, parameter in model.named_parameters()}
    sizes = [tensor.numel() for tensor in named.values()]
    point = torch.cat([tensor.flatten() for tensor in named.values()])

    def function(vector):
        parts = zip(named.items(), vector.split(sizes), strict=True)
        theta = {name: part.view_as(tensor) for (name, tensor), part in parts}
        return loss(functional_call(model, theta, (batch[0],)), batch[1])

    return point, function


def dense_hessian(model, loss, batch):
    """The Hessian by double reverse-mode autograd, row by row: no forward mode, no vmap."""
    point, function = risk_of_vector(model, loss, batch)
    return torch.autograd.functional.hessian(function, point)


def dense_ggn(model, loss, batch):
    """Jᵀ H J with the Jacobian and the loss Hessian formed by reverse-mode autograd."""
    point, output = risk_of_vector(model, lambda output, target: output, batch)
    J = torch.autograd.functional.jacobian(output, point)
    value = output(point).detach()
    H = torch.autograd.functional.hessian(lambda out: loss(out, batch[1]), value)
    J, H = J.reshape(value.numel(), -1), H.reshape(value.numel(), value.numel())
    return J.mT @ H @ J


class SequenceModel(nn.Module):
    """Token embeddings, a core over the sequence, and logits per position, (batch, symbols, length)."""

    def __init__(self, core, width=8, symbols=11):
        super().__init__()
        self.embedding, self.core, self.head = nn.Embedding(symbols, width), core, nn.Linear(width, symbols)

    def forward(self, tokens):
        hidden = self.core(self.embedding(tokens))
        return self.head(hidden[0] if isinstance(hidden, tuple) else hidden).transpose(1, 2)


class CausalAttention(nn.Module):
    """Self-attention by torch's fused kernel, two heads of width 4."""

    def __init__(self):
        super().__init__()
        self.projection = nn.Linear(8, 24)

    def forward(self, X):
        heads = self.projection(X).view(*X.shape[:2], 2, 12).transpose(1, 2).chunk(3, -1)
        return functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).reshape(X.shape)


def model_zoo():
    """Name to (model, batch), in float64: one of each kind of layer that needs care."""
    torch.manual_seed(0)
    images = torch.randn(6, 3, 8, 8), torch.randint(0, 4, (6,))
    tokens = torch.randint(0, 11, (3, 5)), torch.randint(0, 11, (3, 5))
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    models = {
        "convolution": (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)),
            images,
        ),
        "batch-norm": (
            nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)),
            images,
        ),
        "group-norm": (
            nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.GroupNorm(2, 4), nn.SiLU(), nn.Flatten(), nn.Linear(36, 4)),
            images,
        ),
        "attention": (SequenceModel(CausalAttention()), tokens),
        "transformer": (SequenceModel(encoder), tokens),
        "lstm": (SequenceModel(nn.LSTM(8, 6, proj_size=0, batch_first=True), width=8), tokens),
        "gru": (SequenceModel(nn.GRU(8, 8, batch_first=True)), tokens),
    }
    models["lstm"][0].head = nn.Linear(6, 11)
    return {
        name: (model.double().eval(), tuple(part.double() if part.is_floating_point() else part for part in batch))
        for name, (model, batch) in models.items()
    }
