"""What a person sees of a logger: at terminals of several widths, and in a pipe."""

import sys
from pathlib import Path

import pytest

from coterie.display import screens
from coterie.display.terminal import Terminal
from coterie.types import Progress
from tests.display.emulator import run_in_terminal
from tests.display.images import small_images
from tests.display.test_status import LINE

STEPS = """
import sys, time
from coterie.display.terminal import Terminal
from coterie.types import Progress
LINE = {line}
terminal = Terminal()
terminal.info("swav: 6,000 images, resnet18, crops 2x24 + 2x16, 60 groups, batch 128, 16 epochs of 46 steps on cpu")
for item in terminal.progress(range(3), 3, "filling the memory"):
    time.sleep(0.25)
terminal.log_step(Progress(0, 10, 20), None)
for step in range(20):
    time.sleep(0.05)
    terminal.log_step(Progress(step, 10, 20), 0.05)
    if step == 4:
        print("a callback prints", file=sys.stderr)
        for item in terminal.progress(range(3), 3, "finding groups and labels"):
            time.sleep(0.25)
    if step == 9:
        terminal.warning("look out")
    if step in (9, 19):
        terminal.log_metrics(LINE | {{"step": step}}, 20)
terminal.log_metrics({{"step": 19, "epoch": 1, "knn": {{"k20_t0.07_top1": 55.123}}}}, 20)
terminal.close()
"""


@pytest.mark.parametrize("width", [60, 120])
def test_one_line_changes_in_place(width: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", STEPS.format(line=LINE)]
    status, screen = run_in_terminal(command, width, stdout=tmp_path / "out")
    seen = screen.history
    assert status == 0
    assert screen.wrapped == []
    assert screen.cursor_shown
    lines = [line for line in screen.text() if line]
    assert " ".join(line.strip() for line in lines).startswith(
        "swav: 6,000 images, resnet18, crops 2x24 + 2x16, 60 groups"
    )
    assert [line for line in lines if "step" in line and "swav" not in line and "on cpu" not in line] == [
        line for line in lines if line.startswith("step 20/20  epoch 2/2  in 0:00:0")
    ]
    assert "a callback prints" in lines
    assert "warning: look out" in lines
    assert lines[-1] == "epoch 2: kNN k20_t0.07_top1 55.1 %"
    assert any(line.startswith("filling the memory: 0/3") for line in seen)
    assert any(" left  finding groups and labels: 2/3" in line for line in seen)
    assert any(line.startswith("step 0/20  epoch 1/2") for line in seen)
    later = [line for line in seen if line.startswith("0:00:0") and "step" in line]
    assert later
    assert all("left  step" in line for line in later)
    assert not any("-:--" in line for line in seen)
    assert (tmp_path / "out").read_text() == ""


def test_plain_lines_in_a_pipe(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    terminal = Terminal()
    assert isinstance(terminal.screen, screens.PlainScreen)
    terminal.log_step(Progress(0, 10, 100), None)
    for step in range(100):
        terminal.log_step(Progress(step, 10, 100), 1.0)
        if step % 10 == 9:
            terminal.log_metrics(LINE | {"step": step, "epoch": step // 10}, 100)
    terminal.log_metrics({"step": 99, "epoch": 9, "knn": {"k20_t0.07_top1": 55.123, "k20_t0.07_top5": 90.0}}, 100)
    terminal.log_metrics({"step": 99, "epoch": 9, "label_free": {"lidar": 12.345, "n": 3, "stability": 0.5}}, 100)
    assert list(terminal.progress(range(2), 2, "quick work")) == [0, 1]
    terminal.warning("look out [red]")
    terminal.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step 1/100  epoch 1/10",
        "0:01:38 left  step 2/100  epoch 1/10",
        "step 100/100  epoch 10/10  in 0:00:00  loss 3.200  0.80 ln K  groups 298/300  1120 images/s  spread 0.90  "
        "waiting for data 5 %",
        "epoch 10: kNN k20_t0.07_top1 55.1 %",
        "epoch 10: label-free lidar 12.3, stability 0.5",
        "warning: look out [red]",
    ]


def test_now_and_then_a_line_in_a_pipe(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screens.PlainScreen, "seconds", 0.0)
    monkeypatch.setattr(screens.PlainScreen, "first_seconds", 0.0)
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal()
    for step in range(3):
        terminal.log_step(Progress(step, 10, 100), 60.0)
        terminal.log_metrics(LINE | {"step": step}, 100)
    assert list(terminal.progress(range(2), 2, "finding labels")) == [0, 1]
    terminal.close()  # the run was stopped
    assert capfd.readouterr().err.splitlines() == [
        "step 1/100  epoch 1/10",
        "1:38:00 left  step 2/100  epoch 1/10  loss 3.200  0.80 ln K",
        "1:37:00 left  step 3/100  epoch 1/10  loss 3.200  0.80 ln K",
        "finding labels: 0/2",
        "finding labels: 1/2",
        "0:00:00 left  finding labels: 2/2",
        "step 3/100  epoch 1/10  in 0:00:00  loss 3.200  0.80 ln K",
    ]


def test_a_caller_that_logs_no_steps(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    for step in range(10, 50):
        terminal.log_metrics(LINE | {"step": step}, 50)
    lines = capfd.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 11/50", "step 50/50"]


def test_a_killed_process_leaves_the_cursor(tmp_path: Path) -> None:
    killed = STEPS.format(line=LINE).replace(
        "if step == 4:", "if step == 4:\n        import os; os.kill(os.getpid(), 9)"
    )
    status, screen = run_in_terminal([sys.executable, "-c", killed], 80, stdout=tmp_path / "out")
    assert status == -9
    assert screen.cursor_shown


@pytest.mark.parametrize("method", ["swav", "deepcluster_v2"])
def test_the_command_at_a_narrow_terminal(method: str, tmp_path: Path) -> None:
    """The first line of its log comes after the last step, and the bar with the first."""
    small_images(tmp_path / "images", 24)
    words = f"pretrain {method} images --out run --epochs 2 --batch-size 8 --set run.log_steps=1000 --set run.workers=0"
    settings = ("backbone.width=0.25", "groups.counts=4", "run.snapshots=0")
    command = [
        sys.executable,
        "-c",
        f"import os; os.chdir({str(tmp_path)!r})\nfrom coterie.cli.main import main; main()",
    ]
    more = [part for setting in settings for part in ("--set", setting)]
    status, screen = run_in_terminal([*command, *words.split(), *more], 60, stdout=tmp_path / "out")
    seen = screen.history
    assert status == 0, screen.text()
    assert screen.wrapped == []
    assert any(line.startswith("step 1/6  epoch 1/2  ") for line in seen)
    assert any(" left  step 2/6  epoch 1/2  " in line for line in seen)
    if method == "deepcluster_v2":
        assert any("filling the memory: " in line for line in seen)
    assert any(line.startswith("step 6/6  epoch 2/2  in 0:00:") for line in screen.text())
