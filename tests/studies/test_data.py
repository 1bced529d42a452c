"""The embedded digits, and the reader of the full set on a tiny set of IDX files."""

import gzip
import struct

import numpy as np
import pytest
import torch

from eigenspan.studies import data
from eigenspan.studies.data import digits as reader
from eigenspan.studies.data import make_mnist16

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def idx(array):
    """The bytes of an IDX file, written here from the format's description."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return struct.pack(">HBB", 0, 8, array.ndim) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture
def arrays():
    rng = np.random.default_rng(5)
    return {
        "train_images": rng.integers(0, 256, (30, 28, 28)),
        "train_labels": np.arange(30) % 10,
        "test_images": rng.integers(0, 256, (20, 28, 28)),
        "test_labels": np.arange(20) % 10,
    }


@pytest.fixture
def raw(tmp_path, arrays):
    """The folder with the files, gzip-compressed."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        (folder / f"{FILES[name]}.gz").write_bytes(gzip.compress(idx(array)))
    return folder


def by_hand(image):
    """Antialiased bilinear reduction 28 -> 16 as two products with a matrix of normalised triangles, in float64."""
    scale = 28 / 16
    centres = (np.arange(16)[:, None] + 0.5) * scale - 0.5
    weights = np.clip(1 - np.abs(np.arange(28) - centres) / scale, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights @ image @ weights.T


# -- the embedded subset ----------------------------------------------------------------------------------------------


def test_the_embedded_digits_are_what_the_readme_says():
    digits = data.embedded_digits()
    assert digits.train_images.shape == (10_000, 16, 16)
    assert digits.test_images.shape == (2_000, 16, 16)
    assert digits.train_images.dtype == digits.test_images.dtype == torch.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == torch.int64
    # Counts of the first 10,000 training labels of MNIST, as published with many of its subsets.
    assert digits.train_labels.bincount().tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    assert digits.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert digits.test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert int(digits.train_images.min()) == 0
    assert int(digits.train_images.max()) == 255
    assert reader.EMBEDDED.stat().st_size < 2_000_000


def test_embedded_training_and_test_digits_are_disjoint():
    digits = data.embedded_digits()
    images = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert len(images.unique(dim=0)) == len(images)


def test_the_attribution_stands_beside_the_file():
    text = reader.EMBEDDED.with_name("README.md").read_text(encoding="utf-8")
    for words in ("LeCun", "Cortes", "Burges", "by-sa/3.0", "16x16", "make_mnist16"):
        assert words in text


def test_a_damaged_or_missing_embedded_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "EMBEDDED", tmp_path / "mnist16.npz")
    with pytest.raises(FileNotFoundError, match="install eigenspan again"):
        data.embedded_digits()
    reader.EMBEDDED.write_bytes(b"PK\x03\x04 not much of an archive")
    with pytest.raises(ValueError, match="damaged"):
        data.embedded_digits()


# -- the reduction ----------------------------------------------------------------------------------------------------


def test_resized_is_antialiased_bilinear_interpolation(arrays):
    """Against the triangle filter in float64: rounding to uint8 leaves 0.5, float32 a little more."""
    images = arrays["train_images"]
    small = data.resized(torch.from_numpy(images).to(torch.uint8)).double().numpy()
    expected = np.stack([by_hand(image) for image in images])
    assert np.abs(small - expected).max() < 0.501


def test_resized_refuses_other_arrays():
    with pytest.raises(ValueError, match="uint8"):
        data.resized(torch.zeros(2, 28, 28))
    with pytest.raises(ValueError, match="rows, columns"):
        data.resized(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))


# -- the full set -----------------------------------------------------------------------------------------------------


def test_the_files_are_read_compressed_or_not(tmp_path, raw, arrays):
    compressed = data.full_digits(tmp_path)
    for path in sorted(raw.iterdir()):
        (raw / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = data.full_digits(tmp_path)
    for digits in (compressed, plain):
        assert torch.equal(digits.train_labels, torch.from_numpy(arrays["train_labels"]))
        assert np.abs(digits.test_images[7].double().numpy() - by_hand(arrays["test_images"][7])).max() < 0.501
        assert digits.train_images.shape == (30, 16, 16)


def test_the_script_writes_what_the_reader_of_the_embedded_file_reads(tmp_path, raw, monkeypatch, capsys):
    monkeypatch.setattr(make_mnist16, "TRAIN", 25)
    monkeypatch.setattr(make_mnist16, "TEST", 15)
    made = tmp_path / "made.npz"
    make_mnist16.main([str(tmp_path), "--out", str(made)])
    first = made.read_bytes()
    make_mnist16.main([str(tmp_path), "--out", str(made)])
    assert made.read_bytes() == first
    assert f"{len(first):,} bytes" in capsys.readouterr().out
    monkeypatch.setattr(reader, "EMBEDDED", made)
    subset, full = data.embedded_digits(), data.full_digits(tmp_path)
    assert torch.equal(subset.train_images, full.train_images[:25])
    assert torch.equal(subset.test_labels, full.test_labels[:15])


def test_a_missing_folder_or_file_is_named(tmp_path, raw):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        data.full_digits(tmp_path / "nowhere")
    (raw / f"{FILES['test_labels']}.gz").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte"):
        data.full_digits(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[: len(content) // 2],
        lambda content: content[:-9] + bytes(9),
        lambda content: b"not gzip at all",
        lambda content: b"",
        lambda content: gzip.compress(gzip.decompress(content)[:-1]),
        lambda content: gzip.compress(gzip.decompress(content) + b"\x00"),
        lambda content: gzip.compress(b"\x00\x00\x0d" + gzip.decompress(content)[3:]),
        lambda content: gzip.compress(b"\x00\x00\x08\x03\x00"),
        lambda content: gzip.compress(b""),
    ],
)
def test_a_damaged_file_is_named(tmp_path, raw, damage):
    path = raw / f"{FILES['train_images']}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz"):
        data.full_digits(tmp_path)


def test_files_that_do_not_belong_together_are_refused(tmp_path, raw, arrays):
    path = raw / f"{FILES['train_labels']}.gz"
    path.write_bytes(gzip.compress(idx(arrays["train_labels"][:-1])))
    with pytest.raises(ValueError, match="the train files"):
        data.full_digits(tmp_path)
    path.write_bytes(gzip.compress(idx(arrays["train_labels"] + 1)))
    with pytest.raises(ValueError, match="labels in 0"):
        data.full_digits(tmp_path)
    (raw / f"{FILES['train_images']}.gz").write_bytes(gzip.compress(idx(arrays["train_labels"])))
    with pytest.raises(ValueError, match="the train files"):
        data.full_digits(tmp_path)
