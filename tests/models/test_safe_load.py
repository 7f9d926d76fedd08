import argparse
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from coterie.models.safe_load import read_torch_file


class Mischief:
    def __reduce__(self):
        return (open, ("mischief_was_done", "w"))


@pytest.mark.parametrize("new_format", [True, False])
def test_tensors_and_plain_values_come_back_on_the_cpu(tmp_path: Path, new_format: bool) -> None:
    content = {"step": 3, "names": ["a", "b"], "weight": torch.arange(6.0).view(2, 3), "scalar": torch.tensor(2)}
    torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=new_format)
    found = read_torch_file(tmp_path / "file.pt")
    assert list(found) == list(content)
    assert (found["step"], found["names"]) == (3, ["a", "b"])
    assert torch.equal(found["weight"], content["weight"])
    assert found["weight"].device.type == "cpu"


def test_only_allowed_types_are_read(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=0.1)}, tmp_path / "file.pt")
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        read_torch_file(tmp_path / "file.pt")
    assert read_torch_file(tmp_path / "file.pt", [argparse.Namespace])["args"].lr == 0.1
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):  # it was allowed for one file only
        read_torch_file(tmp_path / "file.pt")


@pytest.mark.parametrize("wrapped", [True, False])
def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    if wrapped:
        torch.save({"weight": torch.zeros(2), "evil": Mischief()}, tmp_path / "file.pt")
    else:
        (tmp_path / "file.pt").write_bytes(pickle.dumps(Mischief()))
    with pytest.raises(pickle.UnpicklingError):
        read_torch_file(tmp_path / "file.pt", [argparse.Namespace])
    assert not (tmp_path / "mischief_was_done").exists()


def test_a_compressed_file_is_refused(tmp_path: Path) -> None:
    """A few kilobytes of zeros may unpack to gigabytes."""
    torch.save(torch.zeros(1000), tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "small.pt", "w") as small:
        for entry in plain.namelist():
            small.writestr(entry, plain.read(entry), zipfile.ZIP_DEFLATED)
    assert len(torch.load(tmp_path / "small.pt", weights_only=True)) == 1000, "torch itself would read it"
    with pytest.raises(ValueError, match=r"it is compressed, which torch\.save never does"):
        read_torch_file(tmp_path / "small.pt")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**9),
        torch.sparse_coo_tensor(size=(10**6, 10**6), check_invariants=True),
        torch.zeros(3, device="meta"),
    ],
    ids=["expanded", "sparse", "meta"],
)
def test_a_tensor_that_is_larger_than_what_is_stored_is_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"inside": [tensor]}, tmp_path / "file.pt")
    assert (tmp_path / "file.pt").stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"a tensor \[.*\] is not stored in full"):
        read_torch_file(tmp_path / "file.pt")


def test_a_view_of_what_is_stored_is_read(tmp_path: Path) -> None:
    torch.save(torch.arange(12.0).view(3, 4).T[1:], tmp_path / "file.pt")
    assert torch.equal(read_torch_file(tmp_path / "file.pt"), torch.arange(12.0).view(3, 4).T[1:])
