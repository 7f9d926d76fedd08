"""Functions of the API show what they do, and leave the caller's process as it was."""

import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import coterie
from coterie.display.terminal import Terminal
from coterie.errors import CoterieWarning, UserError
from coterie.logger import CheckedLogger, Logger, NullLogger, StepLogger
from coterie.session import WarningLogger, restoring_global_state, session
from coterie.types import Progress
from tests.display.images import small_images

SETTINGS = {"backbone.width": 0.25, "groups.counts": 4, "run.snapshots": 0, "run.workers": 0, "run.log_steps": 2}


class Messages:
    """A logger of the caller's, which does not care for steps."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.warnings: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.shown: list[str] = []

    def info(self, text: str) -> None:
        self.texts.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        self.records.append(record)

    def progress(self, items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        self.shown.append(what)
        yield from items


class Steps(Messages):
    """One that does."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[int, float | None]] = []

    def log_step(self, progress: Progress, seconds: float | None) -> None:
        self.steps.append((progress.step, seconds))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = small_images(tmp_path_factory.mktemp("images"), 24)
    (folder / "a" / "broken.png").write_bytes(b"nothing")
    return folder


def pretrain(images: Path, out: Path, **more: Any) -> Path:
    given: dict[str, Any] = {"epochs": 2, "batch_size": 8, "settings": SETTINGS}
    return coterie.pretrain("swav", images, out=out, **given | more)


SCRIPT = """
import random, sys
import numpy as np
import torch
import coterie
from safetensors.torch import load_file

def everything():
    numbers = [each.tolist() if hasattr(each, "tolist") else each for each in np.random.get_state()]
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    return random.getstate(), numbers, torch.random.get_rng_state().tolist(), threads, torch.backends.cudnn.benchmark, dtype

def unchanged(name, work):
    before = everything()
    work()
    assert everything() == before, name

images, out, settings = sys.argv[1], sys.argv[2], {settings} | {{"run.threads": 1}}
more, weights = {{"batch_size": 8, "settings": settings, "quiet": True}}, []
for seed in "12":
    random.seed(seed), np.random.seed(int(seed)), torch.manual_seed(int(seed)), torch.set_num_threads(2)
    unchanged("pretrain", lambda: coterie.pretrain("swav", images, out=out + seed, epochs=2, **more))
    weights.append(load_file(out + seed + "/model.safetensors"))  # the order of the file's metadata is not fixed
assert all(torch.equal(each, weights[1][name]) for name, each in weights[0].items()), "the caller's seed matters"
run, test = out + seed, {{"workers": 0, "quiet": True}}
unchanged("evaluate", lambda: coterie.evaluate(run, images, probes=("knn", "linear", "clusters"), **test))
unchanged("transfer", lambda: coterie.transfer(run, {{"same": images}}, probes=("knn",), **test))
unchanged("embed", lambda: coterie.embed(run, images, out + ".parquet", **test))
unchanged("export", lambda: coterie.export(run, format="safetensors", out=out + "-export", quiet=True))
unchanged("report", lambda: coterie.report(run, quiet=True))
unchanged("profile", lambda: coterie.profile("swav", images, seconds=0.1, **more))
"""


def test_the_callers_state_is_left_as_it_was_and_does_not_matter(images: Path, tmp_path: Path) -> None:
    """In a process of its own: what checks the types in tests draws from Python's generator."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(settings=SETTINGS))
    command = [sys.executable, str(script), str(images), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    first, second, *_ = done.stderr.splitlines()  # only the warnings, and the line of the script that each is about
    number = 1 + [line.startswith("    unchanged") for line in script.read_text().splitlines()].index(True)
    assert first.startswith(f"{script}:{number}: CoterieWarning: 1 images could not be decoded")
    assert second.startswith('  unchanged("pretrain"')


def everything() -> list[Any]:
    """The global state that work could change."""
    numbers = [each.tolist() if isinstance(each, np.ndarray) else each for each in np.random.get_state()]  # noqa: NPY002
    state = torch.random.get_rng_state().tolist()
    return [random.getstate(), numbers, state, torch.get_num_threads(), torch.backends.cudnn.benchmark]


def test_state_is_restored_after_an_error_too() -> None:
    before = everything()

    def fail() -> None:
        with restoring_global_state():
            random.random()
            np.random.rand()  # noqa: NPY002
            torch.rand(())
            torch.set_num_threads(3)
            torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert everything() == before


def test_a_script_shows_what_the_command_shows(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(CoterieWarning, match="could not be decoded") as caught:
        pretrain(images, tmp_path / "run")
    out, err = capfd.readouterr()
    assert out == ""
    assert "25 images" in err
    assert "step 1/6  epoch 1/2" in err
    assert " left  step 2/6  epoch 1/2" in err
    assert "step 6/6  epoch 2/2  in 0:0" in err
    assert "could not be decoded" not in err  # once, and by way of warnings
    assert len(caught) == 1


def test_quiet_is_silent_and_still_warns(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(CoterieWarning, match="could not be decoded"):
        pretrain(images, tmp_path / "run", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_a_logger_of_the_callers_receives_everything(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for logger in (Messages(), Steps()):
        with pytest.warns(CoterieWarning, match="could not be decoded"):
            pretrain(images, tmp_path / type(logger).__name__, logger=logger)
        assert [record["step"] for record in logger.records] == [1, 3, 5]
        assert len(logger.warnings) == 1
        assert "measuring the images" in logger.shown
        assert any("25 images" in text for text in logger.texts)
        if isinstance(logger, Steps):
            assert logger.steps[0] == (0, None)
            assert [step for step, _ in logger.steps[1:]] == list(range(6))
            assert all(seconds is not None and seconds > 0 for _, seconds in logger.steps[1:])
    assert capfd.readouterr() == ("", "")


def test_a_refresh_and_the_memory_are_shown(images: Path, tmp_path: Path) -> None:
    logger = Messages()
    given: dict[str, Any] = {"epochs": 2, "batch_size": 8, "settings": SETTINGS}
    coterie.pretrain("deepcluster_v2", images, out=tmp_path / "run", logger=logger, **given)
    assert logger.shown.count("filling the memory") == 1
    assert logger.shown.count("finding groups and labels") == 2  # once per epoch


def in_a_thread(work: Callable[[], object]) -> list[BaseException]:
    """What another thread of this process raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


def test_a_second_thread_is_refused(images: Path, tmp_path: Path) -> None:
    raised: list[BaseException] = []

    class Another(coterie.Callback):
        def on_epoch_end(self, progress: Progress) -> None:
            raised.extend(in_a_thread(lambda: pretrain(images, tmp_path / "other", quiet=True)))

    run = pretrain(images, tmp_path / "run", quiet=True, callbacks=[Another()])
    assert [type(error) for error in raised] == [UserError, UserError]
    assert "another thread of this process" in str(raised[0])
    assert "\n" not in str(raised[0])
    assert not (tmp_path / "other").exists()
    assert run.exists()
    assert in_a_thread(lambda: pretrain(images, tmp_path / "other", quiet=True)) == []  # one after the other


def test_a_callback_may_use_the_api(images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Embedding(coterie.Callback):
        def on_end(self, student: Any) -> None:
            coterie.embed(tmp_path / "run", images, tmp_path / "found.parquet", workers=0)

    logger = Messages()
    pretrain(images, tmp_path / "run", logger=logger, callbacks=[Embedding()])
    assert (tmp_path / "found.parquet").exists()
    assert any("embedding" in what for what in logger.shown)  # by way of the run's logger
    assert capfd.readouterr() == ("", "")


def test_who_receives_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Messages()
    with session(own, quiet=True) as logger:
        logger.info("hello")
        with session(None, quiet=False) as inner:
            assert inner is logger
    assert own.texts == ["hello"]
    with session(None, quiet=False) as logger:
        assert isinstance(logger, WarningLogger)
        assert isinstance(logger.logger, Terminal)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with session(None, quiet=False) as logger:  # only the first process shows anything by itself
        assert isinstance(logger, NullLogger)
    with session(own, quiet=False) as logger:  # a caller who gives a logger decides
        logger.info("of the second process")
    assert own.texts[-1] == "of the second process"


def test_wrappers_pass_steps_on_to_who_wants_them() -> None:
    def wrapped(logger: Logger) -> list[Logger]:
        return [WarningLogger(logger), CheckedLogger(logger, lambda: None)]

    steps = Steps()
    for logger in wrapped(steps):
        assert isinstance(logger, StepLogger)
        logger.log_step(Progress(3, 4, 5), 0.5)
    assert steps.steps == [(3, 0.5)] * 2
    assert not any(isinstance(logger, StepLogger) for logger in wrapped(Messages()))


def test_the_command_prints_its_warnings_itself(
    images: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from coterie.cli.main import main

    words = f"coterie pretrain swav {images} --out {tmp_path / 'run'} --epochs 1 --batch-size 8"
    more = [f"--set={path}={value}" for path, value in SETTINGS.items()]
    monkeypatch.setattr(sys, "argv", [*words.split(), *more])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        main()
    assert [each for each in caught if issubclass(each.category, CoterieWarning)] == []
    err = capfd.readouterr().err
    assert err.count("could not be decoded") == 1
    assert "\nwarning: 1 images could not be decoded" in err
