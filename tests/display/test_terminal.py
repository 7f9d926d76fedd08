import coterie.cli.terminal
import pytest
from coterie.cli.terminal import Terminal

LINE = {
    "step": 9,
    "epoch": 0,
    "loss": 3.2,
    "loss_over_ln_k": 0.8,
    "groups_used": 40,
    "groups": 50,
    "spread": 0.9,
    "images_per_second": 120.0,
    "data_wait": 0.05,
}


def test_plain_lines_without_a_terminal(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coterie.cli.terminal, "PLAIN_SECONDS", 0.0)
    terminal = Terminal()
    assert not terminal.live
    terminal.log_metrics(LINE, 100)
    terminal.log_metrics(LINE | {"step": 19}, 100)
    terminal.log_metrics({"step": 99, "epoch": 9, "knn": {"k20_t0.07_top1": 55.123, "k20_t0.07_top5": 90.0}}, 100)
    terminal.log_metrics({"step": 99, "epoch": 9, "label_free": {"lidar": 12.345, "n": 3, "stability": 0.5}}, 100)
    assert list(terminal.progress(range(2), 2, "embedding [red]")) == [0, 1]
    terminal.warning("look out")
    terminal.close()
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("step 10/100  epoch 1  loss 3.200 (0.80 ln K)  groups 40/50  spread 0.90  120 images/s")
    assert "waiting for data 5 %" in lines[0]
    assert lines[1].endswith("left")
    assert lines[2] == "epoch 10: kNN k20_t0.07_top1 55.1 %"
    assert lines[3] == "epoch 10: label-free lidar 12.3, stability 0.5"
    assert lines[4] == "embedding [red]: 1/2"
    assert lines[-1] == "warning: look out"


def test_quiet_between_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    for step in range(1, 50):
        terminal.log_metrics(LINE | {"step": step}, 51)
    assert len(capfd.readouterr().err.splitlines()) == 1
    terminal.log_metrics(LINE | {"step": 50}, 51)  # the last one is always shown
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_bar_at_a_terminal(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    terminal = Terminal()
    assert terminal.live
    terminal.log_metrics(LINE, 20)
    assert list(terminal.progress(range(3), 3, "embedding")) == [0, 1, 2]
    terminal.log_metrics(LINE | {"step": 19}, 20)
    terminal.close()
    assert "loss 3.200" in capfd.readouterr().err
