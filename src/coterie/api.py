"""The verbs, from plan to embed. The command line calls these and nothing else."""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from coterie.atomic import write_text, writing
from coterie.config.describe import summary
from coterie.config.hardware import choose_device
from coterie.config.resolve import resolve
from coterie.distributed.processes import local_device, process_group, rank
from coterie.embedding.job import embed_to_file, embed_to_folder
from coterie.errors import BadConfig, UserError
from coterie.evaluation.evaluator import Evaluator
from coterie.evaluation.model_selection import Selection, select_snapshot
from coterie.logger import Logger, NullLogger
from coterie.reporting.comparison import ComparedRuns, compare_folders, write_comparison
from coterie.reporting.run_report import rewrite_report
from coterie.training.build import build_loader
from coterie.training.profiling.advice import Profile
from coterie.training.profiling.estimate import Plan, estimate
from coterie.training.profiling.profile import profile_run
from coterie.training.run import Pretraining
from coterie.training.run_folder import RunFolder, read_log

Paths = str | Path | Sequence[str | Path]


def plan(
    method: str | None = None,
    data: Paths = (),
    *,
    backbone: str | None = None,
    epochs: int | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    settings: Sequence[str] = (),
    logger: Logger | None = None,
) -> Plan:
    """Say what :func:`pretrain` would train, why, how long it would take and how much memory; nothing is trained or written.

    Time and memory are measured by some real steps in another process, of half a minute or less, and extrapolated.

    Args:
        method: a preset, such as ``swav``; may be left out with ``config``.
        data: folders, lists, globs, parquet files, tar shards; may be left out with ``config``.
        backbone: a network of timm.
        epochs: passes over the images.
        images: end after so many, in the middle of an epoch if need be.
        batch_size: images a step.
        seed: of weights, order and views.
        config: a ``config.toml``, of a run or of your own, in place of the preset.
        settings: overrides, each ``path=value``, such as ``groups.counts=300``.
        logger: is told how far the rehearsal is.

    Raises:
        UserError: a plan that must fail, and the mend, in one line.
    """
    _refuse_torchrun()
    logger, began = logger or NullLogger(), time.monotonic()
    flags = {"epochs": epochs, "images": images, "batch_size": batch_size, "seed": seed, "backbone.name": backbone}
    wanted = resolve(method, _strings(data), config, flags, settings)
    images, device = len(wanted.source), choose_device(wanted.config.run.device)
    loader = build_loader(wanted.config, wanted.source, device)
    return Plan(
        wanted.config,
        wanted.reasons,
        summary(wanted.config, images, device),
        loader.steps_per_epoch,
        estimate(wanted.config, images, time.monotonic() - began, logger),
    )


def profile(
    method: str | None = None,
    data: Paths = (),
    *,
    backbone: str | None = None,
    epochs: int | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    settings: Sequence[str] = (),
    seconds: float = 20.0,
    logger: Logger | None = None,
) -> Profile:
    """Say where the time of :func:`pretrain` would go, and what to change.

    A short run in this process; nothing of it is kept.

    Args:
        method: a preset, such as ``swav``; may be left out with ``config``.
        data: folders, lists, globs, parquet files, tar shards; may be left out with ``config``.
        backbone: a network of timm.
        epochs: passes over the images.
        images: end after so many, in the middle of an epoch if need be.
        batch_size: images a step.
        seed: of weights, order and views.
        config: a ``config.toml``, of a run or of your own, in place of the preset.
        settings: overrides, each ``path=value``, such as ``run.workers=8``.
        seconds: of steps; the warm-up and the rest take some more.
        logger: is told how far it is.

    Raises:
        UserError: a run that must fail, and the mend, in one line.
    """
    _refuse_torchrun()
    if not 0 < seconds <= 3600:
        raise UserError(f"--seconds is {seconds:g}: give some, such as 20, and at most 3600")
    flags = {"epochs": epochs, "images": images, "batch_size": batch_size, "seed": seed, "backbone.name": backbone}
    wanted = resolve(method, _strings(data), config, flags, settings)
    return profile_run(wanted.config, wanted.source, seconds, logger or NullLogger())


def pretrain(
    method: str | None = None,
    data: Paths = (),
    *,
    out: str | Path,
    backbone: str | None = None,
    epochs: int | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    settings: Sequence[str] = (),
    probe: Paths = (),
    probe_test: Paths = (),
    on_collapse: str | None = None,
    early_stop: bool | None = None,
    logger: Logger | None = None,
) -> Path:
    """Pretrain a backbone on unlabeled images; or go on with a run that was stopped, if ``out`` holds one.

    Args:
        method: a preset, such as ``swav``; may be left out with ``config``.
        data: folders, lists, globs, parquet files, tar shards; may be left out with ``config``.
        out: the run's folder.
        backbone: a network of timm.
        epochs: passes over the images.
        images: end after so many, in the middle of an epoch if need be.
        batch_size: images a step.
        seed: of weights, order and views.
        config: a ``config.toml``, of a run or of your own, in place of the preset.
        settings: overrides, each ``path=value``, such as ``groups.counts=300``.
        probe: labeled images for a kNN probe while the run goes on.
        probe_test: labeled images whose labels the probe guesses; without it, every fifth of ``probe``.
        on_collapse: ``warn`` or ``stop`` when the run looks collapsed; without it, what the settings say, which is warn.
        early_stop: stop when the label-free metrics plateau; without it, what the settings say, which is no.
        logger: is told what happens.

    Returns:
        The run's folder.

    Raises:
        UserError: anything that the caller can mend, in one line.
    """
    logger = logger or NullLogger()
    flags: dict[str, Any] = {"epochs": epochs, "images": images, "batch_size": batch_size, "seed": seed}
    flags |= {"backbone.name": backbone, "run.on_collapse": on_collapse, "run.early_stop": early_stop}
    if probe_test and not probe:
        raise BadConfig("--probe-test names what is asked; name with --probe what is learned from")
    if probe:
        flags |= {"probe": {"train": list(_strings(probe)), "test": list(_strings(probe_test))}}
    wanted = resolve(method, _strings(data), config, flags, settings)
    with process_group(local_device(choose_device(wanted.config.run.device))):
        logger = logger if rank() == 0 else NullLogger()
        folder = RunFolder(out, held=rank() == 0)
        try:
            Pretraining(folder, wanted.source, wanted.config, logger, wanted.reasons).go()
        finally:
            folder.close()
    return folder.path


def evaluate(
    run: str | Path,
    train: Paths,
    test: Paths = (),
    *,
    probes: Sequence[str] = ("knn",),
    labels: str = "10%",
    seed: int = 0,
    device: str = "auto",
    workers: int = -1,
    logger: Logger | None = None,
) -> dict[str, dict[str, float]]:
    """Judge a run's backbone by labeled images. What is embedded is kept in the run's folder, and not embedded again.

    Args:
        run: a run's folder, or a ``model.safetensors``.
        train: labeled sources that the probes learn from.
        test: labeled sources that they are asked; without it, every fifth image of ``train``.
        probes: of ``knn``, ``linear``, ``linear_published``, ``clusters``, ``retrieval``, ``svm``, ``low_shot``,
            ``linear_images`` and ``finetune`` (``docs/evaluate.md``).
        labels: for ``finetune``: a share of the training labels, such as ``1%``, or so many a class, such as ``5``.
        seed: of what a probe draws.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that load images; -1: as many as there are cores to spare.
        logger: is told what happens.

    Returns:
        ``{probe: {metric: value}}``, also written to ``evaluation.json`` in the run's folder.
    """
    logger = logger or NullLogger()
    judge = Evaluator(run, probes, labels=labels, seed=seed, device=device, workers=workers, logger=logger)
    result = judge.evaluate(_strings(train), _strings(test))
    _note(run, result, logger)
    return result


def transfer(
    run: str | Path,
    sets: Mapping[str, Paths | tuple[Paths, Paths]],
    *,
    probes: Sequence[str] = ("linear",),
    labels: str = "10%",
    seed: int = 0,
    device: str = "auto",
    workers: int = -1,
    logger: Logger | None = None,
) -> dict[str, dict[str, float]]:
    """Judge a run's backbone on any number of other labeled sets, as the papers do on Places205, iNat18 and VOC07.

    Args:
        run: a run's folder, or a ``model.safetensors``.
        sets: by name, a labeled source, of which every fifth image is asked, or a pair: to learn from, and to ask.
        probes: as of :func:`evaluate`.
        labels: as of :func:`evaluate`.
        seed: as of :func:`evaluate`.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that load images; -1: as many as there are cores to spare.
        logger: is told what happens.

    Returns:
        ``{set: {"linear_top1": value, ...}}``, also written to ``evaluation.json`` under ``transfer``.
    """
    logger = logger or NullLogger()
    if not sets:
        raise BadConfig("name at least one set: NAME=TRAIN or NAME=TRAIN,TEST")
    judge = Evaluator(run, probes, labels=labels, seed=seed, device=device, workers=workers, logger=logger)
    table: dict[str, dict[str, float]] = {}
    for name, where in sets.items():
        train, test = where if isinstance(where, tuple) and len(where) == 2 else (where, ())
        found = judge.evaluate(_strings(train), _strings(test))
        table[name] = {
            f"{probe}_{metric}": value for probe, figures in found.items() for metric, value in figures.items()
        }
        _note(run, {"transfer": table}, logger)  # set by set: what is done stays, whatever happens
    return table


def select(
    run: str | Path, *, by: Literal["label_free", "knn"] = "label_free", out: str | Path | None = None
) -> Selection:
    """Choose one of a run's snapshots, without labels, and say why.

    Args:
        run: a run's folder.
        by: ``label_free``, or ``knn``: the accuracy of the run's own probe.
        out: a file to copy its weights to.

    Raises:
        UserError: the run has no snapshots with figures.
    """
    chosen = select_snapshot(read_log(run), by)
    if out is not None:
        with writing(out) as part:
            shutil.copyfile(Path(run) / chosen.snapshot, part)
    return chosen


def compare(runs: Sequence[str | Path], *, out: str | Path | None = None) -> ComparedRuns:
    """Set runs side by side: what they are, how far they are, and every figure that their folders hold.

    Args:
        runs: two runs' folders or more.
        out: an HTML file: the table, and the curves of all runs in one drawing each.

    Raises:
        UserError: fewer than two, one of them twice, or a folder without a run.
    """
    found = compare_folders(runs)
    if out is not None:
        write_comparison(out, found)
    return found


def report(run: str | Path, *, device: str = "auto", logger: Logger | None = None) -> Path:
    """Write a run's ``report.html`` again, with what is known of it by now: later steps, probes, images.

    Args:
        run: a run's folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        logger: is told what happens.

    Returns:
        The page.
    """
    return rewrite_report(run, device=device, logger=logger)


def embed(
    run: str | Path,
    data: Paths,
    out: str | Path,
    *,
    device: str = "auto",
    workers: int = -1,
    part_images: int = 65_536,
    ray: str | None = None,
    actors: int = 0,
    logger: Logger | None = None,
) -> int:
    """Write name, label if there is one, embedding, group and its probability of each image, as parquet.

    The embedding is the backbone's; the group is the one, of the first head, whose center is nearest to the projected image,
    its probability that of ``softmax(z . centers / temperature)``; -1 and 0 where the method has no lasting groups. Holds a
    few batches at a time.

    Args:
        run: a run's folder.
        data: folders, lists, globs, parquet files, tar shards.
        out: a file, with ``.parquet`` at its end; or else a folder of parts. A folder is gone on with where it was left, and is
            written by all processes that torchrun started, or by Ray.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that load images; -1: as many as there are cores to spare.
        part_images: of a folder: images of a part, a multiple of 256.
        ray: of a folder: ``local``, to write it by a Ray of its own on this machine; ``auto`` or an address: of a cluster.
        actors: of Ray, at most; 0: one for each GPU, or without GPUs one for every two cores.
        logger: is told what happens.

    Returns:
        How many images the file holds, or the parts that are there; those that could not be decoded are listed beside them.

    Raises:
        UserError: anything that the caller can mend, in one line.
    """
    logger, specs = logger or NullLogger(), _strings(data)
    if Path(out).suffix != ".parquet":
        spread: dict[str, Any] = {"part_images": part_images, "ray": ray, "actors": actors}
        return embed_to_folder(run, specs, out, device=device, workers=workers, **spread, logger=logger)
    if ray is not None:
        raise UserError(f"{out}: Ray writes a folder of parts; name one in --out, without .parquet at its end")
    return embed_to_file(run, specs, out, device=device, workers=workers, logger=logger)


def _refuse_torchrun() -> None:
    """Before anything is read: each process would do the whole of it, and they would be in each other's way."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("plan and profile are asked on one process: run them without torchrun")


def _strings(paths: Paths) -> tuple[str, ...]:
    if isinstance(paths, (str, Path)):
        return (str(paths),)
    return tuple(str(path) for path in paths)


def _note(run: str | Path, result: Mapping[str, Any], logger: Logger) -> None:
    """Add to a run's ``evaluation.json``."""
    if not Path(run).is_dir():
        return
    path = Path(run) / "evaluation.json"
    try:
        earlier = json.loads(path.read_text()) if path.exists() else {}
    except ValueError:
        logger.warning(f"{path} could not be read and is written anew")
        earlier = {}
    if "transfer" in result:  # a table that grows
        result = {"transfer": earlier.get("transfer", {}) | result["transfer"]}
    write_text(path, json.dumps(earlier | dict(result), indent=2) + "\n")
