"""Files and folders as they come: whole and in parts, damaged, compressed, hostile."""

import gzip
import json
import pickle
import zipfile

import pytest
import safetensors.torch
import torch

from coterie.errors import UserError
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.pretrained import load_weights
from coterie.models.weights_file import read_weights

STATE = {"conv1.weight": torch.arange(6.0).view(2, 3), "bn1.bias": torch.ones(2)}


def assert_is_state(found: dict[str, torch.Tensor]) -> None:
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


@pytest.mark.parametrize(
    "name",
    ["x.pth", "x.pt", "x.bin", "x.ckpt", "x.pth.tar", "x.safetensors", "x", "saved.safetensors.pth", "saved.bin"],
)
@pytest.mark.parametrize("legacy", [True, False])
def test_a_files_name_does_not_matter(name, legacy, tmp_path):
    if name.startswith("saved"):
        safetensors.torch.save_file(STATE, tmp_path / name)
    else:
        torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert_is_state(read_weights(tmp_path / name).tensors)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "pytorch_model.bin", "backbone.pth", "x.pth.tar", "last.ckpt", "other.safetensors"]
)
def test_a_folder_with_one_file(name, tmp_path):
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}')
    (tmp_path / "README.md").write_text("about it")
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(STATE, tmp_path / name)
    else:
        torch.save(STATE, tmp_path / name)
    assert_is_state(read_weights(tmp_path).tensors)


def test_a_folder_with_several_files(tmp_path):
    for name in ("a.pth", "b.pth"):
        torch.save(STATE, tmp_path / name)
    with pytest.raises(UserError, match=r"has several files of weights: name one of a\.pth, b\.pth"):
        read_weights(tmp_path)
    torch.save(STATE, tmp_path / "model.safetensors")
    assert_is_state(read_weights(tmp_path).tensors)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(UserError, match=r"there are no weights at .*model\.safetensors"):
        read_weights(tmp_path)


def write_parts(folder, names=("conv1.weight", "bn1.bias")):
    files = {name: f"model-{number}.safetensors" for number, name in enumerate(names)}
    for name, file in files.items():
        safetensors.torch.save_file({name: STATE[name]}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return folder / "model.safetensors.index.json"


def test_a_file_in_parts(tmp_path):
    index = write_parts(tmp_path)
    assert_is_state(read_weights(tmp_path).tensors)
    assert_is_state(read_weights(index).tensors)
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"model-1\.safetensors is missing, which model.safetensors.index.json lists"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    "outside", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "", ".", "..", 3, None, ["x"]]
)
def test_an_index_cannot_name_files_elsewhere(outside, tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "secret.safetensors")
    (tmp_path / "a").mkdir()
    index = tmp_path / "a" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": outside}}))
    with pytest.raises(UserError, match=r"not a file beside it|no weight_map") as caught:
        read_weights(tmp_path / "a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', "{" * 5000, '{"weight_map": {}}', "\udcff"])
def test_a_damaged_index(text, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match=r"index\.json") as caught:
        read_weights(tmp_path)
    assert "\n" not in str(caught.value)


def damaged(kind: str, whole: bytes) -> bytes:
    match kind:
        case "empty":
            return b""
        case "truncated":
            return whole[: len(whole) // 2]
        case "gzip":
            return gzip.compress(whole)
        case "page":
            return b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>"
        case "lfs":
            return b"version 1\noid sha256:0123456789abcdef\nsize 102530333\n"
        case "picture":
            return b"\x89PNG\r\n\x1a\n" + bytes(100)
        case "text":
            return b"conv1.weight: [1, 2, 3]\n" * 100
        case "pickle":
            return pickle.dumps(STATE)
    return b"\x00" * 1000


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "it is empty"),
        ("truncated", "damaged or compressed"),
        ("gzip", "compressed: unpack it first"),
        ("page", "a page of a web site"),
        ("lfs", "a pointer of git-lfs"),
        ("picture", "cannot be read as weights"),
        ("text", "cannot be read as weights"),
        ("pickle", "never unpickled"),
        ("zeros", "cannot be read as weights"),
    ],
)
def test_what_is_not_a_file_of_weights_is_refused_in_one_line(name, kind, message, tmp_path):
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(STATE, tmp_path / name)
    else:
        torch.save(STATE, tmp_path / name)
    (tmp_path / name).write_bytes(damaged(kind, (tmp_path / name).read_bytes()))
    with pytest.raises(UserError, match=message) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_zip_of_files_and_a_compressed_checkpoint(tmp_path):
    torch.save(STATE, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.write(tmp_path / "x.pth", "x.pth")
    with pytest.raises(UserError, match="compressed"):
        read_weights(tmp_path / "x.zip")


@torch.no_grad()
def test_a_network_that_was_saved_whole(tmp_path):
    """torch.save(network) pickles its class too, which is not imported: only the tensors are read."""
    torch.manual_seed(0)
    theirs = build_backbone(BackboneConfig("resnet18", width=0.125), 64).eval()
    torch.save({"epoch": 3, "ema": theirs}, tmp_path / "whole.pth")
    torch.manual_seed(1)
    ours = build_backbone(BackboneConfig("resnet18", width=0.125), 64).eval()
    images = torch.randn(2, 3, 64, 64)
    assert not torch.equal(ours(images), theirs(images))
    assert "took 120 tensors under ema" in load_weights(ours, tmp_path / "whole.pth", 3)
    assert torch.equal(ours(images), theirs(images))
