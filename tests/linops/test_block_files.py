"""Blocks in files: every bit comes back, and every bit that is not the one written is found."""

import json

import pytest
import torch

from eigenspan.linops.block_files import DamagedFileError, read_block, read_header, write_block

FIELDS = {"matrix": "range", "start": "64"}


def bits(tensor):
    return tensor.contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("by_columns", [True, False])
def test_every_bit_comes_back(tmp_path, dtype, by_columns, device):
    block = torch.randn(7, 3, dtype=torch.float64)
    block[0] = torch.tensor([float("nan"), float("-inf"), -0.0])
    block = (block.mT.contiguous().mT if by_columns else block).to(device, dtype)
    write_block(tmp_path / "block", block, FIELDS)
    found, header = read_block(tmp_path / "block")
    assert torch.equal(bits(found), bits(block.cpu()))
    assert found.mT.is_contiguous()
    assert header == read_header(tmp_path / "block")
    assert (header.dtype, header.shape, header.fields) == (dtype, (7, 3), FIELDS)
    assert [path.name for path in tmp_path.iterdir()] == ["block"]


def test_any_flipped_bit_and_any_cut_is_found(tmp_path):
    path = tmp_path / "block"
    write_block(path, torch.randn(5, 2), FIELDS)
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in (0, 5):  # another digit; a capital letter
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            with pytest.raises(DamagedFileError, match="is damaged"):
                read_block(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        for read in (read_header, read_block):
            with pytest.raises(DamagedFileError, match="is damaged"):
                read(path)
    path.write_bytes(whole + b"0")
    with pytest.raises(DamagedFileError, match=f"it has {len(whole) + 1} bytes in place of {len(whole)}"):
        read_header(path)


@pytest.mark.parametrize(
    "header", [b"[]", b"{}", b'{"__metadata__": 3, "columns": {}}', b"\xff", json.dumps({"__metadata__": {}}).encode()]
)
def test_other_files_are_refused(tmp_path, header):
    path = tmp_path / "block"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DamagedFileError, match="it holds no block"):
        read_block(path)
    with pytest.raises(FileNotFoundError):
        read_block(tmp_path / "missing")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,)])
def test_blocks_that_are_none(tmp_path, shape):
    with pytest.raises(ValueError, match="n, b >= 1"):
        write_block(tmp_path / "block", torch.zeros(shape), {})
    with pytest.raises(TypeError, match="float32, float64 or bfloat16"):
        write_block(tmp_path / "block", torch.zeros(2, 2, dtype=torch.int32), {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_library_of_the_format_reads_them(tmp_path, dtype):
    safetensors = pytest.importorskip("safetensors.torch")
    block = torch.randn(7, 3).to(dtype)
    write_block(tmp_path / "block.safetensors", block, FIELDS)
    (name, columns), *others = safetensors.load_file(tmp_path / "block.safetensors").items()
    assert (name, others) == ("columns", [])
    assert torch.equal(columns, block.mT)
