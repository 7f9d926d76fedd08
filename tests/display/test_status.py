"""Columns are dropped by width, the least important first, and nothing ever wraps."""

import pytest
from rich.cells import cell_len

from coterie.display.screens import wrapped
from coterie.display.status import StepStatus, WorkStatus, bar, fit
from coterie.types import Progress

LINE = {
    "step": 9,
    "epoch": 0,
    "loss": 3.2,
    "loss_over_ln_k": 0.8,
    "groups_used": 298,
    "groups": 300,
    "spread": 0.9,
    "images_per_second": 1120.0,
    "data_wait": 0.05,
}


def status() -> StepStatus:
    shown = StepStatus(Progress(119, 100, 40_000), begins=True)
    shown.step(Progress(120, 100, 40_000), 9.0)
    shown.step(Progress(121, 100, 40_000), 0.2)
    shown.metrics = LINE
    return shown


def test_wide_lines_say_more() -> None:
    lines = {width: fit(status().columns(), width) for width in (60, 80, 120)}
    for width, line in lines.items():
        assert line.startswith("2:12:56 left  step 122/40000  epoch 2/400  loss 3.200"), line
        assert len(line) <= width
    assert "groups 298/300" not in lines[60]
    assert "groups 298/300" in lines[80]
    assert lines[120].endswith("1120 images/s  spread 0.90")
    assert fit(status().columns(), 200).endswith("waiting for data 5 %")
    regularized = status()
    regularized.metrics = LINE | {"regularization": 0.456}
    assert "groups 298/300  regularizer 0.46  1120 images/s" in fit(regularized.columns(), 200)


@pytest.mark.parametrize("width", [0, 1, 5, 12, 20, 40])
def test_narrow_lines_are_cut(width: int) -> None:
    assert cell_len(fit(status().columns(), width)) <= width
    assert cell_len(fit(["日本語の長い名前", "x"], width)) <= width


def test_without_a_line_of_the_log_there_is_no_loss() -> None:
    shown = StepStatus(Progress(0, 100, 200), begins=True)
    assert shown.columns() == ["step 0/200", "epoch 1/2"]
    shown.step(Progress(0, 100, 200), 1.0)
    assert shown.columns() == ["step 1/200", "epoch 1/2"]
    shown.step(Progress(1, 100, 200), 1.0)
    assert shown.columns() == ["0:03:18 left", "step 2/200", "epoch 1/2"]


def test_other_work_says_what_it_is() -> None:
    work = WorkStatus("filling the memory", 10)
    assert work.columns() == ["filling the memory: 0/10"]
    for _ in range(2):
        work.step()
    assert work.columns() == ["0:00:00 left", "filling the memory: 2/10"]


def test_the_bar_fills_what_room_there_is() -> None:
    assert bar(5, 10, 9) == ("", "")
    assert bar(5, 10, 10) == ("━" * 5, "┈" * 5)
    assert bar(10, 10, 100, ascii_only=True) == ("#" * 30, "")
    assert bar(12, 10, 10) == ("━" * 10, "")


def test_messages_are_broken_between_words() -> None:
    text = "  groups.counts [100]: one per hundred images, at most 3000, in well-known papers"
    lines = wrapped(text, 30)
    assert [line.strip() for line in lines] == [
        "groups.counts [100]: one per",
        "hundred images, at most",
        "3000, in well-known papers",
    ]
    assert all(len(line) <= 30 for line in lines)
    assert lines[1].startswith("    hundred")
    assert wrapped("/a/path/without/any/space/that/is/long", 10) == ["/a/path/without/any/space/that/is/long"]
    assert wrapped("", 10) == [""]
