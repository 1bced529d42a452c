"""Images from folders and made up: which are taken, how they are decoded, and that this happens once."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from eigenspan.studies import images as module
from eigenspan.studies.images import GeneratedImages, ImageFiles, decoded_once, image_folder

CLASSES = 4


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def root(tmp_path):
    """Two images a class, one of each kind, and what is no image beside them."""
    for rank in range(CLASSES):
        for number, suffix in enumerate(("JPEG", "png")):
            write_image(tmp_path / "data" / "val" / f"n0{rank}" / f"{number}.{suffix}", 2 * rank + number)
    (tmp_path / "data" / "val" / "n00" / "notes.txt").write_text("no image")
    return tmp_path / "data"


def preprocess(image):
    return torch.from_numpy(np.array(image.crop((0, 0, 8, 8)))).permute(2, 0, 1).float() / 255


def files(root):
    return ImageFiles(root, image_folder(root, "val", CLASSES)[0], preprocess)


def test_a_folder_is_listed_by_class_and_name(root):
    paths, targets = image_folder(root, "val", CLASSES)
    assert targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [path.relative_to(root).as_posix() for path in paths[:3]] == [
        *("val/n00/0.JPEG", "val/n00/1.png", "val/n01/0.JPEG")
    ]


def test_images_are_those_of_the_files(root):
    """PNG loses nothing: the pixels are those that were written."""
    pixels = np.random.default_rng(3).integers(0, 256, (40, 48, 3), dtype=np.uint8)[:8, :8]
    (image,) = files(root)[torch.tensor([3])]
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)


def test_another_layout_says_which_files_are_expected(root, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train is no folder: expected one folder for each of the 4 classes"):
        image_folder(root, "train", CLASSES)
    with pytest.raises(ValueError, match=r"has 4 folders: expected one folder for each of the 1,000 classes"):
        image_folder(root, "val", 1000)
    write_image(tmp_path / "flat" / "val" / "ILSVRC2012_val_00000001.JPEG", 0)
    with pytest.raises(FileNotFoundError, match=r"expected one folder for each .*n01440764"):
        image_folder(tmp_path / "flat", "val", CLASSES)
    for path in (root / "val" / "n02").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"n02.* expected one folder for each"):
        image_folder(root, "val", CLASSES)


def test_a_missing_torchvision_names_the_extra(monkeypatch):
    monkeypatch.setitem(module.importlib.sys.modules, "torchvision", None)
    monkeypatch.delitem(module.importlib.sys.modules, "torchvision.datasets", raising=False)
    with pytest.raises(RuntimeError, match=r'pip install "eigenspan\[studies\]"'):
        module.torchvision_module("datasets")


@pytest.mark.parametrize("kind", ["files", "generated"])
def test_images_are_decoded_once(root, tmp_path, monkeypatch, kind):
    images = files(root) if kind == "files" else GeneratedImages(70, 8, 0, "test")
    expected = images[torch.arange(len(images))]
    first = decoded_once(images, tmp_path / "kept" / "val")
    assert torch.equal(first, expected)
    first.zero_()  # a copy of the pages written to: not of the file
    monkeypatch.setattr(type(images), "__getitem__", lambda *_: pytest.fail("decoded again"))
    assert torch.equal(decoded_once(images, tmp_path / "kept" / "val"), expected)


def test_an_interrupted_decoding_leaves_nothing_that_counts(root, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            decoded_once(files(root), tmp_path / "val")
    (tmp_path / "val.npy").write_bytes(b"of which nothing is known")
    assert torch.equal(decoded_once(files(root), tmp_path / "val"), files(root)[torch.arange(8)])


@pytest.mark.parametrize("change", ["content", "name", "preprocessing"])
def test_other_files_are_refused(root, tmp_path, change):
    decoded_once(files(root), tmp_path / "val")
    path = root / "val" / "n01" / "1.png"
    if change == "content":
        write_image(path, 99)
    elif change == "name":
        path.replace(path.with_name("2.png"))
    images = files(root)
    if change == "preprocessing":
        images = ImageFiles(root, images.paths, lambda image: preprocess(image) / 2)
    with pytest.raises(ValueError, match=r"val.npy holds other images .*results do not mix"):
        decoded_once(images, tmp_path / "val")


def test_a_folder_that_moved_is_the_same(root, tmp_path):
    decoded_once(files(root), tmp_path / "val")
    root.replace(tmp_path / "elsewhere")
    decoded_once(files(tmp_path / "elsewhere"), tmp_path / "val")


@pytest.mark.parametrize("content", [b"", b"garbage", b"cut"])
def test_a_damaged_file_says_what_to_do(root, tmp_path, content):
    decoded_once(files(root), tmp_path / "val")
    array = tmp_path / "val.npy"
    array.write_bytes(array.read_bytes()[:500] if content == b"cut" else content)
    with pytest.raises(ValueError, match=r"val.npy is damaged .*remove it"):
        decoded_once(files(root), tmp_path / "val")
    array.unlink()
    decoded_once(files(root), tmp_path / "val")
    assert json.loads((tmp_path / "val.json").read_text())["count"] == 8


def test_an_image_that_cannot_be_decoded_is_named(root):
    path = root / "val" / "n01" / "0.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"0.JPEG cannot be decoded .*get the file anew"):
        files(root)[torch.arange(8)]


def test_generated_images_are_standard_normal_and_each_has_its_own_stream():
    images = GeneratedImages(5, 64, 0, "test")
    batch = images[torch.arange(5)]
    assert batch.dtype == torch.float32
    assert batch.shape == (5, 3, 64, 64)
    # 61,440 numbers: the mean is off by 0.004 and the deviation by 0.003 in one of three cases; six times that.
    assert float(batch.mean()) == pytest.approx(0, abs=0.024)
    assert float(batch.std()) == pytest.approx(1, abs=0.018)
    assert torch.equal(images[torch.tensor([3, 1])], batch[[3, 1]])
    assert len({image.numpy().tobytes() for image in batch}) == 5
    assert not torch.equal(GeneratedImages(5, 64, 1, "test")[torch.tensor([0])], batch[:1])
    assert not torch.equal(GeneratedImages(5, 64, 0, "training")[torch.tensor([0])], batch[:1])
