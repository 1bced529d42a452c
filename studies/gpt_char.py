"""The problem `gpt-char`: a small character transformer on text that comes with Python, so that none is downloaded."""

from __future__ import annotations

import hashlib
import platform

import torch
from torch import Tensor, nn
from torch.nn import functional

from .problem import DataRequest, HessianPlan, Problem, ProblemData

_CHARACTERS = 128  # of ASCII; any other is a question mark
_LENGTH, _WIDTH, _HEADS, _BLOCKS = 128, 128, 4, 4
_TEST = 0.1  # of the text, its end


class _Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.projections = nn.Linear(_WIDTH, 3 * _WIDTH)
        self.output = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.projections(x).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = heads.unbind()
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        found: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return found


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(_WIDTH), _Attention())
        self.network = nn.Sequential(
            nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, 4 * _WIDTH), nn.GELU(), nn.Linear(4 * _WIDTH, _WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        found: Tensor = x + self.network(x)
        return found


class _CharacterTransformer(nn.Module):
    """Scores of the next character at every place, as those of classes: (N, 128, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.characters = nn.Embedding(_CHARACTERS, _WIDTH)
        self.places = nn.Embedding(_LENGTH, _WIDTH)
        self.blocks = nn.Sequential(*(_Block() for _ in range(_BLOCKS)))
        self.norm = nn.LayerNorm(_WIDTH)
        self.scores = nn.Linear(_WIDTH, _CHARACTERS, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)  # as of GPT-2 (Radford et al. 2019)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, text: Tensor) -> Tensor:
        x = self.characters(text) + self.places.weight[: text.shape[1]]
        scores: Tensor = self.scores(self.norm(self.blocks(x)))
        return scores.mT


def _python(request: DataRequest) -> ProblemData:
    """The help texts on the language, cut into pieces of equal length, and the same one character on."""
    assert request.hessian_samples is not None
    from pydoc_data import topics

    text = "\n\n".join(topics.topics[name] for name in sorted(topics.topics))
    codes = torch.tensor(list(text.encode("ascii", "replace")), dtype=torch.int64)
    count = (len(codes) - 1) // _LENGTH
    inputs, targets = (codes[first:][: count * _LENGTH].view(count, _LENGTH) for first in (0, 1))
    border = round((1 - _TEST) * count)
    parts = {"train": slice(0, border), "test": slice(border, count)}
    hessian = {}
    for split in request.splits:
        part = parts[split]
        if request.hessian_samples > part.stop - part.start:
            raise ValueError(
                f"the {split} text has {part.stop - part.start} pieces of {_LENGTH} characters, fewer than the "
                f"{request.hessian_samples} that the Hessian is to be of"
            )
        # Evenly spread, since neighbours are of one topic.
        places = torch.linspace(part.start, part.stop - 1, request.hessian_samples).round().long()
        hessian[split] = inputs[places], targets[places]
    description = (
        f"Help texts of Python {platform.python_version()} on the language, {len(text):,} characters (SHA-256 "
        f"{hashlib.sha256(text.encode()).hexdigest()[:16]}), Hessian on {request.hessian_samples} pieces of {_LENGTH}"
    )
    attribution = "Python documentation, Python Software Foundation, https://docs.python.org/3/license.html"
    return ProblemData((inputs[:border], targets[:border]), hessian, description, attribution)


GPT_CHAR = Problem(
    name="gpt-char",
    title="Character transformer on Python's help texts",
    model=_CharacterTransformer,
    loss=nn.CrossEntropyLoss(),
    sources={"python": _python},
    optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0),
    batch_size=32,
    steps=400,
    record_every=200,
    k=50,
    table_k=(10, 20, 50),
    hessian_samples=16,
    plan=HessianPlan(engine="linearised", chunk_size=1),  # wider blocks gain nothing on a CPU
    compare=False,
)
