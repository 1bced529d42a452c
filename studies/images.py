"""Images that are made when they are asked for, from files or at random, and images kept decoded on disk."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import attrs
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..linops.files import read_json, write_json, written_whole
from ..solvers.streams import stream

_AT_ONCE = 64  # images that are decoded before they are written


class Samples(Protocol):
    """The inputs of a data set, one a sample: a tensor, or what makes those that are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Tensor: ...


@runtime_checkable
class Images(Samples, Protocol):
    """Samples of equal shape that are made anew each time, and so are worth keeping: see `decoded_once`."""

    def fingerprint(self) -> str:
        """Equal for equal images: a digest of all that they are made from."""
        ...


@attrs.frozen
class GeneratedImages:
    """Images of independent standard normal pixels, (3, size, size) float32: the scale of normalised photographs.

    Attributes:
        count: how many there are.
        size: pixels a side.
        seed: the root seed.
        purpose: the name of their stream of random numbers, such as ``"training images"``.

    Cost: that of the random numbers, at each access.
    """

    count: int
    size: int
    seed: int
    purpose: str

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        images = torch.empty(len(indices), 3, self.size, self.size)
        for image, index in zip(images, indices.tolist(), strict=True):
            generator = stream(self.seed, self.purpose, index)  # of each its own: what is drawn first does not matter
            image.copy_(torch.from_numpy(generator.standard_normal(image.shape, dtype=np.float32)))
        return images

    def fingerprint(self) -> str:
        """All that determines them, in words."""
        return f"{self.count} images of {self.size} pixels a side from seed {self.seed}, {self.purpose}"


@attrs.frozen
class ImageFiles:
    """Image files in the order given, decoded to RGB and preprocessed, as float32 of one shape.

    Attributes:
        root: the folder that they lie below, which is no part of what they are.
        paths: the files.
        preprocess: of a `PIL.Image` to a tensor; its ``repr`` says all that it does.

    Cost: decoding, at each access, by one thread a core.
    """

    root: Path
    paths: Sequence[Path]
    preprocess: Callable[[Any], Tensor]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        with ThreadPoolExecutor() as pool:  # decoders leave Python's lock to others
            return torch.stack(list(pool.map(self._decoded, indices.tolist())))

    def _decoded(self, index: int) -> Tensor:
        load = torchvision_module("datasets.folder").default_loader
        try:
            return self.preprocess(load(str(self.paths[index])))
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged file fails in as many ways as there are formats
            raise ValueError(f"{self.paths[index]} cannot be decoded ({error}): get the file anew") from error

    def fingerprint(self) -> str:
        """SHA-256 of the preprocessing and of the names and contents of the files. Cost: reads every file."""
        digest = hashlib.sha256(repr(self.preprocess).encode())
        for path in self.paths:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"\n{content} {path.relative_to(self.root).as_posix()}".encode())
        return digest.hexdigest()


def decoded_once(images: Images, path: Path, *, progress: bool = False) -> Tensor:
    """The images as one tensor, (N, …) float32, mapped into memory from a file, which is made if it is not there.

    The file ``path.npy`` holds the images, and ``path.json``, which is written after it, their fingerprint. What is
    written to the tensor does not reach the file.

    Args:
        images: at least one.
        path: of the files, without suffix.
        progress: whether to show a bar.

    Raises:
        OSError: the images cannot be read or the files cannot be written.
        ValueError: an image or the file is damaged, or the file is of other images.

    Cost: the first time every image is decoded, some at once in memory; later their files are read for their
    fingerprint. The disk holds four bytes a number, and memory what is used of it, as long as there is room.
    """
    array, note = Path(f"{path}.npy"), Path(f"{path}.json")
    wanted = images.fingerprint()
    if not (array.exists() and note.exists()):
        _write(images, array, progress)
        write_json({"fingerprint": wanted, "count": len(images)}, note)
    found = read_json(note).get("fingerprint")
    if found != wanted:
        raise ValueError(
            f"{array} holds other images than those asked for (fingerprint {found}, expected {wanted}): files or "
            "preprocessing have changed since it was written; results do not mix: restore them, or choose another "
            "folder for the study"
        )
    try:
        kept = torch.from_numpy(np.load(array, mmap_mode="c"))
    except (ValueError, EOFError) as error:
        raise ValueError(f"{array} is damaged ({error}): remove it, and the images are decoded anew") from error
    if len(kept) != len(images) or kept.dtype != torch.float32:
        raise ValueError(f"{array} is damaged: it holds {tuple(kept.shape)} in {kept.dtype}: remove it")
    return kept


def _write(images: Images, path: Path, progress: bool) -> None:
    first = images[torch.tensor([0])]
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial, tqdm(total=len(images), desc="decoding", disable=not progress) as bar:
        shape = (len(images), *first.shape[1:])
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        for indices in torch.split(torch.arange(len(images)), _AT_ONCE):
            array[indices.numpy()] = images[indices].numpy()
            bar.update(len(indices))
        array.flush()


def image_folder(root: Path, split: str, classes: int) -> tuple[list[Path], Tensor]:
    """The image files in ``root/split/CLASS/`` by class and name, and the class of each, its folder's rank by name.

    Raises:
        FileNotFoundError: folders or images that are missing.
        ValueError: another number of class folders.

    Cost: a listing of the folders.
    """
    folder = root / split
    expected = f"expected one folder for each of the {classes:,} classes in {folder}, and in each its image files"
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: {expected}, such as {folder / 'n01440764' / 'NAME.JPEG'}")
    try:
        found = torchvision_module("datasets").ImageFolder(str(folder))
    except FileNotFoundError as error:  # of no class at all, or of classes without images
        raise FileNotFoundError(
            f"{' '.join(str(error).split())} In all, {expected}, such as {folder / 'n01440764' / 'NAME.JPEG'}"
        ) from error
    if len(found.classes) != classes:
        raise ValueError(
            f"{folder} has {len(found.classes):,} folders: {expected}; the number of a class is the rank of its folder "
            "by name, so that with fewer the labels would be wrong"
        )
    return [Path(path) for path, _ in found.samples], torch.tensor(found.targets)


def torchvision_module(name: str) -> Any:
    """A module of torchvision.

    Raises:
        RuntimeError: torchvision is not installed.
    """
    try:
        return importlib.import_module(f"torchvision.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "torchvision":
            raise
        raise RuntimeError('torchvision is missing; install it with: pip install "eigenspan[studies]"') from error
