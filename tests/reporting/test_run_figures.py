"""What a comparison reads of one run: its folder, complete and damaged, and the figures taken from it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from coterie.errors import BadRun
from coterie.reporting import run_figures

CONFIG = 'method = "swav"\ndata = ["images"]\nepochs = 2\nbatch_size = 50\n[backbone]\nname = "resnet18"\n'


def a_log(steps: int = 40, knn: float = 50.0, speed: float = 100.0, loss: float = 0.9) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = [
        {"step": step, "epoch": step // 20, "loss": 3.0, "loss_over_ln_k": loss, "groups_used": 55, "groups": 60,
         "spread": 0.8, "lr": 0.1, "images_per_second": speed, "data_wait": 0.25}
        for step in range(9, steps, 10)
    ]  # fmt: skip
    log.append({"step": steps - 1, "epoch": 1, "knn": {"k1_t0.07_top1": knn - 5, "k20_t0.07_top1": knn}})
    log.append({"step": steps - 1, "epoch": 1, "label_free": {"rankme": knn + 1, "stability": 0.5}})
    return log


def a_run(
    name: str = "one", *, steps: int | None = 40, settings: dict[str, Any] | None = None, **changes: Any
) -> run_figures.RunRecord:
    complete = {
        "method": "swav", "data": ["images"], "epochs": 2, "batch_size": 50, "backbone": {"name": "resnet18", "width": 1.0},
        "run": {"workers": 1}, "groups": {"kind": "learned", "counts": [60]},
    } | (settings or {})  # fmt: skip
    given = {"evaluation": {}, "images": 1000, "parameters": 11_000_000, "steps": steps} | changes
    return run_figures.RunRecord(name, complete, given.pop("log", a_log(steps or 40)), **given)


def a_folder(path: Path, steps: int | None = 40) -> Path:
    """A run's folder with a log, weights and, unless ``steps`` is None, a checkpoint."""
    (path / "checkpoint").mkdir(parents=True)
    (path / "config.toml").write_text(CONFIG)
    (path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": step, "epoch": 0, "loss_over_ln_k": 0.9}) + "\n" for step in (9, 19))
    )
    (path / "run.json").write_text('{"images": 1000}')
    weights = {"conv.weight": torch.zeros(4, 3, 3, 3), "bn.weight": torch.zeros(4), "bn.running_mean": torch.zeros(4)}
    safetensors.torch.save_file(weights, path / "model.safetensors")
    if steps is not None:
        (path / "checkpoint" / f"step-{steps:09d}-{'0' * 16}.pt").touch()
    return path


def cells(figures: run_figures.NamedFigures, run: run_figures.RunRecord) -> dict[str, run_figures.Cell]:
    return {name: figure(run) for name, figure in figures}


def test_a_complete_folder_is_read(tmp_path: Path) -> None:
    run = run_figures.read_run_record(a_folder(tmp_path / "run"), "a name")
    assert (run.name, run.images, run.parameters, run.steps, run.remarks) == ("a name", 1000, 112, 40, ())
    assert run.settings["method"] == "swav"
    assert [line["step"] for line in run.log] == [9, 19]
    assert (run.evaluation, run.batch_size) == ({}, 50)


def test_what_is_missing_or_damaged_is_left_out(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "run", steps=None)
    (folder / "model.safetensors").write_bytes(b"no weights")
    (folder / "run.json").write_text('{"images": "many"}')
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 29, "ep\n{"step": 39, "epoch": 1, "loss_over_ln_k": 0.5}\n')
    run = run_figures.read_run_record(folder, "run")
    assert (run.images, run.parameters, run.steps) == (None, None, None)
    assert len(run.remarks) == 1
    (folder / "model.safetensors").unlink()
    assert run_figures.read_run_record(folder, "run").parameters is None
    with pytest.raises(BadRun, match=r"nothing does not exist"):
        run_figures.read_run_record(tmp_path / "nothing", "nothing")


def test_time_and_speed_come_from_the_log() -> None:
    slow = a_run(log=a_log(speed=25.0))
    assert run_figures.training_seconds(slow) == pytest.approx(40 * 50 / 25)
    assert cells(run_figures.COST, slow) == {
        "time of the steps": "80 s",
        "images per second": pytest.approx(25),
        "waiting for data, %": 25,
    }
    assert run_figures.training_seconds(a_run(log=[])) is None
    assert set(cells(run_figures.COST, a_run(log=[])).values()) == {None}


def test_the_figures_of_a_run() -> None:
    run = a_run(settings={"backbone": {"name": "resnet18", "width": 0.5}})
    assert cells(run_figures.THE_RUN, run) == {
        "method": "swav", "backbone": "resnet18 x 0.5", "parameters, million": 11.0, "images": 1000, "epochs": 2,
    }  # fmt: skip
    assert cells(run_figures.LEARNING, run) == {
        "loss / ln K": 0.9,
        "regularizer, part of the loss": None,
        "regularizer, % of the gradient": None,
        "groups used": "55 of 60",
        "spread": 0.8,
        "warnings": 0,
    }
    regularized = a_run(log=[{**line, "regularization": 0.4, "regularizer_gradient": 0.14} for line in a_log()])
    assert cells(run_figures.LEARNING, regularized)["regularizer, part of the loss"] == 0.4
    assert cells(run_figures.LEARNING, regularized)["regularizer, % of the gradient"] == pytest.approx(14)
    warned = a_run(log=[*a_log(), {"step": 40, "warning": "collapsed"}])
    assert cells(run_figures.LEARNING, warned)["warnings"] == 1


@pytest.mark.parametrize(
    ("changes", "remark", "epochs"),
    [
        ({}, None, 2),
        ({"steps": 20}, "one is unfinished: 20 of 40 steps are saved", "1 of 2"),
        ({"steps": None}, "one has no checkpoint yet: its latest figures are those of its log", "2 of 2"),
        ({"steps": None, "log": []}, "one has no checkpoint yet: its latest figures are those of its log", None),
        ({"steps": 20, "images": None}, None, 2),  # nobody knows how many steps it takes
    ],
)
def test_an_unfinished_run_says_how_far_it_is(
    changes: dict[str, Any], remark: str | None, epochs: run_figures.Cell
) -> None:
    run = a_run(**changes)
    assert run_figures.unfinished_remarks(run) == (() if remark is None else (remark,))
    assert cells(run_figures.THE_RUN, run)["epochs"] == epochs


def test_probes_are_flat_and_of_knn_one_metric_is_taken() -> None:
    knn = {f"k{k}_t{t}_top{top}": float(k) for k in (1, 20) for t in (0.07, 0.1) for top in (1, 5)}
    evaluation = {"knn": knn, "linear": {"top1": 70.0, "note": "good"}, "transfer": {"birds": {"linear_top1": 3}}}
    assert run_figures.probe_figures(a_run(evaluation=evaluation)) == {
        "kNN, k = 20, top 1": 20.0, "Linear, top 1": 70.0, "Transfer, birds, linear top 1": 3.0,
    }  # fmt: skip
    assert run_figures.latest_probe_figures(a_log(knn=60.0)) == {"kNN, k = 1": 55.0, "kNN, k = 20": 60.0}


def test_label_free_metrics_have_the_names_they_have_in_charts() -> None:
    line = {"step": 3, "epoch": 0, "rankme": 5.0, "stability": 0.5, "new_metric": 2, "alpha_req": math.nan}
    assert run_figures.label_free_figures(line) == {"RankMe": 5.0, "stability of neighbors": 0.5, "new metric": 2.0}


def test_settings_become_flat() -> None:
    settings = {
        "seed": 1,
        "flip": True,
        "views": {"crops": [{"size": 32}, {"size": 16}]},
        "counts": [60, 30],
        "none": [],
    }
    assert run_figures.flat_settings(settings) == [
        ("seed", 1), ("flip", "true"), ("views.crops.0.size", 32), ("views.crops.1.size", 16), ("counts", "60, 30"),
        ("none", "none"),
    ]  # fmt: skip


def test_each_number_of_labels_is_a_figure_of_its_own() -> None:
    entries = [
        {"asked": asked | {"train": list(asked)}, "date": "", "figures": {"finetune": {"top1": value}}}
        for asked, value in (
            ({"label_fraction": "1%"}, 40.0),
            ({"label_fraction": "10%"}, 60.0),
            ({"labels_per_class": 5}, 30.0),
            ({"label_fraction": "1%"}, 41.0),
            ({"label_list": "1percent.txt", "recipe": "1%"}, 42.0),
        )
    ]
    run = a_run(evaluation={"finetune": {"top1": 41.0}, "entries": entries})
    assert run_figures.probe_figures(run) == {
        "Finetune (1% of the labels), top 1": 41.0,
        "Finetune (10% of the labels), top 1": 60.0,
        "Finetune (5 labels per class), top 1": 30.0,
        "Finetune (1percent.txt, the 1% recipe), top 1": 42.0,
    }
