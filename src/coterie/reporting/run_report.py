"""The report of one run: reads its folder, embeds some images, and writes ``report.html``."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.config.toml import to_toml
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.open import open_source
from coterie.data.sources.own_data import GivenData
from coterie.data.sources.source import ImageSource, Subset, labels, sample_indices
from coterie.embedding.embed import Embeddings, embed_source
from coterie.errors import NoImages, UserError
from coterie.evaluation.low_rank import low_rank_warning
from coterie.evaluation.sample_size import REPORT_SHARE, forward_pixels, sample_so_far
from coterie.formatting import counted, first_few, format_duration, format_number
from coterie.paths import expand
from coterie.reporting.baselines import beside_tables, latest_bars
from coterie.reporting.embedding_map import MAX_MAP_POINTS
from coterie.reporting.gallery import GroupAssignment
from coterie.reporting.pictures import report_pictures
from coterie.reporting.report_page import Report, write_report
from coterie.reporting.run_images import find_images, not_found
from coterie.reporting.tables import probe_tables
from coterie.reporting.verdict import Verdict, chance_accuracy, sample_accuracy, verdict
from coterie.training.environment import environment
from coterie.training.loaded_run import load_run
from coterie.training.run_folder import Records, read_records
from coterie.training.student import Student, assigned_groups, preprocessing_of

FEWEST_SAMPLED = 384
"""Number of images that are embedded for the page even of a short run, unless embeddings are given."""
WHOLE_SIZE = 64  # pixels; of larger images, fewer are embedded on a CPU, in proportion to their area


def report_run(
    folder: Path,
    config: PretrainConfig,
    source: ImageSource,
    network: nn.Module,
    preprocessing: Preprocessing,
    runtime: Runtime,
    *,
    student: Student | None = None,
    embeddings: Embeddings | None = None,
    remarks: Sequence[str] = (),
) -> None:
    """Write a run's ``report.html``: how good the features are, curves, probes, a map, and groups and neighbors of images.

    Args:
        folder: the run's folder.
        config: its settings.
        source: its images.
        network: the backbone.
        preprocessing: how images are prepared for it.
        runtime: where and how to compute; its logger receives the progress of the embedding.
        student: assigns images to groups; None: the page has no gallery of groups.
        embeddings: embeddings of the source by the backbone; None: a sample is embedded.
        remarks: further warnings.
    """
    records = read_records(folder)
    facts, pictures = records.facts, None
    images = facts["images"] if isinstance(facts.get("images"), int) else len(source)
    if embeddings is None:
        embeddings = _embed_sample(source, config, network, preprocessing, runtime)
    if embeddings is not None:
        assign = partial(gallery_groups, student) if student is not None else None
        pictures = report_pictures(embeddings, source, preprocessing, assign)
    found, warnings = _judge(config, records, embeddings, images)
    write_report(
        folder / "report.html",
        Report(
            title=f"{config.method} on {first_few([Path(each).name for each in config.data], ', ')}",
            answer=found.answer,
            summary=(*found.details, _summary(config, images, facts.get("budget"))),
            bars=latest_bars(records.evaluation),
            metrics=records.log,
            warnings=[{"step": None, "message": text} for text in (*remarks, *records.remarks, *warnings)],
            map=pictures.map if pictures else None,
            galleries=pictures.galleries if pictures else (),
            tables=(*beside_tables(records.evaluation), *probe_tables(records.evaluation)),
            automatic=[tuple(map(str, each)) for each in facts.get("automatic", ())],  # type: ignore[misc]
            config_text=to_toml(config),
            environment=facts.get("environment") or environment(runtime.device),
        ),
    )


def rewrite_report(
    folder: str | Path,
    *,
    runtime: Runtime,
    images: GivenData | None = None,
    backbone: nn.Module | None = None,
    embeddings: Embeddings | None = None,
) -> Path:
    """Rewrite the ``report.html`` of a run from the present contents of its folder and its images.

    Args:
        folder: of a run that has a checkpoint, whether it is finished or not.
        runtime: where images are embedded; its logger is warned if their number has changed.
        images: the run's images, if they are elsewhere now (:func:`coterie.reporting.run_images.find_images`).
        backbone: the module of a run whose backbone was given in Python.
        embeddings: of the run's images by its backbone, if they are at hand; else a sample is embedded.

    Returns:
        The page.

    Raises:
        UserError: no run's folder, no whole checkpoint in it, or its images are not found. The page is as it was then.
    """
    folder = expand(folder)
    saved = load_run(folder, runtime.device, backbone)
    config, student, remarks = saved.config, saved.student, list(saved.remarks)
    source = find_images(folder, config.data, images, config.columns)
    if len(source) != saved.images:
        remarks.append(f"the run saw {saved.images} images, and there are {len(source)} now")
        embeddings = None
    for line in remarks:
        runtime.logger.warning(line)
    network, look = student.encoder.backbone, saved.preprocessing
    if embeddings is None:
        embeddings = _embed_sample(source, config, network, look, runtime)
        if embeddings is None:
            raise not_found(folder, f"none of a sample of {len(source)} can be read")
    kept = {"student": student, "embeddings": embeddings, "remarks": remarks}
    report_run(folder, config, source, network, look, runtime, **kept)  # type: ignore[arg-type]
    return folder / "report.html"


def report_images(config: PretrainConfig, images: int, device: torch.device | str) -> int:
    """How many images are embedded for the page of a run: ``REPORT_SHARE`` of what its training computes, from 384 to 2,000.

    Args:
        config: settings of the run.
        images: number of images in its source.
        device: where they are embedded; on a CPU, where that is slow, fewer large ones.
    """
    size = preprocessing_of(config).size
    most = float(MAX_MAP_POINTS)
    if torch.device(device).type == "cpu":
        most *= min(1.0, (WHOLE_SIZE / size) ** 2)
    affordable = REPORT_SHARE * forward_pixels(config, images) / size**2
    return min(max(FEWEST_SAMPLED, round(min(most, affordable))), images)


def gallery_groups(student: Student, rows: Tensor) -> GroupAssignment | None:
    """The group of the first head for each embedding; None where the method has no lasting groups."""
    nearest = assigned_groups(student, rows)
    if nearest is None or student.groups is None:
        return None
    return GroupAssignment(*nearest, len(student.groups.centers()[0]))


def _embed_sample(
    source: ImageSource,
    config: PretrainConfig,
    network: nn.Module,
    preprocessing: Preprocessing,
    runtime: Runtime,
) -> Embeddings | None:
    """Embed a random sample of the source; None if none of them can be decoded."""
    positions = sample_indices(report_images(config, len(source), runtime.device), source)
    sample = Subset(source, positions, labels(source)[positions], source.classes)
    training = network.training
    try:
        found = embed_source(network.eval(), sample, preprocessing, runtime, what="embedding for the report")
    except NoImages:
        return None
    finally:
        network.train(training)
    return Embeddings(positions[found.index], found.rows, found.labels, found.bad)


def _judge(
    config: PretrainConfig, records: Records, embeddings: Embeddings | None, images: int
) -> tuple[Verdict, tuple[str, ...]]:
    """What the page says first, and the warnings that the log lacks."""
    width = embeddings.rows.shape[1] if embeddings is not None else 0
    measured = sample_so_far(records.log, config, images).images
    unlogged = _unlogged_low_rank(config, records.log, width, measured)
    found = verdict(
        records.log,
        records.evaluation,
        sample=sample_accuracy(embeddings) if embeddings is not None else None,
        chance=_probe_chance(config),
        width=width,
        images=measured,
        warned=bool(unlogged),
    )
    return found, unlogged


def _unlogged_low_rank(
    config: PretrainConfig, log: Sequence[dict[str, Any]], width: int, images: int
) -> tuple[str, ...]:
    """The warning of a low rank that the log of a run lacks if an earlier version trained it."""
    looks = [line for line in log if "label_free" in line]
    if not looks or any("warning" in line for line in looks):
        return ()
    text = low_rank_warning(log, width, images, last=looks[-1].get("epoch") == config.epochs - 1)
    return () if text is None else (text,)


def _probe_chance(config: PretrainConfig) -> float | None:
    """The accuracy of guessing in the probe during training; None without a probe, or if its images are gone."""
    if config.probe is None:
        return None
    try:
        found = labels(open_source(*(config.probe.test or config.probe.train), columns=config.columns))
    except UserError:
        return None
    known = torch.from_numpy(found[found >= 0])
    return chance_accuracy(known) if len(known) else None


def _summary(config: PretrainConfig, images: int, budget: Any) -> str:
    """The run in a sentence; ``budget`` is that of ``run.json``, which has the steps that were trained."""
    text = f"{images:,} images, {config.backbone.name}"
    match budget:
        case {"seconds": int() | float() as seconds, "used": int() | float() as used, "steps": int() as steps}:
            epochs = format_number(steps / max(1, images // config.batch_size))
            given = f"trained in {format_duration(used)} of a budget of {format_duration(seconds)}"
            return f"{text}, {counted(epochs, 'epoch')}, batch {config.batch_size}, {given}."
    return f"{text}, {counted(config.epochs, 'epoch')}, batch {config.batch_size}."
