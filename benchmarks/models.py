"""The four models that products are measured on, with data: a small MLP, a conv net, a transformer and ResNet-18."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional


@attrs.frozen
class Workload:
    """A model in evaluation mode, a loss and one batch of data.

    Attributes:
        name: of the model.
        model: the network, randomly initialised.
        loss: of output and target.
        batch: inputs and target.
    """

    name: str
    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    batch: tuple[Tensor, Tensor]

    def to(self, device: str) -> Workload:
        """The same on a device."""
        inputs, target = self.batch
        return attrs.evolve(self, model=self.model.to(device), batch=(inputs.to(device), target.to(device)))


def mlp() -> Workload:
    """The tanh network of `mnist16`, 7,030 parameters, on 500 images."""
    torch.manual_seed(0)
    widths = (256, 20, 20, 20, 20, 20, 10)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return _classifier("a MLP", nn.Sequential(*layers[:-1]), (500, 256), classes=10)


def conv3c3d() -> Workload:
    """3c3d of DeepOBS, 895,210 parameters, on 500 images of 3x32x32."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 64, 5), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 96, 3), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 128, 3, padding=1), nn.ReLU(), nn.ZeroPad2d((0, 1, 0, 1)), nn.MaxPool2d(3, 2)),
        *(nn.Flatten(), nn.Linear(1152, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 10)),
    )
    return _classifier("b 3c3d", model, (500, 3, 32, 32), classes=10)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceive = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, X: Tensor) -> Tensor:
        samples, tokens, width = X.shape
        heads = self.attend(self.norms[0](X)).view(samples, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        X = X + self.project(mixed.transpose(1, 2).reshape(samples, tokens, width))
        return X + self.perceive(self.norms[1](X))


class _GPT(nn.Module):
    def __init__(self, layers: int = 4, width: int = 128, heads: int = 4, tokens: int = 64, symbols: int = 256) -> None:
        super().__init__()
        self.symbols, self.positions = nn.Embedding(symbols, width), nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, symbols, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.blocks(self.symbols(tokens) + self.positions)
        return self.head(self.norm(hidden)).transpose(1, 2)


def gpt() -> Workload:
    """A GPT of 0.87 M parameters: 4 layers of width 128, 4 heads, 16 sequences of 64 tokens of 256 symbols."""
    torch.manual_seed(0)
    model = _GPT().eval()
    tokens = torch.randint(0, 256, (16, 65))
    return Workload("c GPT", model, nn.CrossEntropyLoss(), (tokens[:, :-1].clone(), tokens[:, 1:].clone()))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, X: Tensor) -> Tensor:
        Y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(X)))))
        return functional.relu(Y + self.shortcut(X))


def resnet18() -> Workload:
    """ResNet-18 of He et al. (2016), 11.7 M parameters, on 8 images of 3x64x64."""
    torch.manual_seed(0)
    stages = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [layer for i, o, s in stages for layer in (_Residual(i, o, s), _Residual(o, o, 1))]
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return _classifier("d ResNet-18", nn.Sequential(*stem, *blocks, *head), (8, 3, 64, 64), classes=1000)


def _classifier(name: str, model: nn.Module, shape: tuple[int, ...], classes: int) -> Workload:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape, generator=generator)
    targets = torch.randint(0, classes, shape[:1], generator=generator)
    return Workload(name, model.eval(), nn.CrossEntropyLoss(), (inputs, targets))


WORKLOADS = {"a": mlp, "b": conv3c3d, "c": gpt, "d": resnet18}
