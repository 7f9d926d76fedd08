"""A rehearsal is found again for the same run on the same machine, and for no other."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coterie.config.hardware import Runtime
from coterie.data.sources.open import open_source
from coterie.methods.resolve import resolve_run
from coterie.training.profiling import rehearsal_cache
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.rehearsal_cache import (
    images_kind,
    key_with_threads,
    load_rehearsal,
    rehearsal_key,
    save_rehearsal,
)
from tests.training.profiling.conftest import TINY

FOUND = Rehearsal(2.0, 1.0, 10.0, embedding=0.1, first=0.5, batch=16, part=4, steps=9, day="2026-11-29", main=5)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rehearsals"


def key(
    images: Path, method: str = "swav", *more: str, runtime: Runtime | None = None, **options: Any
) -> dict[str, Any]:
    counts = {"smog": "groups.counts=[8,8,8]"}.get(method, "groups.counts=[8]")
    given = {"epochs": 3, "batch_size": 16} | options
    wanted = resolve_run(
        method, images, {**given, "settings": [*TINY, *([counts] if method != "simclr" else []), *more]}
    )
    return rehearsal_key(wanted.config, wanted.source, runtime or Runtime.choose("cpu", "float32", 1))


def test_the_same_run_finds_it_and_knows_that_it_is_not_new(images: Path) -> None:
    assert load_rehearsal(key(images)) is None
    save_rehearsal(key(images), FOUND)
    assert load_rehearsal(key(images)) == replace(FOUND, cached=True)
    save_rehearsal(key(images), replace(FOUND, cached=True, step=3.0))
    assert load_rehearsal(key(images)) == replace(FOUND, cached=True, step=3.0)


def test_what_does_not_change_a_step_changes_nothing(images: Path) -> None:
    own = key(images)
    assert own == key(images, seed=7)
    assert own == key(images, epochs=50)
    assert own == key(images, "swav", "learning_rate.peak=3", "run.snapshots=0", "groups.frozen_steps=3")


@pytest.mark.parametrize(
    "more",
    [
        ("backbone.name=resnet10t",),
        ("backbone.width=0.25",),
        ("backbone.stem=standard",),
        ("projector.hidden=[64]",),
        ("views.crops.0.size=20",),
        ("views.crops.1.count=2",),
        ("views.engine=gpu",),
        ("batch_size=20",),
        ("micro_batches=2",),
        ("run.threads=2",),
        ("run.activation_checkpointing=true",),
        ("run.compile=always",),
        ("groups.counts=[9]",),
        ("memory.length=32", "memory.start_epoch=1"),
        ("optimizer.kind=lars",),
    ],
)
def test_what_changes_a_step_is_another_rehearsal(images: Path, more: tuple[str, ...]) -> None:
    save_rehearsal(key(images), FOUND)
    assert load_rehearsal(key(images, "swav", *more)) is None


def test_methods_machines_and_versions_are_told_apart(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, cpu = key(images), Runtime.choose("cpu", "float32", 1)
    others = [key(images, method) for method in ("smog", "sela_v2", "simclr", "deepcluster_v2")]
    others += [key(images, runtime=replace(cpu, autocast=torch.bfloat16)), key(images, runtime=replace(cpu, workers=0))]
    monkeypatch.setattr(rehearsal_cache, "processor", lambda: "another")
    others.append(key(images))
    monkeypatch.undo()
    monkeypatch.setattr(rehearsal_cache, "__version__", "9.9")
    others.append(key(images))
    monkeypatch.undo()
    monkeypatch.setattr(rehearsal_cache, "version", lambda name: "9.9")
    others.append(key(images))
    monkeypatch.undo()
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 2, 3, 4})
    others.append(key(images))
    monkeypatch.undo()
    monkeypatch.setattr(rehearsal_cache, "world_size", lambda: 2)
    others.append(key(images))
    texts = [json.dumps(each, sort_keys=True) for each in (own, *others)]
    assert len(set(texts)) == len(texts)


def test_a_choice_between_threads_holds_for_a_machine_as_busy(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(cores: int) -> dict[str, Any]:
        monkeypatch.setattr(rehearsal_cache, "cores_of_others", lambda: cores)
        return key(images, "swav", "run.threads=0")

    torch.set_num_threads(2)
    assert busy(0) == busy(0) != busy(1)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    asleep = busy(0)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert asleep != busy(0)
    assert [key_with_threads(busy(1), threads) for threads in (1, 2)] == [
        key(images, "swav", f"run.threads={threads}") for threads in (1, 2)
    ]


def test_images_are_told_apart_by_kind_and_rough_size(tmp_path: Path) -> None:
    from PIL import Image

    def kind(side: int, ending: str) -> dict[str, Any]:
        folder = tmp_path / f"{side}{ending}"
        folder.mkdir()
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{number}.{ending}")
        (folder / f"bad.{ending}").write_bytes(b"no image")
        return images_kind(open_source(str(folder)))

    assert kind(64, "png") == {"kind": "PNG", "size": 12, "remote": False}
    assert kind(68, "png") == {"kind": "PNG", "size": 12, "remote": False}
    assert kind(128, "png")["size"] == 14
    assert kind(64, "jpg")["kind"] == "JPEG"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff",
        b"[]",
        b"{}",
        b'{"key": 1, "rehearsal": 2}',
        "step: null",
        "step: text",
        "step: -1",
        "step: NaN",
        "missing",
        "more",
        "another key",
    ],
)
def test_a_damaged_file_is_no_rehearsal(images: Path, cache: Path, content: bytes | str) -> None:
    own = key(images)
    save_rehearsal(own, FOUND)
    (path,) = cache.iterdir()
    saved = json.loads(path.read_text())
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        name, _, value = content.partition(": ")
        if name == "step":
            saved["rehearsal"]["step"] = {"null": None, "text": "1.0", "-1": -1, "NaN": float("nan")}[value]
        elif name == "missing":
            del saved["rehearsal"]["first"]
        elif name == "more":
            saved["rehearsal"]["of_a_later_version"] = 1
        else:
            saved["key"]["cores"] = 99
        path.write_text(json.dumps(saved))
    assert load_rehearsal(own) is None
    save_rehearsal(own, FOUND)
    assert load_rehearsal(own) == replace(FOUND, cached=True)


def test_a_folder_that_cannot_be_made_is_ignored(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "file"))
    save_rehearsal(key(images), FOUND)
    assert load_rehearsal(key(images)) is None


def test_the_oldest_are_removed(images: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal_cache, "MOST_FILES", 3)
    for number in range(5):
        save_rehearsal({"number": number}, FOUND)
    assert len(list(cache.iterdir())) == 3
    assert load_rehearsal({"number": 4}) is not None
