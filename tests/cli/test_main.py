"""The command line from end to end; errors of the user are one plain line and exit status 2."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import tifffile
import torch
from PIL import Image

import coterie
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches

TINY = [
    part
    for setting in (
        "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=1 backbone.width=0.125 groups.counts=[8] "
        "run.threads=1 run.log_steps=2 run.workers=0"
    ).split()
    for part in ("--set", setting)
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 72, 16))
    return path


def pretrain(images: Path, out: Path, *more: str | Path) -> list[str | Path]:
    words = ["pretrain", "swav", images, "--out", out, *TINY, *more]
    return words + [
        part for flag in ("--epochs 2", "--batch-size 16") if flag.split()[0] not in more for part in flag.split()
    ]


def test_the_whole_way(images: Path, tmp_path: Path, call) -> None:
    out = tmp_path / "run"
    status, said, _ = call(*pretrain(images, out, "--probe", images))
    assert status == 0
    assert str(out / "model.safetensors") in said
    assert {path.name for path in out.iterdir()} >= {
        "config.toml",
        "metrics.jsonl",
        "model.safetensors",
        "checkpoint",
        "report.html",
    }
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    wanted = {"step", "epoch", "loss", "lr", "images_per_second", "data_wait", "groups_used", "perplexity", "spread"}
    assert wanted | {"loss_over_ln_k"} <= records[0].keys()
    assert records[-1]["knn"]["k1_t0.07_top1"] >= 0

    status, said, _ = call("evaluate", out, images, "--probes", "knn", "--details")
    assert status == 0
    assert "k200_t0.1_top1" in said
    assert json.loads((out / "evaluation.json").read_text())["knn"]["k20_t0.07_top5"] > 0

    table = tmp_path / "embeddings.parquet"
    assert call("embed", out, images, "--out", table)[0] == 0
    rows = pq.read_table(table)
    assert rows.column_names == ["name", "label", "class", "embedding", "group", "probability"]
    assert len(rows) == 72
    assert set(rows["group"].to_pylist()) <= set(range(8))
    assert all(0 < value <= 1 for value in rows["probability"].to_pylist())

    again = tmp_path / "again"
    assert call("pretrain", "--config", out / "config.toml", "--out", again)[0] == 0
    same_weights(again, out)


def test_the_version(call) -> None:
    assert call("--version")[1].strip() == coterie.__version__


def test_starting_weights_are_needed_only_to_start(images: Path, tmp_path: Path, call) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert call(*pretrain(images, first))[0] == 0
    words = pretrain(images, second, "--start-from", str(first))
    status, _, said = call(*words)
    assert status == 0
    line = json.loads((second / "run.json").read_text())["start"]
    assert line.startswith(f"{first}: took ")
    assert "the projector" in line
    assert f"starts from {line}" in said.replace("\n", " ")
    shutil.rmtree(first)
    assert call("embed", second, images, "--out", tmp_path / "rows.parquet")[0] == 0
    (second / "report.html").unlink()  # as if it had been killed just before
    assert call(*words)[0] == 0
    assert (second / "report.html").exists()
    # an extended run trains on, still without the file
    status, _, said = call(*pretrain(images, second, "--start-from", first, "--epochs", "3"))
    assert status == 0
    assert "starts from" not in said
    status, _, said = call(*pretrain(images, second, "--start-from", "none", "--epochs", "3"))
    assert status == 2
    assert "leave out --start-from to resume it" in said


def test_checkpoints_that_are_all_damaged_are_not_trained_over(images: Path, tmp_path: Path, call) -> None:
    words = pretrain(images, tmp_path / "run")
    assert call(*words)[0] == 0
    for path in (tmp_path / "run" / "checkpoint").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    status, _, err = call(*words)
    assert (status, err.count("\n")) == (2, 1)
    assert "no checkpoint" in err
    assert call(*words)[0] == 2  # and not the second time either
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == model


def test_other_networks(images: Path, tmp_path: Path, call) -> None:
    plain = [
        "--set",
        "views.crops.1.count=1",
        "--set",
        "groups.counts=[8]",
        "--set",
        "run.workers=0",
        "--set",
        "run.threads=1",
    ]
    for name in ("vit_tiny_patch16_224", "convnext_atto"):
        words = [
            "pretrain",
            "swav",
            images,
            "--out",
            tmp_path / name,
            "--epochs",
            "1",
            "--batch-size",
            "24",
            "--backbone",
            name,
        ]
        status, _, err = call(*words, *plain)
        assert status == 0, err


def same_weights(one: Path, two: Path) -> None:
    """The tensors, bit by bit; the order of the metadata in a safetensors file is not fixed."""
    mine, theirs = (safetensors.torch.load_file(run / "model.safetensors") for run in (one, two))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def folder_of(tmp_path: Path, *contents: bytes) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / f"{number}.jpg").write_bytes(content)
    return folder


def test_sources_that_hold_nothing(tmp_path: Path, call) -> None:
    empty = folder_of(tmp_path)
    for data, expected in (
        (tmp_path / "missing", "no such file or folder"),
        (empty, "no image"),
        (tmp_path / "*.jpg", "nothing"),
    ):
        status, _, err = call("pretrain", "swav", data, "--out", tmp_path / "run")
        assert (status, err.count("\n")) == (2, 1)
        assert err.startswith("coterie: ")
        assert expected in err
    (empty / "a.jpg").write_bytes(b"")
    status, _, err = call("pretrain", "swav", empty, "--out", tmp_path / "run")
    assert (status, err.count("\n")) == (2, 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "groups.count=30"], "did you mean groups.counts?"),
        (["--set", "groups.counts=many"], "groups.counts"),
        (["--set", "groups.counts=[70.5]"], "groups.counts.0: 70.5 is not a whole number"),
        (["--set", "groups"], "write path=value"),
        (["--set", "run.log_steps=true"], "--set run.log_steps=true: give a whole number, such as run.log_steps=2"),
        (["--set", "run.on_collapse=explode"], "run.on_collapse"),
        (["--set", "views.crops.1.sise=9"], "did you mean views.crops.1.size?"),
        (["--set", "memory.length=3", "--set", "memory.start_epoch=0"], "set it to 16 or more"),
        (["--set", "optimizer.kind=adam"], "choose one of lars, sgd, adamw; did you mean adamw?"),
        (
            ["--set", "optimizer.kind=sgd", "--set", "optimizer.betas=[0.9,0.9]"],
            "optimizer.betas: optimizer.kind is 'sgd'; set it to 'adamw' before",
        ),
        (["--set", "groups.counts=[100]"], "more than the 64 images of an epoch"),
        (["--set", "views.channels=2"], "3 channels where 2 are needed (views.channels)"),
        (["--set", "backbone.channels=1"], "but views.channels is 3"),
        (["--backbone", "resnet51"], "resnet50"),
        (["--batch-size", "100"], "fewer than one batch of 100"),
        (["--batch-size", "1"], "at least 2 images"),
        (["--epochs", "0"], "epochs is 0"),
        (["--epochs", "ten"], "--epochs"),
        (["--frobnicate", "1"], "--frobnicate"),
        (["--set", "run.device=cuda"], "but torch says"),
        (["--set", "run.device=tpu"], "run.device"),
        (["--set", "backbone.weights=/nowhere.pth"], "/nowhere.pth"),
        (["--start-from", "/nowhere.pth"], "there are no weights at /nowhere.pth"),
        (["--start-from", "timm:resnet81"], "timm has no network 'resnet81'"),
        (["--backbone", "resnet18.a1_in1k"], "is not in the cache and cannot be downloaded"),
        (["--backbone", "resnet18.a1_in2k"], "timm has no weights resnet18.a1_in2k: it has timm:resnet18.a1_in1k"),
        (["--backbone", "selecsls42.in1k"], "timm has no weights for selecsls42"),
        (["--backbone", "resnet18.a1_in1k", "--start-from", "run"], "use --backbone resnet18 to start from others"),
        (["--set", "backbone.trainable=last:0"], "give all, none, or last:N"),
        (["--set", "backbone.trainable=last:99"], "resnet18 has 8 layers after its stem: use last:8 or fewer"),
        (["--set", "optimizer.layer_decay=0"], "it must be above 0 and at most 1"),
        (["--config", "/nowhere.toml"], "no settings file /nowhere.toml"),
        (["--probe", "/nowhere"], "no such file or folder"),
        (["--probe-test", "x"], "name those it learns from with --probe"),
        (["--batch-size", "-5"], "at least 2 images"),
        (["--set", "run.workers=-2"], "workers is -2"),
        (["--set", "run.threads=-1"], "run.threads is -1"),
        (["--set", "run.device=cuda:x"], "run.device"),
        (["--set", "views=5", "--set", "views.channels=3"], "--set views=5: give a table"),
        (["--set", "views=[1]", "--set", "views.channels=3"], "--set views=[1]: [1] is not a table; give a table"),
        (["--set", "run=5"], "give a table of settings, such as run={device='auto'}"),
        (["--set", "learning_rate=fast"], "give a number, such as learning_rate=0.1, or a table"),
        (["--set", "probe.train=labeled"], "give a list of texts in quotes, such as probe.train=['labeled/train']"),
        (["--set", "groups.counts=none"], "cannot be left out"),
        (["--set", "temperature=nan"], "--set temperature=nan: give a number, such as temperature=0.1"),
        (["--set", "clip_grad_norm=-1"], "clip_grad_norm is -1"),
        (["--set", "data=['x']"], "METHOD DATA"),
        (["--seed", "18446744073709551616"], "seed"),
        (["--set", "run.device=cuda:"], "run.device"),
        (["--set", "views.student_views=[1,2]"], "leaves out view 0"),
        (
            ["--set", "views.grouped_views=[0]", "--set", "memory={length=32,start_epoch=0}"],
            "must have the same length",
        ),
        (
            ["--set", "views.student_views=[0]", "--set", "views.target_views=[0]", "--set", "views.grouped_views=[0]"],
            "at least 2 views",
        ),
        (["--set", "optimizer.weight_decay=-1"], "optimizer.weight_decay"),
        (["--set", "optimizer={kind='sgd',momentum=1.5}"], "momentum"),
        (["--on-collapse", "ignore"], "--on-collapse. Choose from"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_options(images: Path, tmp_path: Path, call, words: list[str], expected: str) -> None:
    if "run.device=cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    status, _, err = call(*pretrain(images, tmp_path / "run", *words))
    assert status == 2, err
    assert err.count("\n") == 1, err
    assert expected in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "groups.counts=[3000]", "--set", "memory=none", "--batch-size", "64"], "--set memory.length=6000"),
        (["--set", "groups.counts=[100]", "--set", "memory.length=640"], "use --set groups.counts=3 or less"),
        (["--batch-size", "100"], "use --batch-size 72 or less"),
        (["--batch-size", "1"], "at least 2 images"),
        (["--config", "/nowhere.toml"], "no settings file"),
        (["--set", "run.workers=-2"], "workers is -2"),
        (["--set", "run.device=tpu"], "run.device"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_plans_that_must_fail(images: Path, call, words: list[str], expected: str) -> None:
    """Refused before anything is rehearsed, with the fix."""
    status, out, err = call("plan", "swav", images, *words)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert expected in err


def test_a_plan_is_shown(images: Path, call) -> None:
    status, out, err = call("plan", "swav", images, *TINY, "--epochs", "2", "--batch-size", "16")
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["setting", "value", "reason"]
    assert any(line.startswith("backbone.name ") and "images of 16 pixels are small" in line for line in lines)
    assert any(line.startswith("groups.counts ") and line.endswith("set by you") for line in lines)
    assert lines[-4].startswith("swav: 72 images, resnet18, crops 2x16 + 1x8, 8 groups, batch 16, 2 epochs of 4 steps")
    assert [line.split()[0] for line in lines[-3:]] == ["time", "memory", "from"]


def test_an_unknown_method_verb_run_and_probe(images: Path, tmp_path: Path, call) -> None:
    for words, expected in (
        (["pretrain", "swaw", images, "--out", tmp_path / "run"], "swav"),
        (["pretrain", "swav", "--out", tmp_path / "run"], "name the images"),
        (["pretrian"], "pretrain"),
        (["evaluate", tmp_path, images], "model.safetensors"),
        (["pretrain", images, "--config", tmp_path / "x.toml", "--out", tmp_path / "run"], "no settings file"),
        (["embed", tmp_path, images, "--out", tmp_path / "x.parquet"], "config.toml"),
        (["evaluate", tmp_path, images, "--probes", "oracle"], "unknown probe oracle"),
    ):
        status, _, err = call(*words)
        assert (status, err.count("\n")) == (2, 1), err
        assert expected in err


def test_bad_images_among_good_ones_are_listed(images: Path, tmp_path: Path, call) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, patch in enumerate(photo_patches("train", 40, 16).images):
        Image.fromarray(patch[:, :, 0]).convert("RGB").save(folder / f"{number:03}.png")
    (folder / "007.png").write_bytes(b"")
    (folder / "011.png").write_bytes((folder / "012.png").read_bytes()[:60])
    (folder / "013.png").write_text("not an image")
    lists = []
    for name in ("one", "two"):
        status, _, err = call(*pretrain(folder, tmp_path / name))
        assert status == 0, err
        assert "3 images could not be decoded" in err
        lists.append((tmp_path / name / "bad_images.txt").read_text())
    assert lists[0] == lists[1]
    assert [line.split("\t")[0] for line in lists[0].splitlines()] == ["007.png", "011.png", "013.png"]
    same_weights(tmp_path / "one", tmp_path / "two")
    status, said, err = call("embed", tmp_path / "one", folder, "--out", tmp_path / "rows.parquet")
    assert "37 images" in said
    assert (tmp_path / "rows.parquet.bad.txt").read_text().count("\n") == 3


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint16), (5, np.uint16), (1, np.uint8)])
def test_special_images(tmp_path: Path, call, channels: int, dtype: type) -> None:
    """Gray, 16-bit and many-channel TIFF, with quarter turns and flips upside down."""
    folder = tmp_path / "folder"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(24):
        pixels = generator.integers(0, np.iinfo(dtype).max, (20, 20, channels), dtype=dtype)
        tifffile.imwrite(folder / f"{number:02}.tif", pixels.squeeze(), photometric="minisblack")
    turned = [f"views.crops.{n}.augmentation.{what}" for n in (0, 1) for what in ("rotation=1.0", "vertical_flip=0.5")]
    more = [part for setting in (*turned, f"views.channels={channels}") for part in ("--set", setting)]
    status, _, err = call(*pretrain(folder, tmp_path / "run", *more))
    assert status == 0, err
    views = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["views"]
    assert views["channels"] == len(views["mean"]) == len(views["std"]) == channels
    assert views["crops"][0]["augmentation"]["jitter"] == 0
    assert 0.4 < views["mean"][0] < 0.6
    assert call("embed", tmp_path / "run", folder, "--out", tmp_path / "rows.parquet")[0] == 0


def test_bfloat16_on_a_cpu(images: Path, tmp_path: Path, call) -> None:
    assert call(*pretrain(images, tmp_path / "run", "--set", "run.precision=bfloat16"))[0] == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(record["loss"]) for record in records if "loss" in record)


def test_several_processes_that_torchrun_did_not_start(
    images: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, _, err = call(*pretrain(images, tmp_path / "run"))
    assert (status, err.count("\n")) == (2, 1)
    assert "start them with torchrun" in err


def test_a_full_disk(images: Path, tmp_path: Path, call) -> None:
    """The run stops with one line; what was saved before is whole, and with more room the same command resumes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=14m", "none", disk], check=False).returncode
    ):
        pytest.skip("only root may mount a small disk")
    words = pretrain(images, disk / "run", "--set", "run.save_steps=2")
    try:
        (disk / "filler").write_bytes(bytes(9 * 2**20))  # leaves room for one checkpoint and a half
        status, _, err = call(*words)
        assert status == 2
        assert "Traceback" not in err
        assert [line for line in err.splitlines() if line.startswith("coterie: ")] == err.splitlines()[-1:]
        assert "the disk is full" in err.splitlines()[-1]
        assert not list((disk / "run").rglob("*.part"))
        assert list((disk / "run" / "checkpoint").glob("step-*.pt"))
        (disk / "filler").unlink()
        assert call(*words)[0] == 0
    finally:
        subprocess.run(["umount", disk], check=True)


def test_only_bad_images(tmp_path: Path, call) -> None:
    folder = folder_of(tmp_path, *[b"nothing"] * 20)
    status, _, err = call("pretrain", "swav", folder, "--out", tmp_path / "run")
    assert (status, err.count("\n")) == (2, 1)
    assert "decode" in err


def test_a_folder_that_cannot_be_written(images: Path, tmp_path: Path, call) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = call(*pretrain(images, tmp_path / "file"))
    assert (status, err.count("\n")) == (2, 1)
    assert "is a file" in err
    if os.geteuid() != 0:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        assert "cannot write" in call(*pretrain(images, locked / "run"))[2]


def test_evaluation_without_labels(images: Path, tmp_path: Path, call) -> None:
    run = tmp_path / "run"
    assert call(*pretrain(images, run))[0] == 0
    folder = tmp_path / "flat"
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    status, _, err = call("evaluate", run, folder)
    assert (status, err.count("\n")) == (2, 1)
    assert "has no labels" in err
