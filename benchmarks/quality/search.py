"""Search the recipe for small images: trials of a few core-minutes, as many for every method, drawn by this script.

    python benchmarks/quality/search.py --cpu 0 [--methods swav,simclr] [--minutes 5] [--until 12]
    python benchmarks/quality/search.py --table

A trial trains on 10,000 images of CIFAR-10 for as many epochs as ``--minutes`` of CPU time pay for and is judged by 20-NN on
5,000 other *training* images (``prepare.py``'s tuning split); no test image is asked. It leaves one JSON file in
``results/quality/search``, and several processes may search at once. The first trials of a method are ``STARTS``, a few later
ones are thought out, from what the trials before them showed (``ideas.py``). Every other one takes the draw of one of the
method's three best trials, or, one time in four, what is shared between methods of another method's best, and changes each
setting with a probability of 1/6, at least one (``space.py``).
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from alternating import RESULTS, commit, limit_threads, model, write_report

limit_threads()

import alignment
import torch
from ideas import IDEAS
from judge import BACKBONE, judge
from prepare import BUILD
from space import CROPS, OWN, REGULARIZERS, SHARED, Draw, space
from tuning_sets import CIFAR10, Images

import coterie
from coterie import describe_backbone, load_backbone
from coterie.data.loading.center_crop import Preprocessing
from coterie.logger import NullLogger
from coterie.signals import Interrupted

TRIALS = RESULTS / "quality" / "search"
PRESET: Draw = {
    "crops": "2x24+2x16", "large_scale": 0.2, "small_scale": 0.4, "rate": 4e-3, "weight_decay": 1e-4, "batch": 128,
    "warm_up": 1.0, "hidden": "512", "width": 128, "last_batch_norm": 1, "scope": "resolution", "regularizer": "none",
    "strength": 1.0, "alignment": 0.0,
}  # fmt: skip
_ONE_NETWORK: Draw = {"teacher": 0.0, "predictor": 0, "targets": "large"}
_TWO_NETWORKS: Draw = _ONE_NETWORK | {"teacher": 0.99}
OF_PRESET: dict[str, Draw] = {
    "swav": _ONE_NETWORK | {"tau": 0.1, "groups": 100, "heads": 1, "epsilon": 0.02, "queue": 128},
    "smog": _TWO_NETWORKS
    | {"predictor": 1, "tau": 0.1, "groups": 100, "heads": 3, "groups_momentum": 0.99, "groups_start": "1"}
    | {"groups_gradient": 0, "refresh_epochs": 1, "assignment": "nearest", "epsilon": 0.05},
    "deepcluster_v2": {"tau": 0.1, "groups": 100, "heads": 3, "label_epochs": 2, "rate": 1.4e-3},
    "sela_v2": {"tau": 0.1, "groups": 100, "heads": 3, "label_epochs": 2, "epsilon": 0.02},
    "simclr": {"tau": 0.2},
    "alignment": {"tau": 0.1, "regularizer": "coding_rate", "strength": 3.0},
    "resa": _TWO_NETWORKS | {"tau": 0.4, "epsilon": 0.05, "scope": "view", "groups_gradient": 0},
}
"""The presets of 2026-11-29, as draws."""
STARTS: dict[str, tuple[Draw, ...]] = dict.fromkeys(OWN, ({}, {"regularizer": "coding_rate"})) | {
    "resa": ({}, {"regularizer": "coding_rate", "strength": 0.05}),  # 0.01 left its predictions no gradient
    "alignment": ({}, {"strength": 2.0}),  # it collapses at 0.01
}
"""The first trials: the preset, and the preset with what helped in a throw-away trial."""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--until", type=int, default=24, help="trials of each method")
    parser.add_argument("--hours", type=float, default=12, help="start no trial after so long")
    options = parser.parse_args()
    if options.table:
        sys.stdout.write(table(options.trials))
        return
    stay_on(options.cpu)
    images = CIFAR10.prepared(options.build)
    options.trials.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 3600 * options.hours
    while time.monotonic() < end:
        claimed = claim(options)
        if claimed is None:
            return
        method, number, place = claimed
        try:
            draw = drawn(method, number, options.trials)
            report = {"method": method, "number": number, "draw": draw, "minutes": options.minutes}
            try:
                report |= trial(method, draw, images, options.minutes)
            except Interrupted:
                raise
            except coterie.UserError as error:  # such as a loss that is no number any more
                report |= {"knn20": 0.0, "effective_rank": 0.0, "epochs": 0, "cpu_minutes": 0.0, "failed": str(error)}
            write_report(place.with_suffix(".json"), report)
            sys.stdout.write(f"{method} {number}: {report['knn20']}, rank {report['effective_rank']}, {draw}\n")
            sys.stdout.flush()
        finally:
            place.unlink()


def argument_parser(about: str | None) -> argparse.ArgumentParser:
    """The options of every script that makes trials."""
    parser = argparse.ArgumentParser(description=(about or "").splitlines()[0])
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(OWN))
    parser.add_argument("--minutes", type=float, default=5, help="CPU time of a trial's training")
    parser.add_argument("--cpu", type=int, help="pin to this core")
    parser.add_argument("--trials", type=Path, default=TRIALS)
    parser.add_argument("--build", type=Path, default=BUILD, help="where prepare.py writes")
    parser.add_argument("--table", action="store_true", help="print what is there")
    return parser


def stay_on(cpu: int | None) -> None:
    """One thread, and on this core if one is named."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    torch.set_num_threads(1)


def claim(options: argparse.Namespace) -> tuple[str, int, Path] | None:
    """The next trial of the method that has fewest, taken for this process alone; None: all are done."""
    for number in range(options.until):
        for method in options.methods:
            place = options.trials / f"{method}_{number:03d}.running"
            if place.with_suffix(".json").exists():
                continue
            try:
                place.touch(exist_ok=False)
            except FileExistsError:
                continue
            return method, number, place
    return None


def drawn(method: str, number: int, folder: Path) -> Draw:
    """What a trial is to try; a function of its number and of the trials that have ended."""
    preset = PRESET | OF_PRESET[method]
    if number < len(STARTS[method]):
        return preset | STARTS[method][number]
    if number in IDEAS[method]:
        return preset | IDEAS[method][number]
    random = Random(f"{method} {number}")
    ended = finished(folder)
    own = sorted((each for each in ended if each["method"] == method), key=lambda each: -each["knn20"])
    draw = preset | (random.choice(own[:3])["draw"] if own else {})  # of before a setting was known: the preset's
    others = [each for each in ended if each["method"] != method]
    if others and random.random() < 1 / 4:
        other = random.choice(sorted({each["method"] for each in others}))
        best = max((each for each in others if each["method"] == other), key=lambda each: each["knn20"])
        draw |= {name: best["draw"].get(name, PRESET.get(name)) for name in SHARED if name != "tau"}
    known = space(method)
    changed = [name for name in known if random.random() < 1 / 6] or [random.choice(list(known))]
    return draw | {name: known[name].change(draw[name], random) for name in changed}


def finished(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def trial(method: str, draw: Draw, images: Images, minutes: float) -> dict[str, Any]:
    """Train for the epochs that a rehearsal says the minutes pay for, and ask the tuning images."""
    settings, batch = as_settings(method, draw, images), images.batch(draw)
    step = rehearse(method, settings, batch, images)
    epochs = max(2, round(60 * minutes / (step * (images.count // batch))))
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        told = Told()
        run = pretrain(method, settings, batch, images, f"{folder}/run", told, epochs=epochs)
        look = describe_backbone(run)
        figures = judge(
            load_backbone(run), Preprocessing(look.image_size, len(look.mean), look.mean, look.std), *images.files
        )
    return figures | {
        "epochs": epochs,
        "step_seconds": round(step, 4),
        "cpu_minutes": round((told.times[-1] - began) / 60, 2),
        "last_line": told.last,
        "warnings": told.warnings,
        "settings": settings,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": model(),
        "commit": commit(),
    }


class Told(NullLogger):
    """Keeps the CPU time of each line of the log, and the last one."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.last: dict[str, Any] = {}
        self.warnings: list[str] = []

    def log_metrics(self, record: dict[str, Any], total_steps: int) -> None:
        if "images_per_second" in record:
            self.times.append(time.process_time())
            self.last = record

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, items: Iterable[Any], total: int, what: str) -> Iterator[Any]:
        return iter(items)


def rehearse(method: str, settings: dict[str, Any], batch: int, images: Images) -> float:
    """CPU seconds of a step: the mean of the middle of some steps."""
    steps = 4 + max(8, 2048 // batch)
    with tempfile.TemporaryDirectory() as folder:
        told = Told()
        once = settings | {"run.log_steps": 1}
        pretrain(method, once, batch, images, f"{folder}/run", told, epochs=20, images=steps * batch)
    taken = sorted(after - before for before, after in zip(told.times[3:], told.times[4:], strict=False))
    return sum(taken[2:-2]) / len(taken[2:-2])


def pretrain(
    method: str, settings: dict[str, Any], batch: int, data: Images, out: str, told: Told, epochs: int, **more: int
) -> Path:
    alone = method == "alignment"
    return coterie.pretrain(
        "swav" if alone else method,
        str(data.files[0]),
        out=out,
        backbone=BACKBONE.name,
        epochs=epochs,
        batch_size=batch,
        settings=settings,
        parts=coterie.CustomParts(objective=alignment.build) if alone else None,
        logger=told,
        **more,
    )


def as_settings(method: str, draw: Draw, images: Images) -> dict[str, Any]:
    """The settings of a run by path."""
    large, large_size, small, small_size = CROPS[str(draw["crops"])]
    large_size, small_size = images.pixels(large_size), images.pixels(small_size)
    colors = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "blur": 0.0}
    colors |= {} if images.color else {"jitter": 0.0, "grayscale": 0.0}
    crops = [{"count": large, "size": large_size, "scale": [draw["large_scale"], 1.0], "augmentation": colors}]
    if small:
        crops += [{"count": small, "size": small_size, "scale": [0.08, draw["small_scale"]], "augmentation": colors}]
    peak = float(draw["rate"]) * (images.batch(draw) / 256) ** 0.5
    settings: dict[str, Any] = {
        "backbone.width": BACKBONE.width,
        "backbone.stem": BACKBONE.stem,
        "views.crops": crops,
        "views.image_size": images.side,
        "optimizer.weight_decay": draw["weight_decay"],
        "learning_rate.peak": peak,
        "learning_rate.final": peak / 100,
        "learning_rate.warmup_epochs": draw["warm_up"],
        "projector.hidden": [int(each) for each in str(draw["hidden"]).split("+")],
        "projector.width": draw["width"],
        "projector.last_batch_norm": bool(draw["last_batch_norm"]),
        "batch_norm_scope": draw["scope"],
        "temperature": draw["tau"],
        "run.workers": 0,
        "run.threads": 1,
        "run.snapshots": 0,
    }
    targets = list(range(large + small if draw.get("targets") == "all" else 2))
    settings |= {"views.target_views": targets, "views.grouped_views": targets}
    kind = str(draw["regularizer"])
    if kind == "none":
        settings["regularizer"] = None
    else:
        weight = REGULARIZERS[kind] * float(draw["strength"])
        settings |= {"regularizer.kind": kind, "regularizer.weight": weight}
        if kind == "uniformity":
            settings["regularizer.alignment"] = draw.get("alignment", 0.0)
    if "groups" in draw:
        settings["groups.counts"] = [images.groups(draw)] * int(draw["heads"])
    if "assignment" in draw:
        settings["assignment.kind"] = draw["assignment"]
    if draw.get("assignment", "sinkhorn") == "sinkhorn" and "epsilon" in draw:
        settings["assignment.temperature"] = draw["epsilon"]
    if "predictor" in draw:
        settings["predictor"] = None if not draw["predictor"] else {
            "hidden": [int(each) for each in str(draw["hidden"]).split("+")],
            "width": draw["width"],
            "last_batch_norm": False,
        }  # fmt: skip
    if "label_epochs" in draw:
        settings["refresh.every_epochs"] = draw["label_epochs"]
    if draw.get("teacher"):
        settings |= {
            "target.kind": "teacher",
            "target.momentum.kind": "cosine",
            "target.momentum.peak": draw["teacher"],
        }
        settings |= {"target.momentum.final": 1.0, "target.moves": "before"}
    elif "teacher" in draw:
        settings["target.kind"] = "same"
    return settings | own_settings(method, draw, images)


def own_settings(method: str, draw: Draw, images: Images) -> dict[str, Any]:
    """Settings that only one method has."""
    if method == "swav":
        rows = {"memory.rows_from": "target"} if draw["teacher"] else {}
        queue = images.queue(draw)
        return {"memory": {"length": queue, "start_epoch": 1}, **rows} if queue else {"memory": None}
    if method == "smog":
        own: dict[str, Any] = {
            "groups.momentum.kind": "linear",
            "groups.momentum.end": draw["groups_momentum"],
            "groups.momentum.start": 1.0 if draw.get("groups_start", "1") == "1" else draw["groups_momentum"],
            "groups.gradient": bool(draw.get("groups_gradient")),
            "refresh.every_epochs": draw["refresh_epochs"],
        }
        return own | {"refresh.reset_teacher": bool(draw["teacher"])}
    if method == "resa":
        return {"groups.gradient": bool(draw.get("groups_gradient"))}
    return {}


def table(folder: Path) -> str:
    """All trials of each method, best first, with what differs from the preset."""
    lines = ["| method | trial | 20-NN | rank | epochs | CPU minutes | differs from the preset |", f"|{' --- |' * 7}"]
    for each in sorted(finished(folder), key=lambda each: (each["method"], -each["knn20"])):
        preset = PRESET | OF_PRESET[each["method"]]
        changes = ", ".join(f"{name} {value}" for name, value in each["draw"].items() if value != preset.get(name))
        lines.append(
            f"| {each['method']} | {each['number']} | {each['knn20']} | {each['effective_rank']} | {each['epochs']} | "
            f"{each['cpu_minutes']} | {changes or 'nothing'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
