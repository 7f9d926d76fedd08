import argparse
import collections
import datetime as dt
import enum
import functools
import os
import pickle
import subprocess
import sys
import time
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from coterie.models.nested_tensors import StandIn
from coterie.models.safe_load import read_torch_file


@pytest.mark.parametrize("new_format", [True, False])
def test_tensors_and_plain_values_come_back_on_the_cpu(tmp_path: Path, new_format: bool) -> None:
    content = {"step": 3, "names": ["a", "b"], "weight": torch.arange(6.0).view(2, 3), "scalar": torch.tensor(2)}
    torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=new_format)
    found = read_torch_file(tmp_path / "file.pt")
    assert list(found) == list(content)
    assert (found["step"], found["names"]) == (3, ["a", "b"])
    assert torch.equal(found["weight"], content["weight"])
    assert found["weight"].device.type == "cpu"


def test_other_classes_are_read_only_where_they_may_be(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=0.1), "weight": torch.ones(2)}, tmp_path / "file.pt")
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        read_torch_file(tmp_path / "file.pt")
    found = read_torch_file(tmp_path / "file.pt", foreign=True)
    assert isinstance(found["args"], StandIn)
    assert found["args"].attributes == {"lr": 0.1}
    assert torch.equal(found["weight"], torch.ones(2))
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):  # it was allowed for one file only
        read_torch_file(tmp_path / "file.pt")


class Settings(dict[str, object]):
    """As the settings of many training programs: a dictionary of another class, with attributes."""

    def __init__(self, **items: object) -> None:
        super().__init__(**items)
        self.frozen = True


class Layers(list[int]):
    pass


@dataclass(frozen=True, slots=True)
class Slotted:
    lr: float


class Kind(enum.Enum):
    SWAV = "swav"


@pytest.mark.parametrize("new_format", [True, False])
def test_objects_of_all_kinds_have_stand_ins(tmp_path: Path, new_format: bool) -> None:
    """What hyperparameters are made of; dictionaries stay dictionaries, with what is in them."""
    content = {
        "path": Path("/data"),
        "number": np.float64(0.5),
        "array": np.arange(3),
        "type": np.dtype("float32"),
        "missing": collections.defaultdict(list, {"a": [1]}),
        "settings": Settings(lr=0.1, inner=Settings(net=torch.ones(2))),
        "layers": Layers([1, 2]),
        "slotted": Slotted(0.1),
        "kind": Kind.SWAV,
        Kind.SWAV: {Slotted(0.2), Path("x")},
        "function": functools.partial(print, 3),
        "class": Settings,
        "date": dt.datetime(2026, 11, 29),
        "space": types.SimpleNamespace(a=1),
        "complex": 1j,
        "tensor": torch.arange(3.0),
    }
    torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=new_format)
    found = read_torch_file(tmp_path / "file.pt", foreign=True)
    assert len(found) == len(content)
    assert found["missing"] == {"a": [1]}
    assert found["settings"]["lr"] == 0.1
    assert torch.equal(found["settings"]["inner"]["net"], torch.ones(2))
    assert torch.equal(found["tensor"], torch.arange(3.0))
    assert list(found["layers"]) == [1, 2]
    assert found["space"].attributes == {"a": 1}
    for key in ("path", "number", "array", "type", "layers", "slotted", "kind", "function", "date", "space"):
        assert isinstance(found[key], StandIn), key
    assert found["class"] is not Settings


def test_what_lightning_writes(tmp_path: Path) -> None:
    """The real thing, with settings of OmegaConf and of its own class."""
    lightning = pytest.importorskip("pytorch_lightning", reason="needs the extra test-checkpoints")
    omegaconf = pytest.importorskip("omegaconf", reason="needs the extra test-checkpoints")

    class Method(lightning.LightningModule):
        def __init__(self, settings: object, folder: Path) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.backbone = torch.nn.Linear(3, 2)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    settings = omegaconf.OmegaConf.create({"optimizer": {"lr": 0.1, "betas": [0.9, 0.99]}, "name": "swav"})
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, max_steps=0, enable_progress_bar=False
    )
    method = Method(settings, Path("/data"))
    trainer.strategy.connect(method)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError, match="omegaconf"):
        read_torch_file(tmp_path / "last.ckpt")
    found = read_torch_file(tmp_path / "last.ckpt", foreign=True)
    assert torch.equal(found["state_dict"]["backbone.weight"], method.backbone.weight)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize(
    "action",
    [
        (open, ("mischief_was_done", "w")),
        (os.system, ("touch mischief_was_done",)),
        (eval, ("open('mischief_was_done', 'w')",)),
        (subprocess.Popen, (["touch", "mischief_was_done"],)),
        (getattr, (Path("mischief_was_done"), "touch")),
        (Path.touch, (Path("mischief_was_done"),)),
        (torch.hub.load, (".", "mischief")),
        (torch.load, ("mischief.pt", None, None)),
        (functools.reduce, (getattr, [Path("mischief_was_done"), "touch"])),
    ],
    ids=lambda action: action[0].__qualname__,
)
def test_nothing_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: tuple[object, ...], foreign: bool, new_format: bool
) -> None:
    """With stand-ins the rest of the file may be read; without, it is refused. Neither imports or calls anything."""
    monkeypatch.chdir(tmp_path)
    evil = type("Evil", (), {"__reduce__": lambda self: action})()
    torch.save({"weight": torch.ones(2), "evil": evil}, "file.pt", _use_new_zipfile_serialization=new_format)
    try:
        found = read_torch_file(tmp_path / "file.pt", foreign=foreign)
    except pickle.UnpicklingError:
        found = None
    if found is not None:
        assert foreign
        assert isinstance(found["evil"], StandIn)
        assert torch.equal(found["weight"], torch.ones(2))
    time.sleep(0.05 * (action[0] is subprocess.Popen))
    assert os.listdir() == ["file.pt"]  # noqa: PTH208


def test_no_module_is_imported(tmp_path: Path) -> None:
    (tmp_path / "mischief_module.py").write_text("raise SystemExit('it was imported')")
    torch.save({"evil": Path("x")}, tmp_path / "file.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "file.pt").read_bytes().replace(b"cpathlib\nPosixPath\n", b"cmischief_module\nEvil\n")
    assert b"mischief_module" in content
    (tmp_path / "file.pt").write_bytes(content)
    sys.path.insert(0, str(tmp_path))
    try:
        assert isinstance(read_torch_file(tmp_path / "file.pt", foreign=True)["evil"], StandIn)
    finally:
        sys.path.remove(str(tmp_path))
    assert "mischief_module" not in sys.modules


def test_a_bare_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = type("Evil", (), {"__reduce__": lambda self: (open, ("mischief_was_done", "w"))})
    for protocol in range(6):
        (tmp_path / "file.pt").write_bytes(pickle.dumps(evil(), protocol))
        with pytest.raises((pickle.UnpicklingError, EOFError, ValueError, RuntimeError)):
            read_torch_file(tmp_path / "file.pt", foreign=True)
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
