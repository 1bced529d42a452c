"""Readers of handwritten digits: the embedded 16x16 subset, and the full set from its IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import attrs
import numpy as np
import torch
from torch import Tensor

EMBEDDED = Path(__file__).with_name("mnist16.npz")
PIXELS = 16
_IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@attrs.frozen
class Digits:
    """Images of digits, (N, 16, 16) uint8, with their classes, (N,) int64 in 0 … 9, for training and for testing.

    Raises:
        ValueError: images and labels that do not fit together.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def __attrs_post_init__(self) -> None:
        for split, images, labels in (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        ):
            if images.shape != (len(labels), PIXELS, PIXELS) or images.dtype != torch.uint8:
                raise ValueError(
                    f"expected {len(labels)} {split} images of {PIXELS}x{PIXELS} pixels in uint8, one for each label; "
                    f"got {tuple(images.shape)} in {images.dtype}"
                )
            if len(labels) == 0 or labels.min() < 0 or labels.max() > 9:
                raise ValueError(f"expected {split} labels in 0 … 9, at least one; the data are damaged")


def embedded_digits() -> Digits:
    """The first 10,000 training and 2,000 test digits of MNIST at 16x16, as they come with the package.

    Raises:
        FileNotFoundError: the package was installed without its data.
        ValueError: the file is damaged.

    Cost: 3 MB.
    """
    try:
        with EMBEDDED.open("rb") as file, np.load(file) as arrays:
            return Digits(
                train_images=torch.from_numpy(arrays["train_images"]),
                train_labels=torch.from_numpy(arrays["train_labels"]).long(),
                test_images=torch.from_numpy(arrays["test_images"]),
                test_labels=torch.from_numpy(arrays["test_labels"]).long(),
            )
    except FileNotFoundError:
        raise FileNotFoundError(f"{EMBEDDED} is missing: install eigenspan again") from None
    except Exception as error:  # a damaged archive fails in as many ways as it has layers
        raise ValueError(f"{EMBEDDED} is damaged ({error}): install eigenspan again") from error


def full_digits(root: Path) -> Digits:
    """All 60,000 training and 10,000 test digits of MNIST, reduced to 16x16.

    Args:
        root: a folder with ``MNIST/raw`` and in it the four IDX files, gzip-compressed or not: the layout of
            ``torchvision.datasets.MNIST(root, download=True)``.

    Raises:
        FileNotFoundError: the folder or one of the files is missing.
        ValueError: a file is damaged or of another kind.

    Cost: 300 MB for a moment, 18 MB in the end.
    """
    folder = Path(root) / "MNIST" / "raw"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is no folder: --data-root is the folder that holds MNIST/raw with the four IDX files, as "
            "torchvision.datasets.MNIST(root, download=True) makes it; leave it out to use the embedded digits"
        )
    arrays = {name: _read_idx(_locate(folder, file)) for name, file in _IDX_FILES.items()}
    for split in ("train", "test"):
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.ndim != 3 or labels.shape != (len(images),):
            raise ValueError(
                f"the {split} files in {folder} hold arrays {tuple(images.shape)} and {tuple(labels.shape)}: expected "
                "images (N, rows, columns) and labels (N,); get the files anew"
            )
    return Digits(
        train_images=resized(arrays["train_images"]),
        train_labels=arrays["train_labels"].long(),
        test_images=resized(arrays["test_images"]),
        test_labels=arrays["test_labels"].long(),
    )


def resized(images: Tensor) -> Tensor:
    """Images, (N, rows, columns) uint8, at 16x16: antialiased bilinear interpolation, rounded to uint8.

    Raises:
        ValueError: images of another shape or dtype.
    """
    if images.ndim != 3 or images.dtype != torch.uint8:
        raise ValueError(f"expected images (N, rows, columns) in uint8, got {tuple(images.shape)} in {images.dtype}")
    small = [
        torch.nn.functional.interpolate(
            chunk[:, None].float(), size=(PIXELS, PIXELS), mode="bilinear", antialias=True, align_corners=False
        )[:, 0]
        for chunk in torch.split(images, 10_000)
    ]
    return torch.cat(small).round().to(torch.uint8)


def _locate(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} holds neither {name} nor {name}.gz")


def _read_idx(path: Path) -> Tensor:
    """The uint8 array in an IDX file: two zero bytes, type 8, the rank, big-endian uint32 sizes, then the entries."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): get it anew") from error
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of bytes: expected it to begin 00 00 08, got {raw[:3].hex(' ')}")
    start = 4 + 4 * raw[3]
    shape = [int(size) for size in np.frombuffer(raw[4:start], dtype=">u4")] if len(raw) >= start else []
    if len(shape) != raw[3] or len(raw) != start + math.prod(shape):
        raise ValueError(f"{path} is damaged: {len(raw)} bytes do not fit its sizes {shape}; get it anew")
    return torch.from_numpy(np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape).copy())
