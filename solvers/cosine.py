"""Discrete cosine transforms of tall blocks, by one Fourier transform of the same length."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine_transform(X: Tensor) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II) of the columns of X, (n, b).

    Source: Makhoul (1980): one Fourier transform of the even entries followed by the odd ones in reverse.

    Cost: O(b n log n) flops and 2 n b complex numbers.
    """
    n = X.shape[0]
    if X.numel() == 0:
        return X.clone()  # the Fourier transforms of some devices take no empty blocks
    Y: Tensor = torch.fft.fft(torch.cat([X[::2], X[1::2].flip(0)]), dim=0)
    Y = (Y * _twiddle(n, X).conj()[:, None]).real * math.sqrt(2 / n)
    Y[:1] *= math.sqrt(0.5)
    return Y


def inverse_cosine_transform(X: Tensor) -> Tensor:
    """The inverse and transpose of `cosine_transform`, of the columns of X, (n, b).

    Cost: O(b n log n) flops and 2 n b complex numbers.
    """
    n = X.shape[0]
    if X.numel() == 0:
        return X.clone()
    Y = X * math.sqrt(n / 2)
    Y[:1] *= math.sqrt(2)
    # The spectrum of the reordered, real signal: its imaginary part is that of the mirrored coefficients.
    mirrored = torch.cat([torch.zeros_like(Y[:1]), Y[1:].flip(0)])
    Y = torch.fft.ifft(torch.complex(Y, -mirrored) * _twiddle(n, X)[:, None], dim=0).real
    half = (n + 1) // 2
    result = torch.empty_like(X)
    result[::2], result[1::2] = Y[:half], Y[half:].flip(0)
    return result


def _twiddle(n: int, X: Tensor) -> Tensor:
    """exp(i π j / 2n), j = 0 … n-1."""
    angle = torch.arange(n, dtype=X.dtype, device=X.device) * (math.pi / (2 * n))
    return torch.polar(torch.ones_like(angle), angle)
