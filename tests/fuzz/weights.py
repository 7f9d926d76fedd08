"""Files of weights, checkpoints and logs."""

import functools
import io
import json
import pickle
import struct
import tempfile
import zipfile
from argparse import Namespace
from collections import defaultdict
from hashlib import sha256
from pathlib import Path

import torch
from hypothesis import strategies as st
from torch import nn

from coterie.evaluation.model_selection import plateau_reason, select_snapshot
from coterie.exporting.backbone_file import load_backbone, save_backbone
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.backbone_of_weights import find_backbone
from coterie.models.pretrained import load_weights
from coterie.training import checkpoint_io
from coterie.training.run_folder import read_log, read_records
from tests.fuzz.mutations import damaged

SMALL = BackboneConfig("resnet18", width=0.125, stem="small")
ABSURD = [
    0,
    -1,
    1e300,
    10**15,
    10**400,
    "resnet18",
    "../x",
    "x" * 3000,
    None,
    True,
    [],
    {},
    [1, 2],
    0.03125,
    4096.0,
    3,
    1e6,
    "vit_giant_patch14_dinov2",
]


@functools.cache
def network() -> nn.Module:
    return build_backbone(SMALL, 16)


def _own() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(Path(folder) / "x", network(), SMALL, 16, (0.5,) * 3, (0.2,) * 3)
        return (Path(folder) / "x").read_bytes()


@st.composite
def _header(draw: st.DrawFn) -> bytes:
    """A safetensors file with absurd values in its header; the length before the header is right."""
    whole = _own()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    description = json.loads(header["__metadata__"]["coterie"])
    for _ in range(draw(st.integers(1, 2))):
        value = draw(st.sampled_from(ABSURD))
        match draw(st.integers(0, 3)):
            case 0 if isinstance(description["backbone"], dict):
                description["backbone"][draw(st.sampled_from(sorted(description["backbone"])))] = value
            case 1:
                description[draw(st.sampled_from(sorted(description)))] = value
            case 2:
                tensor = header[draw(st.sampled_from(sorted(set(header) - {"__metadata__"})))]
                tensor[draw(st.sampled_from(sorted(tensor)))] = draw(
                    st.sampled_from([[10**12], [2**63, 2], [0], [-1, 5], [5, 1], "F64", "I8", []])
                )
            case 3:
                header[draw(st.text(max_size=5))] = {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 4]}
    header["__metadata__"]["coterie"] = json.dumps(description)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + whole[8 + length :]


def _packed(data: object, compressed: int = zipfile.ZIP_STORED, pickled: bytes | None = None) -> bytes:
    """A file as torch.save writes it, optionally compressed or with another pickle inside."""
    file, again = io.BytesIO(), io.BytesIO()
    torch.save(data, file)
    if pickled is None and compressed == zipfile.ZIP_STORED:
        return file.getvalue()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(again, "w", compressed) as new:
        for name in old.namelist():
            new.writestr(name, pickled if pickled is not None and name.endswith("data.pkl") else old.read(name))
    return again.getvalue()


def _state() -> dict[str, object]:
    return {
        "student": {"weight": torch.ones(3, 4), "odd": torch.zeros(2, dtype=torch.bfloat16)},
        "extra": {"images": 3},
    }


def _pickle_of(data: object) -> bytes:
    file = io.BytesIO()
    torch.save(data, file)
    with zipfile.ZipFile(file) as packed:
        return packed.read(next(name for name in packed.namelist() if name.endswith("data.pkl")))


def _bombs() -> list[bytes]:
    few = torch.zeros(1)
    bombs = [
        _packed({"conv1.weight": torch.zeros(2**26)}, zipfile.ZIP_DEFLATED),
        _packed({"x": few.expand(10**6, 10**6)}),
    ]
    bombs += [
        _packed({"conv1.weight": few.expand(8, 3, 10**5, 10**5)}),
        _packed({"conv1.weight": few.expand(8, 1, 3, 3)}),
    ]
    bombs += [
        _packed({"conv1.weight": torch.zeros(8, 3, 3, 3, device="meta")}),
        _packed({"bn1.weight": torch.eye(3).to_sparse()}),
    ]
    bombs += [_packed({}, pickled=pickle.dumps({"x": bytearray(9)}).replace(b"\x09", b"\x7f")), _packed([]), _packed(3)]
    return bombs


def _checkpoints() -> st.SearchStrategy[bytes]:
    whole, pickled = _packed(_state()), _pickle_of(_state())
    repacked = damaged([pickled]).map(lambda each: _packed(_state(), pickled=each))
    return st.one_of(damaged([whole]), repacked, st.sampled_from([*_bombs(), b"", b"x"]))


def _weights() -> st.SearchStrategy[bytes]:
    state = network().state_dict()
    state = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}
    state["hyper_parameters"] = {"args": Namespace(lr=0.1), "many": defaultdict(list, a=[1]), "path": Path("x")}
    whole, pickled = _packed(state), _pickle_of(state)
    legacy = io.BytesIO()
    torch.save({"conv1.weight": torch.ones(8, 3, 3, 3)}, legacy, _use_new_zipfile_serialization=False)
    repacked = damaged([pickled]).map(lambda each: _packed(state, pickled=each))
    return st.one_of(damaged([whole, legacy.getvalue()]), repacked, st.sampled_from(_bombs()))


def _log() -> bytes:
    lines = [
        {"step": step, "epoch": step // 3, "loss": 2.5, "spread": 0.8, "groups_used": 5} for step in range(0, 30, 3)
    ]
    lines += [
        {
            "step": 5 + n,
            "epoch": n,
            "label_free": {"effective_rank": 3.0, "perplexity": 4.0},
            "snapshot": f"snapshots/{n}.safetensors",
        }
        for n in range(6)
    ]
    return "\n".join(map(json.dumps, lines)).encode()


def inputs() -> dict[str, st.SearchStrategy[bytes]]:
    return {
        "safetensors": st.one_of(damaged([_own()]), _header()),
        "checkpoint": _checkpoints(),
        "weights": _weights(),
        "log": damaged([_log(), b'{"step": 1, "x": [[[]]]}\n' + b"[" * 100_000]),
    }


def attempt(kind: str, data: bytes, folder: Path) -> None:
    """Load the file as a run, an evaluation or a new network would."""
    if kind == "checkpoint":
        path = folder / f"step-000000003-{sha256(data).hexdigest()[:16]}.pt"
        path.write_bytes(data)
        try:
            _, state, _ = checkpoint_io.load(folder)
            with checkpoint_io.restoring(folder):
                nn.Linear(4, 3).load_state_dict(state["student"] if state else {})
        finally:
            path.unlink()
    elif kind == "log":
        for name in ("metrics.jsonl", "run.json", "evaluation.json"):
            (folder / name).write_bytes(data)
        read_records(folder)
        log = read_log(folder)
        plateau_reason(log)
        select_snapshot(log)
    else:
        path = folder / ("model.safetensors" if kind == "safetensors" else "weights.pt")
        path.write_bytes(data)
        load_weights(network(), path, 3)
        find_backbone(path, SMALL.name)
        if kind == "safetensors":
            load_backbone(path)
