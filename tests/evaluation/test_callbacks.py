"""Looks at a run without labels: what they leave, that a resume repeats them, and that they can end a run."""

import json
from pathlib import Path

import pytest
import torch

import coterie
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import BadConfig
from coterie.evaluation import low_rank
from coterie.evaluation.model_selection import snapshot_records
from coterie.logger import NullLogger
from coterie.training.run_folder import read_log

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[20] run.threads=1 "
    "run.workers=0 run.log_steps=4"
).split()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 64, 16))
    return path


def train(images: Path, out: Path, *more: str, method: str = "swav", epochs: int = 6) -> list[dict]:
    coterie.pretrain(method, images, out=out, epochs=epochs, batch_size=16, settings=[*SETTINGS, *more])
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_looks_are_even_and_leave_figures_and_weights(images: Path, tmp_path: Path) -> None:
    records = train(images, tmp_path / "run", "run.snapshots=3")
    found = snapshot_records(records)
    assert [look.epoch + 1 for look in found] == [2, 4, 6]
    wanted = {"rankme", "effective_rank", "lidar", "spread", "agreement", "perplexity"}
    assert all(wanted <= look.figures.keys() for look in found)
    assert ["stability" in look.figures for look in found] == [False, True, True]
    last = coterie.load_backbone(tmp_path / "run" / found[-1].snapshot).state_dict()
    final = coterie.load_backbone(tmp_path / "run").state_dict()
    weights = {name for name, _ in coterie.load_backbone(tmp_path / "run").named_parameters()}
    kept = {name: each.bfloat16().float() if name in weights else each for name, each in final.items()}
    assert all(
        torch.equal(last[name], kept[name]) for name in final
    )  # weights in bfloat16, running statistics as they are
    first = coterie.load_backbone(tmp_path / "run" / found[0].snapshot).state_dict()
    assert any(not torch.equal(first[name], final[name]) for name in final)


def test_looking_changes_nothing_that_is_learned(images: Path, tmp_path: Path) -> None:
    for looked in (0, 6):
        train(images, tmp_path / str(looked), f"run.snapshots={looked}")
    none, all_of_them = (coterie.load_backbone(tmp_path / name).state_dict() for name in ("0", "6"))
    assert all(torch.equal(none[name], all_of_them[name]) for name in none)
    assert not (tmp_path / "0" / "snapshots").exists()


def test_without_lasting_groups_nothing_is_said_of_groups(images: Path, tmp_path: Path) -> None:
    settings = [each for each in SETTINGS if not each.startswith("groups")] + ["run.snapshots=1"]
    coterie.pretrain("simclr", images, out=tmp_path / "run", epochs=2, batch_size=16, settings=settings)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (look,) = snapshot_records(records)
    assert "lidar" in look.figures
    assert "agreement" not in look.figures


def test_a_run_that_has_ceased_to_move_ends_if_asked_and_goes_on_if_not(images: Path, tmp_path: Path) -> None:
    frozen = "learning_rate.peak=1e-12 learning_rate.final=1e-12".split()
    sizes = "views.crops.0.size=32 views.crops.1.size=32 views.crops.1.count=1 run.threads=1 run.workers=0".split()

    def go(*more: str) -> list[dict]:
        settings = [*frozen, *sizes, *more]
        backbone = "test_convnext"  # tiny, and without running statistics, which would go on moving
        coterie.pretrain(
            "simclr", images, out=tmp_path / "run", backbone=backbone, epochs=20, batch_size=32, settings=settings
        )
        return [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]

    records = go("run.early_stop=true")
    assert 5 <= len(snapshot_records(records)) < 10
    done = records[-1]["step"]
    assert go("run.early_stop=true")[-1]["step"] == done  # it is finished
    assert (tmp_path / "run" / "report.html").exists()
    further = go()
    assert further[-1]["step"] == 39
    assert len(snapshot_records(further)) == 10


class Hearing(NullLogger):
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warning(self, text: str) -> None:
        self.warned.append(text)


@pytest.mark.parametrize("snapshots", [6, 2])
def test_features_along_few_directions_are_warned_of_once_during_the_run_and_on_its_page(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshots: int
) -> None:
    monkeypatch.setattr(low_rank, "SMALLEST_RANK", 1000.0)
    logger, settings = Hearing(), [*SETTINGS, f"run.snapshots={snapshots}"]
    run = coterie.pretrain(
        "swav", images, out=tmp_path / "run", epochs=6, batch_size=16, settings=settings, logger=logger
    )
    looks = [line for line in read_log(run) if "label_free" in line]
    assert [line["epoch"] + 1 for line in looks if "warning" in line] == [3 if snapshots == 6 else 6]
    (text,) = {line["warning"] for line in looks if "warning" in line}
    assert "directions (effective rank)" in text
    assert logger.warned == [text]
    page = (run / "report.html").read_text()
    assert text in page
    assert "See the warning below." in page
    assert "No sign of collapse" not in page


def test_staleness_needs_looks(images: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"run\.snapshots is 0"):
        train(images, tmp_path / "run", "run.snapshots=0", "run.early_stop=true")
