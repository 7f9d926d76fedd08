"""The verbs: plan, pretrain, evaluate, embed. The command line calls these and nothing else."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.assembly import build_loader, build_student, choose_device, choose_workers, eye
from coterie.atomic import write_text
from coterie.data.source import open_source
from coterie.embedding.embed import Eye, embedded_batches
from coterie.embedding.table import write_table
from coterie.errors import BadConfig, BadRun
from coterie.estimating import Plan, estimate
from coterie.evaluation.knn import knn_of
from coterie.evaluation.labelled import labelled_pair
from coterie.exporting.weights import describe_backbone, load_backbone
from coterie.listening import Listener, Silent
from coterie.ops.loss import scores
from coterie.pretraining import Pretraining
from coterie.resolving import resolve
from coterie.settings import from_dict, read_toml
from coterie.telling import summary
from coterie.training import checkpoint
from coterie.training.folder import RunFolder

Paths = str | Path | Sequence[str | Path]

PROBES = ("knn",)


def plan(
    method: str | None = None,
    data: Paths = (),
    *,
    backbone: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    settings: Sequence[str] = (),
    listener: Listener | None = None,
) -> Plan:
    """Say what :func:`pretrain` would train, why, how long it would take and how much memory; nothing is trained or written.

    Time and memory are measured by some real steps in another process, of half a minute or less, and extrapolated.

    Args:
        method: a preset, such as ``swav``; may be left out with ``config``.
        data: folders, lists, globs, parquet files, tar shards; may be left out with ``config``.
        backbone: a network of timm.
        epochs: passes over the images.
        batch_size: images a step.
        seed: of weights, order and views.
        config: a ``config.toml``, of a run or of your own, in place of the preset.
        settings: overrides, each ``path=value``, such as ``groups.counts=300``.
        listener: is told how far the rehearsal is.

    Raises:
        UserError: a plan that must fail, and the mend, in one line.
    """
    listener, began = listener or Silent(), time.monotonic()
    flags = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "backbone.name": backbone}
    wanted = resolve(method, _strings(data), config, flags, settings)
    images, device = len(wanted.source), choose_device(wanted.config.run.device)
    loader = build_loader(wanted.config, wanted.source, device)
    return Plan(
        wanted.config,
        wanted.reasons,
        summary(wanted.config, images, device),
        loader.steps_per_epoch,
        estimate(wanted.config, images, time.monotonic() - began, listener),
    )


def pretrain(
    method: str | None = None,
    data: Paths = (),
    *,
    out: str | Path,
    backbone: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: str | Path | None = None,
    settings: Sequence[str] = (),
    probe: Paths = (),
    probe_test: Paths = (),
    on_collapse: str | None = None,
    listener: Listener | None = None,
) -> Path:
    """Pretrain a backbone on unlabelled images; or go on with a run that was stopped, if ``out`` holds one.

    Args:
        method: a preset, such as ``swav``; may be left out with ``config``.
        data: folders, lists, globs, parquet files, tar shards; may be left out with ``config``.
        out: the run's folder.
        backbone: a network of timm.
        epochs: passes over the images.
        batch_size: images a step.
        seed: of weights, order and views.
        config: a ``config.toml``, of a run or of your own, in place of the preset.
        settings: overrides, each ``path=value``, such as ``groups.counts=300``.
        probe: labelled images for a kNN probe while the run goes on.
        probe_test: labelled images whose labels the probe guesses; without it, every fifth of ``probe``.
        on_collapse: ``warn`` or ``stop`` when the run looks collapsed; without it, what the settings say, which is warn.
        listener: is told what happens.

    Returns:
        The run's folder.

    Raises:
        UserError: anything that the caller can mend, in one line.
    """
    listener = listener or Silent()
    flags: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "seed": seed, "backbone.name": backbone}
    flags |= {"run.on_collapse": on_collapse}
    if probe_test and not probe:
        raise BadConfig("--probe-test names what is asked; name with --probe what is learned from")
    if probe:
        flags |= {"probe": {"train": list(_strings(probe)), "test": list(_strings(probe_test))}}
    wanted = resolve(method, _strings(data), config, flags, settings)
    folder = RunFolder(out)
    try:
        Pretraining(folder, wanted.source, wanted.config, listener, wanted.reasons).go()
    finally:
        folder.close()
    return folder.path


def evaluate(
    run: str | Path,
    train: Paths,
    test: Paths = (),
    *,
    probes: Sequence[str] = PROBES,
    device: str = "auto",
    workers: int = -1,
    listener: Listener | None = None,
) -> dict[str, dict[str, float]]:
    """Judge a run's frozen backbone by labelled images.

    Args:
        run: a run's folder, or a ``model.safetensors``.
        train: labelled sources that the probe learns from.
        test: labelled sources that it is asked; without it, every fifth image of ``train``.
        probes: of ``knn``.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: processes that load images; -1: as many as there are cores to spare.
        listener: is told what happens.

    Returns:
        ``{probe: {metric: value}}``, also written to ``evaluation.json`` in the run's folder.
    """
    unknown = sorted(set(probes) - set(PROBES))
    if unknown or not probes:
        raise BadConfig(f"{', '.join(unknown) or 'nothing'} is no probe: choose from {', '.join(PROBES)}")
    listener = listener or Silent()
    where = choose_device(device)
    described = describe_backbone(run)
    look = Eye(described.image_size, described.backbone.channels, described.mean, described.std)
    pair = labelled_pair(_strings(train), _strings(test))
    for line in pair.remarks:
        listener.warn(line)
    result = {
        "knn": knn_of(
            load_backbone(run).to(where), pair, look, workers=choose_workers(workers), device=where, listener=listener
        )
    }
    if Path(run).is_dir():
        path = Path(run) / "evaluation.json"
        try:
            earlier = json.loads(path.read_text()) if path.exists() else {}
        except ValueError:
            listener.warn(f"{path} could not be read and is written anew")
            earlier = {}
        write_text(path, json.dumps(earlier | result, indent=2) + "\n")
    return result


def embed(
    run: str | Path,
    data: Paths,
    out: str | Path,
    *,
    device: str = "auto",
    workers: int = -1,
    listener: Listener | None = None,
) -> int:
    """Write name, label if there is one, embedding, group and its probability of each image to a parquet file.

    The embedding is the backbone's; the group is the one, of the first head, whose center is nearest to the projected image,
    its probability that of ``softmax(z . centers / temperature)``; -1 and 0 where the method has no lasting groups. Holds one
    batch at a time.

    Returns:
        How many images were written; those that could not be decoded are listed beside the file.
    """
    listener = listener or Silent()
    config = from_dict(read_toml(Path(run) / "config.toml"))
    _, state, _ = checkpoint.load(Path(run) / "checkpoint")
    if state is None:
        raise BadRun(f"{run} has no checkpoint: it is no run's folder, or nothing is saved yet")
    where = choose_device(device)
    student = build_student(config, where, starting_weights=False)
    student.load_state_dict(state["student"])
    student.eval()

    def look(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h, z, _ = student([images])
        if student.groups is None:  # the batch was the groups: nothing lasts
            return h[0], torch.full((len(images),), -1), torch.zeros(len(images))
        logits = scores(z[0], student.groups.centers()[0]) / config.temperature
        probability, group = logits.softmax(dim=1).max(dim=1)
        return h[0], group, probability

    source = open_source(*_strings(data))
    stream = embedded_batches(
        look, source, eye(config), workers=choose_workers(workers), device=where, listener=listener
    )
    written, bad = write_table(out, source, stream)
    if bad:
        lines = "".join(f"{source.name(index)}\t{reason}\n" for index, reason in bad)
        write_text(f"{out}.bad.txt", lines)
        listener.warn(f"{len(bad)} images could not be decoded: {out}.bad.txt lists them")
    return written


def _strings(paths: Paths) -> tuple[str, ...]:
    if isinstance(paths, (str, Path)):
        return (str(paths),)
    return tuple(str(path) for path in paths)
