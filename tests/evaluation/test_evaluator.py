"""Is it good, is it learning, which checkpoint: every probe and every verb about a finished run, on a real small one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch

import coterie
from coterie.cli import main as cli
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import BadConfig, UserError
from coterie.evaluation.evaluator import PROBES
from coterie.evaluation.from_options import evaluator_from_options
from coterie.evaluation.probes.few_labels import FewLabels
from coterie.evaluation.probes.listed_labels import ListedLabels
from coterie.logger import NullLogger

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[20] run.threads=1 "
    "run.workers=0 run.snapshots=2"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two looks, and labeled patches of 18 photographs."""
    path = tmp_path_factory.mktemp("judged")
    for split, count in (("train", 180), ("test", 90)):
        write_patches(path / f"{split}.parquet", photo_patches(split, count, 16))
    coterie.pretrain("swav", path / "train.parquet", out=path / "run", epochs=2, batch_size=30, settings=SETTINGS)
    return path


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run the command in this process; its standard output, or its one line of complaint."""

    def run(*words: str | Path) -> str:
        monkeypatch.setattr("sys.argv", ["coterie", *map(str, words)])
        status = 0
        try:
            cli.main()
        except SystemExit as error:
            status = int(error.code or 0)
        said = capfd.readouterr()
        assert status in (0, 2)
        assert status == 0 or said.err.count("\n") == 1
        return said.err if status else said.out

    return run


def test_every_probe_answers_and_is_written_down(folder: Path) -> None:
    quick = [name for name in PROBES if name not in ("linear_images", "low_shot")]  # a hundred epochs; 40 fits a class
    found = coterie.evaluate(
        folder / "run", folder / "train.parquet", folder / "test.parquet", probes=quick, labels_per_class=1, workers=0
    )
    assert list(found) == quick
    assert all(np.isfinite(list(figures.values())).all() for figures in found.values())
    assert found["linear"]["top1"] > 100 / 18
    assert found["finetune"].keys() >= {"top1", "scratch_top1"}
    assert any(name.startswith("groups_") for name in found["clusters"])
    kept = json.loads((folder / "run" / "evaluation.json").read_text())
    assert {name: kept[name] for name in found} == found
    (entry,) = kept["entries"]
    assert entry["figures"] == found
    asked = {"probes": quick, "labels_per_class": 1, "seed": 0, "precision": "float32"}  # several follow a paper
    assert entry["asked"].items() >= asked.items()
    assert entry["baselines"].keys() == {"raw pixels", "untrained network"}
    assert entry["baselines"]["raw pixels"].keys() == {"knn", "linear", "retrieval"}


def test_other_models_stand_beside_it(folder: Path, tmp_path: Path, call: Callable[..., str]) -> None:
    copied = tmp_path / "copied.safetensors"
    shutil.copy(folder / "run" / "model.safetensors", copied)
    first = folder / "run" / "snapshots" / "epoch-0001.safetensors"
    words = (folder / "train.parquet", "--test", folder / "test.parquet", "--workers", "0", "--device", "cpu")
    said = call("evaluate", copied, *words, "--beside", folder / "run", first).splitlines()
    assert said[0].startswith("this model: ")
    rows = {line.rsplit(maxsplit=2)[0]: line.split()[-2:] for line in said[3:]}
    assert [name.rpartition("/")[2] for name in rows] == [
        "raw pixels", "untrained network", "run", "epoch-0001.safetensors", "this model",
    ]  # fmt: skip
    assert list(rows.values())[2] == rows["this model"] != list(rows.values())[3]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copied.safetensors"]
    assert "names" in call("evaluate", copied, *words, "--beside", first, first)
    assert "k200_t0.1_top5" in call("evaluate", copied, *words, "--details", "--probes", "knn")


def test_a_backbone_names_the_network_of_a_file_beside_a_run(
    folder: Path, tmp_path: Path, call: Callable[..., str]
) -> None:
    torch.save(timm.create_model("resnet10t").state_dict(), tmp_path / "public.pth")
    words = ("evaluate", folder / "run", folder / "test.parquet", "--workers", "0", "--probes", "knn")
    said = call(*words, "--beside", tmp_path / "public.pth", "--backbone", "resnet10t", "--size", "32")
    assert [line.split()[0][-10:] for line in said.splitlines()[3:]] == ["raw", "untrained", "public.pth", "this"]
    assert "--backbone is resnet10t, but" in call(*words, "--backbone", "resnet10t")


def test_which_labels_and_which_recipe(folder: Path, tmp_path: Path, call: Callable[..., str]) -> None:
    (tmp_path / "list.txt").write_text("a.png\n")

    def made(**options: Any) -> tuple[Any, str | None]:
        found = evaluator_from_options(folder / "run", ("finetune",), (), {"workers": 0, **options}, NullLogger())
        return found.few, found.recipe

    assert made() == (FewLabels(share=0.1), None)
    assert made(recipe="1%") == (FewLabels(share=1.0), "1%")  # on a list of files: all that it names
    assert made(recipe="10%", label_fraction="1%") == (FewLabels(share=0.01), "10%")
    assert made(label_list=tmp_path / "list.txt") == (ListedLabels(str(tmp_path / "list.txt"), ("a.png",)), None)
    with pytest.raises(BadConfig, match="leave out --label-fraction and --labels-per-class"):
        made(label_list=tmp_path / "list.txt", labels_per_class=3)
    with pytest.raises(BadConfig, match=r"--recipe is 5%: use one of imagenet, .*, 1%, 10%"):
        made(recipe="5%")
    words = ("evaluate", folder / "run", folder / "train.parquet", "--probes", "finetune", "--recipe")
    assert "1%" in call(*words, "5%")


def test_a_second_question_embeds_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (folder / "run", folder / "train.parquet", folder / "test.parquet")
    first = coterie.evaluate(*asked, probes=["knn"], workers=0)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was embedded again")

    monkeypatch.setattr("coterie.evaluation.evaluator.embed_source", never)
    again = coterie.evaluate(*asked, probes=["knn"], workers=0)
    assert (again, again.baselines) == (first, first.baselines)
    assert coterie.evaluate(*asked, probes=["retrieval"], workers=0)


@pytest.mark.parametrize(
    ("probes", "precision", "kept"),
    [
        (("knn", "linear"), "auto", "bfloat16"),
        (("knn", "linear_published"), "auto", "float32"),
        (("svm",), "bfloat16", "bfloat16"),
    ],
)
def test_probes_that_follow_a_paper_are_given_float32(
    folder: Path, monkeypatch: pytest.MonkeyPatch, probes: tuple[str, ...], precision: str, kept: str
) -> None:
    monkeypatch.setattr("coterie.config.hardware.has_bfloat16", lambda device: True)
    options = {"device": "cpu", "workers": 0, "precision": precision}
    made = evaluator_from_options(folder / "run", probes, (), options, NullLogger())
    assert (made.embedding.precision, made.runtime.precision) == (kept, "bfloat16")


def test_each_precision_is_another_question(folder: Path) -> None:
    kept, entries = folder / "run" / "embeddings", folder / "run" / "evaluation.json"
    before = len(list(kept.glob("*")))
    for precision in ("float32", "bfloat16"):
        options = {"probes": ["knn"], "precision": precision, "workers": 0}
        coterie.evaluate(folder / "run", folder / "test.parquet", **options)
        assert json.loads(entries.read_text())["entries"][-1]["asked"]["precision"] == precision
    assert len(list(kept.glob("*"))) == before + 2 * 6  # of network, raw pixels and untrained network, two parts each
    with pytest.raises(BadConfig, match="precision is 'bfloat': use auto, float32 or bfloat16; did you mean bfloat16"):
        coterie.evaluate(folder / "run", folder / "test.parquet", precision="bfloat")  # type: ignore[arg-type]


def test_other_labels_are_another_question(folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(folder / "train.parquet")
    coarse = pa.array([number % 2 for number in range(len(table))])
    pq.write_table(table.append_column("coarse", coarse), tmp_path / "both.parquet")
    for column in ("label", "coarse"):
        coterie.evaluate(folder / "run", tmp_path / "both.parquet", probes=["knn"], workers=0, label_column=column)
    entries = json.loads((folder / "run" / "evaluation.json").read_text())["entries"]
    ours = [each for each in entries if each["asked"]["train"] == [str(tmp_path / "both.parquet")]]
    assert [each["asked"]["columns.label"] for each in ours] == ["label", "coarse"]
    assert "columns.labels" not in ours[0]["asked"]


def test_the_same_probe_in_training_and_afterwards(folder: Path, tmp_path: Path) -> None:
    more = ["probe.probes=['knn', 'linear']"]
    run = coterie.pretrain(
        "swav",
        folder / "train.parquet",
        out=tmp_path / "run",
        epochs=1,
        batch_size=30,
        settings=[*SETTINGS, *more],
        probe=folder / "train.parquet",
        probe_test=folder / "test.parquet",
    )
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    after = coterie.evaluate(
        run, folder / "train.parquet", folder / "test.parquet", probes=["knn", "linear"], workers=0
    )
    assert {name: last[name] for name in after} == after


def test_several_labels_an_image(folder: Path, tmp_path: Path) -> None:
    """VOC's way: a list of labels in each row."""
    for split in ("train", "test"):
        table = pq.read_table(folder / f"{split}.parquet")
        labels = table["label"].to_pylist()
        several = pa.array([[label[:1], f"length {len(label) % 2}"] for label in labels], pa.list_(pa.string()))
        pq.write_table(pa.table({"image": table["image"], "labels": several}), tmp_path / f"{split}.parquet")
    found = coterie.evaluate(
        folder / "run", tmp_path / "train.parquet", tmp_path / "test.parquet", probes=["svm"], workers=0
    )
    assert 0 < found["svm"]["map"] <= 100
    assert found["svm"]["classes"] > 5


def test_blocks_and_recipes(folder: Path) -> None:
    run, sets = folder / "run", (folder / "train.parquet", folder / "test.parquet")
    found = coterie.evaluate(run, *sets, probes=["linear_blocks", "linear_published"], recipe="places205", workers=0)
    assert found["linear_published"]["learning_rate"] == 0.01
    assert len(found["linear_blocks"]) == 5
    assert all(name.endswith("_top1") and 0 <= value <= 100 for name, value in found["linear_blocks"].items())
    asked = [each["asked"] for each in json.loads((run / "evaluation.json").read_text())["entries"]]
    assert any(each.get("recipe") == "places205" and each["precision"] == "float32" for each in asked)
    with pytest.raises(
        UserError, match=r"^--recipe places205 is for linear_published, linear_blocks, linear_images: [^\n]*$"
    ):
        coterie.evaluate(run, *sets, probes=["knn"], recipe="places205", workers=0)
    with pytest.raises(UserError, match=r"^--recipe is inat: use one of [^\n]*did you mean inat18\?$"):
        coterie.evaluate(run, *sets, probes=["linear_blocks"], recipe="inat", workers=0)


def test_transfer_gives_one_table(folder: Path, call: Callable[..., str]) -> None:
    said = call(
        "transfer", folder / "run", f"whole={folder / 'train.parquet'}",
        f"pair={folder / 'train.parquet'},{folder / 'test.parquet'}", "--probes", "knn,retrieval", "--workers", "0",
    )  # fmt: skip
    assert [line.strip() for line in said.splitlines() if len(line.split()) == 1] == ["whole", "pair"]
    assert said.splitlines()[2].split() == ["top-1,", "%", "kNN", "retrieval", "mAP"]
    assert sum("this model  " in line for line in said.splitlines()) == 2
    kept = json.loads((folder / "run" / "evaluation.json").read_text())["transfer"]
    assert kept.keys() == {"whole", "pair"}
    assert "NAME=TRAIN" in call("transfer", folder / "run", "nothing")


def test_select_says_which_and_why(folder: Path, tmp_path: Path, call: Callable[..., str]) -> None:
    said = call("select", folder / "run", "--out", tmp_path / "best.safetensors")
    name = said.splitlines()[0]
    assert (folder / "run" / name).exists()
    assert f"* {name}" in said
    assert "effective_rank" in said
    assert coterie.load_backbone(tmp_path / "best.safetensors")
    assert "--probe" in call("select", folder / "run", "--by", "knn")
    (tmp_path / "empty").mkdir()
    assert "is not a run's folder" in call("select", tmp_path / "empty")


def test_compare_and_report(folder: Path, tmp_path: Path, call: Callable[..., str]) -> None:
    other = coterie.pretrain(
        "swav", folder / "train.parquet", out=tmp_path / "other", epochs=1, batch_size=45, settings=SETTINGS
    )
    said = call("compare", folder / "run", other, "--out", tmp_path / "compare.html")
    assert "batch_size" in said
    assert "<html" in (tmp_path / "compare.html").read_text()
    page = folder / "run" / "report.html"
    before = page.read_text()
    page.unlink()
    assert str(page) in call("report", folder / "run", "--device", "cpu")
    assert len(page.read_text()) > len(before) / 2
    assert "two runs" in call("compare", folder / "run")


@pytest.mark.parametrize(
    ("probes", "what"),
    [(["knn", "fortune"], "unknown probe fortune"), ([], "no probe is named"), (["svm"], "--test")],
)
def test_bad_questions(folder: Path, probes: list[str], what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        coterie.evaluate(folder / "run", folder / "train.parquet", probes=probes, workers=0)
    assert "\n" not in str(caught.value)
