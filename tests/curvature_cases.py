"""Small models with data, and their derivatives by plain autograd, as twins for the curvature operators."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel


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


def products_of_hessian(model, loss, batch, V):
    """H V by double reverse-mode autograd through unfused kernels, column by column."""
    parameters = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        parts = torch.autograd.grad(loss(model(batch[0]), batch[1]), parameters, create_graph=True)
        gradient = torch.cat([part.flatten() for part in parts])
        columns = [torch.autograd.grad(gradient @ v, parameters, retain_graph=True) for v in V.mT]
    return torch.stack([torch.cat([part.flatten() for part in column]) for column in columns], dim=1)


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


class Reading(torch.autograd.Function):
    """The identity, whose derivative reads a number: no linear program, no columns at once, no forward mode."""

    @staticmethod
    def forward(ctx, X):
        return X.clone()

    @staticmethod
    def backward(ctx, slope):
        if not math.isfinite(float(slope.detach().sum())):
            raise ValueError("an infinite derivative")
        return slope.clone()


class Cube(torch.autograd.Function):
    """X³, which can be derived twice in reverse mode and has no forward mode."""

    @staticmethod
    def forward(ctx, X):
        ctx.save_for_backward(X)
        return X**3

    @staticmethod
    def backward(ctx, slope):
        (X,) = ctx.saved_tensors
        return 3 * X**2 * slope


class Once(torch.autograd.Function):
    """The sine, whose derivative is marked as one that has no derivative."""

    @staticmethod
    def forward(ctx, X):
        ctx.save_for_backward(X)
        return X.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return slope * ctx.saved_tensors[0].cos()


class Applied(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, X):
        return self.function(X)


class TiedModel(nn.Module):
    """Token embeddings that are the head's weight too, and a parameter that nothing reads."""

    def __init__(self, symbols=5, width=3):
        super().__init__()
        self.embedding, self.head = nn.Embedding(symbols, width), nn.Linear(width, symbols)
        self.head.weight = self.embedding.weight
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, tokens):
        return self.head(torch.tanh(self.embedding(tokens))).transpose(1, 2)


class SelfAttention(nn.MultiheadAttention):
    """Attention of a sequence to itself, without the weights."""

    def forward(self, X):
        return super().forward(X, X, X, need_weights=False)[0]


def tiny_zoo():
    """Name to (model, batch), below 150 parameters, in float64; logits of 3 classes, or of 5 symbols in a sequence."""
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (5,))
    images = torch.randn(5, 1, 4, 4), labels
    tokens = torch.randint(0, 5, (5, 3)), torch.randint(0, 5, (5, 3))
    norm = nn.BatchNorm2d(2)
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    padded = SequenceModel(nn.Tanh(), 3, 5)
    padded.embedding = nn.Embedding(5, 3, padding_idx=0)
    unused = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    unused.register_parameter("unused", nn.Parameter(torch.ones(2)))
    lstm, gru = (
        SequenceModel(nn.LSTM(3, 2, batch_first=True), 3, 5),
        SequenceModel(nn.GRU(3, 3, batch_first=True), 3, 5),
    )
    lstm.head = nn.Linear(2, 5)
    zoo = {
        "mlp": (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), (torch.randn(5, 4), labels)),
        "convolution": (
            nn.Sequential(nn.Conv2d(1, 2, 2), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3)),
            images,
        ),
        "batch-norm": (
            nn.Sequential(nn.Conv2d(1, 2, 2), norm, nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)),
            images,
        ),
        "attention": (SequenceModel(SelfAttention(4, 2, batch_first=True), 4, 5), tokens),
        "transformer": (SequenceModel(nn.TransformerEncoderLayer(3, 1, 2, batch_first=True), 3, 5), tokens),
        "padding": (padded, tokens),
        "lstm": (lstm, tokens),
        "gru": (gru, tokens),
        "tied": (TiedModel(), tokens),
        "unused": (unused, (torch.randn(5, 4), labels)),
    }
    return {
        name: (model.double().eval(), tuple(part.double() if part.is_floating_point() else part for part in batch))
        for name, (model, batch) in zoo.items()
    }


def rows_of(tensors, parameters):
    """The gradient of each entry of the tensors by all parameters, flat, by one reverse pass each."""
    rows = []
    for entry in (entry for tensor in tensors for entry in tensor.flatten()):
        parts = [None] * len(parameters)
        if entry.requires_grad:
            parts = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(p) if part is None else part for part, p in zip(parts, parameters, strict=True)]
        rows.append(torch.cat([part.flatten() for part in filled]))
    return torch.stack(rows).detach()


def dense_jacobian(model, inputs):
    """The derivatives of the output's entries, (m, n), row by row in reverse mode through unfused kernels."""
    with sdpa_kernel(SDPBackend.MATH):
        return rows_of([model(inputs)], list(model.parameters()))


def reference_hessian(model, loss, batch):
    """As `dense_hessian`, for the model's own tensors: tied weights, and layers that want unfused kernels."""
    parameters = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        value = loss(model(batch[0]), batch[1])
        parts = torch.autograd.grad(value, parameters, create_graph=True, allow_unused=True)
        filled = [torch.zeros_like(p) if part is None else part for part, p in zip(parts, parameters, strict=True)]
        return rows_of(filled, parameters)


def reference_ggn(model, loss, batch):
    """As `dense_ggn`, for the model's own tensors."""
    J, value = dense_jacobian(model, batch[0]), model(batch[0]).detach()
    H = torch.autograd.functional.hessian(lambda output: loss(output, batch[1]), value)
    return J.mT @ H.reshape(len(J), len(J)) @ J


def reference_fisher(model, loss, batch, weights=None):
    """Σ w_i g_i g_iᵀ / Σ w_i over the gradients of single samples that weigh; without weights the sum of g_i g_iᵀ."""
    parameters = list(model.parameters())
    total = 0.0
    for i in range(len(batch[0])):
        if weights is None or weights[i] > 0:
            with sdpa_kernel(SDPBackend.MATH):
                value = loss(model(batch[0][i : i + 1]), batch[1][i : i + 1])
                g = rows_of([value], parameters)[0]
            share = 1.0 if weights is None else float(weights[i] / weights.sum())
            total = total + share * torch.outer(g, g)
    return total


def converted(batch, dtype):
    """The batch with its floating-point tensors in another precision."""
    return tuple(part.to(dtype) if part.is_floating_point() else part for part in batch)
