"""The same command with more epochs extends a run; given where it was extended, a resume is bit for bit the same."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import coterie
from coterie.config.toml import from_dict, read_toml
from coterie.errors import BadRun, UserError
from coterie.methods.resolve import resolve_run
from coterie.training import checkpoint_io
from coterie.types import Progress
from tests.faults.running import SETTINGS, FailsAfter, assert_same_runs, log_lines, write_shard

PER_EPOCH = 10


class Messages:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.info = self.warning = self.texts.append

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        pass

    def progress(self, items: Any, total: int, what: str) -> Any:
        return iter(items)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shard(tmp_path_factory.mktemp("images") / "patches.tar")


def train(source: Path | None, out: Path, method: str | None = "swav", **options: Any) -> list[str]:
    """Train with the settings of the tests, or, without images, with those of the run; returns the messages."""
    logger = Messages()
    if source is not None:
        settings = SETTINGS if method == "swav" else [each for each in SETTINGS if not each.startswith("memory")]
        settings = [each for each in settings if method == "swav" or "frozen" not in each]
        more = [f"run.{name}={options.pop(name)}" for name in ("snapshots",) if name in options]
        options = {"batch_size": 16, "settings": [*settings, "run.workers=0", *more]} | options
    coterie.pretrain(method, () if source is None else source, out=out, logger=logger, **options)
    return logger.texts


def stopped(images: Path, out: Path, step: int, **options: Any) -> None:
    with pytest.raises(UserError, match="FailsAfter failed"):
        train(images, out, callbacks=[FailsAfter(step)], **options)


def lengths(out: Path) -> list[tuple[int, int]]:
    state = checkpoint_io.load(out / "checkpoint")[1]
    assert state is not None
    return [tuple(each) for each in state["run"]["lengths"]]


@pytest.mark.parametrize("method", ["swav", "smog"])
def test_a_finished_run_is_extended_and_resumes_bit_for_bit(images: Path, tmp_path: Path, method: str) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    train(images, one, method, epochs=2)
    assert lengths(one) == [(0, 2 * PER_EPOCH)]
    report = (one / "report.html").read_text()
    shutil.copytree(one, other)
    said = train(images, one, method, epochs=5)
    assert any(
        "extended from 20 to 50 steps (5 epochs)" in text and "learning rate rises from" in text for text in said
    )
    assert lengths(one) == [(0, 20), (20, 50)]
    assert (one / "report.html").read_text() != report
    stopped(images, other, 33, method=method, epochs=5)
    assert lengths(other) == [(0, 20), (20, 50)]
    train(images, other, method, epochs=5)
    assert_same_runs(one, other)
    log = log_lines(one)
    assert [line["extended"] for line in log if "extended" in line] == [[20, 50]]
    assert [line["epoch"] for line in log if "snapshot" in line] == [0, 1, 2, 4]
    assert all("stability" in line["label_free"] for line in log[1:] if "snapshot" in line and line["epoch"])


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs."""
    out = tmp_path_factory.mktemp("finished")
    train(images, out, epochs=2, snapshots=0)
    return out


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "again"))


def test_the_schedules_of_the_rest_span_the_new_total(images: Path, again: Path) -> None:
    train(images, again, epochs=4, snapshots=0)
    rate = from_dict(read_toml(again / "config.toml")).learning_rate
    for line in log_lines(again):
        if "lr" in line:
            total = 20 if line["step"] < 20 else 40
            assert line["lr"] == rate.at(Progress(line["step"], PER_EPOCH, total)), line["step"]
    assert log_lines(again)[-1]["step"] == 39


def test_an_unfinished_run_is_extended_where_it_stands(images: Path, tmp_path: Path) -> None:
    stopped(images, tmp_path, 12, epochs=2, snapshots=0)
    train(None, tmp_path, None, epochs=3)  # everything else comes from the run
    assert lengths(tmp_path) == [(0, 20), (13, 30)]
    train(None, tmp_path, None, images=16 * 34)
    assert lengths(tmp_path) == [(0, 20), (13, 30), (30, 34)]
    assert train(None, tmp_path, None)[-1].endswith("choose another --out")
    said = train(None, tmp_path, None, epochs=4)
    assert any("extended from 34 to 40 steps" in text for text in said)


def test_automatic_values_are_not_planned_anew(images: Path, tmp_path: Path) -> None:
    settings = [each for each in SETTINGS if not each.startswith(("groups", "memory"))]
    options = {"batch_size": 16, "settings": [*settings, "run.workers=0", "run.snapshots=0"]}
    few, many = (resolve_run("deepcluster_v2", images, options | {"epochs": count}).config for count in (4, 20))
    assert few.refresh != many.refresh, "the plan depends on the number of epochs"
    coterie.pretrain("deepcluster_v2", images, out=tmp_path, epochs=1, **options)
    coterie.pretrain("deepcluster_v2", images, out=tmp_path, epochs=2, **options)
    assert lengths(tmp_path) == [(0, 10), (10, 20)]


def test_stopped_before_the_first_save_it_is_extended_once(images: Path, finished: Path, again: Path) -> None:
    train(images, again, epochs=3, snapshots=0)
    shutil.rmtree(again / "checkpoint")
    shutil.copytree(finished / "checkpoint", again / "checkpoint")
    train(images, again, epochs=3, snapshots=0)  # config.toml has the new length, the checkpoint the old one
    assert lengths(again) == [(0, 20), (20, 30)]
    assert [line["extended"] for line in log_lines(again) if "extended" in line] == [[20, 30]]


def test_a_run_of_an_earlier_version_is_extended(images: Path, again: Path) -> None:
    step, state, _ = checkpoint_io.load(again / "checkpoint")
    assert state is not None
    del state["run"]["lengths"]
    shutil.rmtree(again / "checkpoint")
    checkpoint_io.save(again / "checkpoint", state, step)
    (again / "images.parquet").unlink()
    train(images, again, epochs=3, snapshots=0)
    assert lengths(again) == [(0, 20), (20, 30)]
    assert (again / "images.parquet").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1}, "2 epochs (20 steps), and 1 epochs (10 steps) are fewer"),
        ({"images": 100}, "and 100 images (6 steps) are fewer"),
        ({"batch_size": 8}, "(batch_size: 16 -> 8), on which what it has learned depends: leave out --batch-size"),
        ({"settings": ["groups.counts=30"]}, "(groups.counts: [20] -> [30])"),
        ({"settings": ["views.crops.0.size=20"]}, "(views.crops.0.size: 16 -> 20)"),
        ({"seed": 1, "backbone": "resnet34"}, "leave out --backbone and --seed to resume it"),
    ],
    ids=["epochs", "images", "batch", "set", "crop", "two"],
)
def test_what_cannot_change_is_refused_and_the_advice_works(
    finished: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadRun) as raised:
        train(None, finished, "swav", **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "finished" in train(None, finished, "swav")[-1]


def test_other_images_are_counted_and_the_advice_works(images: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "data", tmp_path / "run"
    shutil.unpack_archive(images, folder, "tar")
    train(folder, out, epochs=1, snapshots=0)
    shutil.move(folder, tmp_path / "moved")
    assert "finished" in train(tmp_path / "moved", out, epochs=1, snapshots=0)[-1]
    config = (out / "config.toml").read_text()
    assert str(tmp_path / "moved") in config
    shutil.copy(tmp_path / "moved" / "0000.png", tmp_path / "moved" / "new.png")
    (tmp_path / "moved" / "0001.png").unlink()
    with pytest.raises(BadRun, match=r"1 added \(such as new\.png\), 1 removed \(such as 0001\.png\)") as raised:
        train(tmp_path / "moved", out, epochs=1, snapshots=0)
    model = str(raised.value).partition("--start-from ")[2].split()[0]
    settings = [*SETTINGS, "run.workers=0", "run.snapshots=0"]
    new = coterie.pretrain(
        "swav", tmp_path / "moved", out=tmp_path / "new", start_from=model, epochs=1, batch_size=16, settings=settings
    )
    assert (new / "model.safetensors").exists()


def test_another_name_of_the_same_folder_is_no_move(images: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "data", tmp_path / "run"
    shutil.unpack_archive(images, folder, "tar")
    train(folder, out, epochs=1, snapshots=0)
    assert not any("are now at" in text for text in train(Path(f"{folder}/*.png"), out, epochs=2, snapshots=0))
    shutil.move(folder, tmp_path / "moved")
    assert any("are now at" in text for text in train(tmp_path / "moved", out, epochs=3, snapshots=0))


def test_a_config_that_its_user_has_edited(images: Path, tmp_path: Path) -> None:
    train(images, tmp_path, epochs=1, snapshots=0)
    config = (tmp_path / "config.toml").read_text()
    lines = re.sub(r"^(mean|std) = \[[^\]]*\]\n", "", config, flags=re.MULTILINE)
    assert lines != config
    (tmp_path / "config.toml").write_text(lines)
    with pytest.raises(BadRun, match=r"other settings \(views\.mean: None -> "):
        train(None, tmp_path, None)
    (tmp_path / "config.toml").write_text('run = "fast"\n' + lines.partition("[run]")[0])
    with pytest.raises(UserError, match=r"^run is 'fast'"):
        train(None, tmp_path, None)


def test_a_run_resumes_from_any_folder(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(images, tmp_path / "patches.tar")
    monkeypatch.chdir(tmp_path)
    train(Path("patches.tar"), Path("run"), epochs=1, snapshots=0)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = tmp_path / "run" / "config.toml"
    train(None, tmp_path / "run", None, config=config, epochs=2)
    assert lengths(tmp_path / "run") == [(0, 10), (10, 20)]
    train(None, Path("again"), None, config=config)
    assert lengths(Path("again")) == [(0, 20)]
