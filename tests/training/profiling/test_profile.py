"""Profiles charge time to the part that was made slow on purpose, and advise accordingly."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import coterie
from coterie.data.loading.loader import Loader
from coterie.data.sources.source import ImageSource
from coterie.errors import UserError
from coterie.grouping import objective
from coterie.grouping.teacher import MomentumTeacher
from coterie.logger import NullLogger
from coterie.methods.resolve import resolve_run
from coterie.models.encoder import Encoder
from coterie.training.monitor import Monitor
from coterie.training.profiling import advice
from coterie.training.profiling.advice import Profile
from coterie.training.profiling.loader_stages import COLOR, CROP, DECODE, READ, STACK, STAGES, measure_stages
from coterie.training.profiling.profile import profile_run
from coterie.training.student import Student
from tests.training.profiling.conftest import TINY


class Ticks(NullLogger):
    """Counts the ticks."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def progress(self, items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        for item in items:
            self.counts[what] = self.counts.get(what, 0) + 1
            assert self.counts[what] <= total
            yield item


TEACHER = ("groups.counts=[8,8,8]", "target.kind=teacher", "target.moves=before")


def profiled(images: Path, method: str = "swav", *more: str, seconds: float = 0.5) -> Profile:
    settings = (*TINY, *(() if method == "simclr" else ("groups.counts=[8]",)), *more)
    return coterie.profile(method, images, epochs=2, batch_size=16, settings=settings, seconds=seconds)


@pytest.mark.parametrize("method", ["swav", "smog", "simclr"])
def test_parts_make_up_the_step(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.chdir(tmp_path)
    ticks, counts = Ticks(), {"swav": ("groups.counts=[8]",), "smog": TEACHER}
    torch.set_num_threads(2)
    settings = (*TINY, *counts.get(method, ()))
    result = coterie.profile(method, images, epochs=2, batch_size=16, settings=settings, seconds=0.5, logger=ticks)
    assert torch.get_num_threads() == 2
    assert ticks.counts == {"measuring the images": 80, "profiling": 20}
    assert not list(tmp_path.iterdir())
    assert result.steps > 0
    assert sum(result.parts.values()) == pytest.approx(result.step, rel=0.05)
    smog = method == "smog"
    assert set(result.parts) == set(advice.PARTS)
    assert all(seconds > 0 or part == advice.TEACHER for part, seconds in result.parts.items())
    assert (result.parts[advice.TEACHER] > 0, result.filling > 0, result.refresh > 0, result.refreshing > 0) == (
        smog,
    ) * 4
    assert all(result.stages[stage] > 0 for stage in STAGES)
    assert (result.workers, result.steps_per_epoch, result.device, result.preparing) == (1, 5, "cpu", 0)
    assert result.main_memory > 100 * 2**20 > result.worker_memory > 0
    assert 1 <= len(result.advice) <= 3
    text = str(result)
    assert ("forward, teacher" in text) is smog
    assert ("filling  the memory" in text) is smog
    assert ("refresh  " in text) is smog
    assert "without timing parts" not in text  # nothing overlaps on a CPU
    assert result.summary in text


SLEPT = 0.2


def slowly(function: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*values: Any, **named: Any) -> Any:
        time.sleep(SLEPT)
        return function(*values, **named)

    return slow


@pytest.mark.parametrize(
    ("owner", "name", "part"),
    [
        (Loader, "finish_batch", advice.COPY),
        (Student, "forward", advice.STUDENT),
        (objective, "prediction_loss", advice.GROUPING),
        (torch.Tensor, "backward", advice.BACKWARD),
        (torch.nn.utils, "get_total_norm", advice.OPTIMIZER),
        (torch.optim.Optimizer, "zero_grad", advice.OPTIMIZER),
        (objective.Objective, "after_step", advice.BOOKKEEPING),
        (Monitor, "on_step_end", advice.BOOKKEEPING),
    ],
)
def test_what_is_slow_is_charged_to_its_part(
    images: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, part: str
) -> None:
    monkeypatch.setattr(owner, name, slowly(getattr(owner, name)))
    result = profiled(images)
    assert result.parts[part] >= SLEPT
    assert result.shares[part] == max(result.shares.values())
    if part not in advice.NETWORK:
        assert result.advice[0].startswith(advice.LABELS[part])


@pytest.mark.parametrize(("owner", "name"), [(MomentumTeacher, "_move"), (Encoder, "forward")])
def test_a_slow_teacher_is_not_grouping(images: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    monkeypatch.setattr(owner, name, slowly(getattr(owner, name)))
    result = profiled(images, "smog", *TEACHER)
    assert result.parts[advice.TEACHER] >= SLEPT > result.parts[advice.GROUPING]
    assert (result.parts[advice.STUDENT] >= SLEPT) is (owner is Encoder)


class SlowSource:
    """A disk that takes its time."""

    def __init__(self, source: ImageSource) -> None:
        self.source, self.classes = source, source.classes

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        time.sleep(0.02)
        return self.source[index]

    def name(self, index: int) -> str:
        return self.source.name(index)

    def label(self, index: int) -> int | None:
        return self.source.label(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_slow_disk_makes_the_network_wait(images: Path, workers: int) -> None:
    settings = [*TINY, "groups.counts=[8]", f"run.workers={workers}"]
    resolved = resolve_run("swav", images, {"epochs": 2, "batch_size": 16, "settings": settings})
    result = profile_run(resolved.config, SlowSource(resolved.source), 1.0, NullLogger())
    assert result.stages[READ] >= 0.02
    assert result.shares[advice.WAITING] == max(result.shares.values())
    assert result.enough_workers > 1
    assert result.advice[0].startswith("training waits for images ")
    text = str(replace(result, cores=64))
    assert f"use --set run.workers={result.enough_workers} (now {workers}); or use a faster disk, or pack" in text
    assert "stage of loading an image: read, " in text


def test_the_device_engine_leaves_no_colors_to_the_workers(images: Path, tmp_path: Path) -> None:
    result = profiled(images, "swav", "views.engine=gpu")
    assert result.preparing > 0  # images of one size are kept on the device, and workers send numbers
    assert result.stages[STACK] == result.image > 0
    assert "images   are kept on the device" in str(result)
    for number in range(20):
        Image.new("RGB", (20 + number, 24), (number, 90, 200)).save(tmp_path / f"{number}.jpg")
    result = profiled(tmp_path, "swav", "views.engine=gpu")
    assert result.preparing == result.stages[COLOR] == 0
    assert all(result.stages[stage] > 0 for stage in (READ, DECODE, CROP, STACK))
    assert result.jpeg
    assert "color, blur" not in str(result)


def test_stages_are_those_of_images_that_can_be_decoded(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("RGB", (24, 24), (number, 90, 200)).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    resolved = resolve_run("swav", tmp_path, {"batch_size": 4, "settings": ["groups.counts=[2]"]})
    result = measure_stages(Loader(resolved.source, resolved.config.views, batch_size=4, epochs=1, seed=0))
    assert (result.images, result.jpegs) == (6, 0)
    assert result.per_image()[DECODE] == result.seconds[DECODE] / 6


@pytest.fixture(scope="module")
def usual(images: Path) -> Profile:
    result = profiled(images)
    even = dict.fromkeys(advice.PARTS, 0.0) | {advice.STUDENT: 0.3, advice.BACKWARD: 0.7}
    stages = dict(zip(STAGES, (0.0, 0.002, 0.001, 0.005, 0.001), strict=True))
    return replace(result, parts=even, stages=stages, step=1.0, jpeg=False, cores=8, refresh=0.0)


def test_advice_that_follows_from_the_figures(usual: Profile, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual.advice[0].startswith("none: the network computes 100 % of the time")
    assert "CUDA" in usual.advice[0]
    assert "CUDA" not in replace(usual, device="cuda").advice[0]

    starved = replace(usual, parts={**usual.parts, advice.STUDENT: 0.01, advice.BACKWARD: 0.03, advice.WAITING: 0.04})
    assert starved.enough_workers == 4  # 16 images of 9 ms each, in 40 ms
    assert starved.advice == ("training waits for images 50 % of the time: use --set run.workers=4 (now 1)",)
    gpu = replace(starved, device="cuda")
    assert gpu.advice[0].endswith("run.workers=4 (now 1); or use --set views.engine=gpu")
    few = replace(starved, cores=2)
    assert few.advice[0].endswith("use more cores: 4 workers would keep up, but there are 2 cores")
    enough = replace(starved, workers=4)
    assert enough.advice[0].endswith("4 workers would keep up with a core each, so let nothing else use the cores")
    decoding = replace(few, stages={**few.stages, COLOR: 0.0, DECODE: 0.008}, jpeg=True)
    monkeypatch.setattr(advice, "find_spec", lambda name: None)
    assert "pip install 'coterie[fast]'" in decoding.advice[0]
    monkeypatch.setattr(advice, "find_spec", lambda name: object())
    assert "coterie[fast]" not in decoding.advice[0]
    assert decoding.advice[0].endswith("there are 2 cores; or use smaller copies of the images")

    device = replace(usual.config, views=replace(usual.config.views, engine="gpu"))
    colored = replace(usual, config=device, parts={**usual.parts, advice.COPY: 0.5})
    assert colored.advice == ("copying, coloring takes 33 % of a step: use --set views.engine=cpu, as there is no GPU",)
    assert "views.crops" in replace(colored, device="cuda").advice[0]

    all_bad = replace(starved, parts=dict.fromkeys(advice.PARTS, 0.01))
    assert len(all_bad.advice) == 3
    assert all_bad.advice[0].startswith("training waits for images 12 %")


def test_advice_on_refreshes(images: Path) -> None:
    result = profiled(images, "smog", "groups.counts=[8,8,8]", "refresh.every_epochs=1")
    slow = replace(result, refresh=5 * result.step)
    assert slow.refreshing == pytest.approx(0.5)
    assert any("refreshes take 50 % of the time: use a larger refresh.every_epochs" in line for line in slow.advice)


def test_a_profile_is_shown(images: Path, call) -> None:
    words = [part for setting in (*TINY, "groups.counts=[8]") for part in ("--set", setting)]
    status, out, err = call("profile", "swav", images, *words, "--batch-size", "16", "--seconds", "0.5")
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].split() == "a step of 16 images ms share".split()
    assert lines[1].startswith("  waiting for data ")
    assert lines[1].endswith(" %")
    empty = lines.index("")
    assert lines[empty - 1].startswith("  total ")
    assert lines[empty + 1].split() == "an image in a worker ms share".split()
    assert any(line.startswith("swav: 80 images, resnet18, crops 2x16 + 1x8, 8 groups") for line in lines)
    kinds = list(
        dict.fromkeys(line.split()[0] for line in lines[-7:] if line.strip())
    )  # of advice there are one to three lines
    assert kinds[-5:] == ["speed", "memory", "slowest", "advice", "from"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--seconds", "0"], "--seconds is 0"),
        (["--seconds", "nan"], "--seconds is nan"),
        (["--seconds", "soon"], "--seconds"),
        (["--batch-size", "100"], "use --batch-size 80 or less"),
        (["--set", "groups.counts=[100]", "--batch-size", "16"], "use --set groups.counts="),
        (["--set", "run.workers=-2", "--batch-size", "16"], "workers is -2"),
        (["--set", "run.device=tpu", "--batch-size", "16"], "run.device"),
        (["--backbone", "resnet51", "--batch-size", "16"], "resnet50"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_profiles_that_must_fail(images: Path, call, words: list[str], expected: str) -> None:
    status, out, err = call("profile", "swav", images, *words)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert expected in err


def test_images_that_cannot_be_loaded(images: Path, tmp_path: Path, call, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    for data, expected in ((tmp_path / "folder", "no image"), (tmp_path / "nowhere", "no such file")):
        status, out, err = call("profile", "swav", data)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert expected in err

    def full(*values: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(objective, "prediction_loss", full)
    with pytest.raises(UserError, match=r"not enough memory for .*: use --set micro_batches=2, --batch-size"):
        profiled(images)


def test_its_help_does_not_wait_for_torch() -> None:
    code = "import sys, coterie.cli.main\nsys.argv = ['coterie', 'profile', '--help']\ntry: coterie.cli.main.main()\n"
    code += "except SystemExit: pass\nsys.exit(','.join({'torch', 'numpy'} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--seconds" in done.stdout


@pytest.mark.gpu
def test_a_profile_on_a_gpu(images: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    result = profiled(images, "smog", "groups.counts=[8,8,8]", seconds=2.0)
    assert result.device == "cuda"
    assert result.device_memory > 0
    assert result.step > 0
    assert all(seconds > 0 for seconds in result.parts.values())
    assert "  without timing parts" in str(result)
