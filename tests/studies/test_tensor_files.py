"""Files of tensors: the numbers that were written, or an error."""

import pickle

import pytest
import torch

from eigenspan.studies.tensor_files import read_tensors, write_tensors


def test_what_was_written_is_read(tmp_path):
    contents = {"step": 3, "losses": {"train": 0.5}, "model": {"weight": torch.randn(3, 2)}}
    write_tensors(contents, tmp_path / "file.pt")
    found = read_tensors(tmp_path / "file.pt", "remove it")
    assert torch.equal(found["model"].pop("weight"), contents["model"].pop("weight"))
    assert found == contents
    assert [file.name for file in tmp_path.iterdir()] == ["file.pt"]


def test_one_changed_bit_of_a_number_is_found(tmp_path):
    """Which torch.load reads as another number."""
    path, numbers = tmp_path / "file.pt", torch.arange(64.0)
    write_tensors({"numbers": numbers}, path)
    content = bytearray(path.read_bytes())
    content[content.index(numbers.numpy().tobytes()) + 20] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["numbers"], numbers)
    with pytest.raises(ValueError, match=r"file\.pt is damaged or of another kind \(ValueError\): remove it"):
        read_tensors(path, "remove it")


class Evil:
    def __reduce__(self):
        return print, ("run",)


@pytest.mark.parametrize("write", [torch.save, lambda contents, path: path.write_bytes(pickle.dumps(contents))])
def test_no_code_of_a_file_is_run(tmp_path, write, capsys):
    write({"step": Evil()}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match="damaged or of another kind"):
        read_tensors(tmp_path / "file.pt", "remove it")
    assert capsys.readouterr().out == ""
