"""Evaluations while a run trains: label-free metrics with a snapshot of the weights, and probes with labels."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from coterie.config.hardware import Runtime
from coterie.config.schema import PUBLISHED, PretrainConfig, ProbeConfig
from coterie.data.sources.source import ImageSource, Subset, sample_indices
from coterie.embedding.embed import Embeddings, embed_source
from coterie.errors import NoImages
from coterie.evaluation.augmented_views import embed_views
from coterie.evaluation.label_free import label_free
from coterie.evaluation.labeled_data import LabeledPair
from coterie.evaluation.low_rank import low_rank_warning
from coterie.evaluation.model_selection import plateau_reason
from coterie.evaluation.probes.embedding_probes import probe_embeddings
from coterie.evaluation.sample_size import Sample, sample_so_far
from coterie.exporting.backbone_file import load_backbone, save_backbone
from coterie.logger import ProgressOnly
from coterie.training.callback import Callback, RunContext
from coterie.training.run_folder import read_log
from coterie.training.student import Student, nearest_groups, preprocessing_of
from coterie.types import Progress


class LabelFreeCallback(Callback):
    """Measures label-free metrics ``run.snapshots`` times, evenly, at the ends of epochs, and keeps the weights beside them.

    Each time it writes ``snapshots/epoch-NNNN.safetensors``, the backbone's weights in bfloat16, and a line of the log with the
    metrics of :func:`coterie.evaluation.label_free.label_free`, which are those of these weights. With ``run.early_stop`` it
    ends a run whose metrics have reached a plateau. It warns once if the features vary along a handful of directions only
    (:mod:`coterie.evaluation.low_rank`). It changes nothing that is learned, and is a pure function of the weights: what a
    resumed run measures is what an uninterrupted one would have measured.
    """

    name = "label_free"

    def __init__(self, config: PretrainConfig, source: ImageSource, runtime: Runtime) -> None:
        """Measure a run of these settings, on a random sample of its images (:mod:`coterie.evaluation.sample_size`)."""
        self.config, self.source, self.runtime = config, source, runtime
        self.keeps_ended = config.run.early_stop
        self.size, self.sample = Sample(0, 0), source
        self._run: RunContext | None = None
        self._earlier: tuple[str, Tensor] | None = None

    def on_start(self, run: RunContext) -> None:
        """Choose the sample, remember where to write, and show progress in place of the steps."""
        self._run, self.runtime = run, replace(self.runtime, logger=ProgressOnly(run.logger))
        self.size = sample_so_far(read_log(run.folder), self.config, len(self.source))
        self.sample = Subset(self.source, sample_indices(self.size.images, self.source))

    def is_due(self, progress: Progress) -> bool:
        """Whether this step ends an epoch that gets a snapshot, or the run."""
        if progress.step + 1 == progress.total_steps:
            return True
        return progress.step_in_epoch + 1 == progress.steps_per_epoch and self._has_snapshot(progress)

    def on_due(self, student: Student, progress: Progress) -> None:
        """Keep the weights, and measure what was kept."""
        assert self._run is not None
        run, snapshot, log = self._run, snapshot_name(progress.epoch + 1), read_log(self._run.folder)
        look, backbone, file = preprocessing_of(self.config), student.encoder.backbone, run.folder / snapshot
        inputs = (look.size, look.mean, look.std)
        how: dict[str, Any] = {"interpolation": look.interpolation, "value_range": look.value_range}
        save_backbone(file, backbone, self.config.backbone, *inputs, **how, half=True)
        try:
            metrics = self._metrics(student, progress.epoch + 1, snapshot, log)
        except NoImages:  # not one image of the sample can be decoded
            metrics = None
        if metrics is None:
            file.unlink()
            return
        sampled = [self.size.images, self.size.views]
        record: dict[str, Any] = {"label_free": metrics, "snapshot": snapshot, "sampled": sampled}
        log.append({"step": progress.step, "epoch": progress.epoch} | record)
        width, images = self._earlier[1].shape[::-1] if self._earlier is not None else (0, 0)
        warning = low_rank_warning(log, width, images, last=progress.step + 1 == progress.total_steps)
        if warning and not any("warning" in line and "label_free" in line for line in log):  # once in a run
            record["warning"] = warning
        run.log(record)
        why = plateau_reason(log) if self.config.run.early_stop else None
        if why:
            run.end(why)

    def _has_snapshot(self, progress: Progress) -> bool:
        """Whether there is a snapshot after the epoch that this step ends."""
        wanted, epochs, done = self.config.run.snapshots, self.config.epochs, progress.epoch + 1
        if progress.stretch is None:
            return wanted * done // epochs > wanted * (done - 1) // epochs
        ends, began = (wanted * progress.on_schedule(ahead) for ahead in (1, 1 - progress.steps_per_epoch))
        return ends // progress.scheduled_steps > began // progress.scheduled_steps

    def _metrics(
        self, student: Student, done: int, snapshot: str, log: Sequence[Mapping[str, Any]]
    ) -> dict[str, float] | None:
        """None where embeddings are not finite: the monitor warns of that."""
        network, then = self._load(snapshot, student), nearest_groups(student, self.config.temperature)
        found, plan, seed = self._embed(network), self.config.views, self.config.seed
        views, groups, _ = embed_views(
            network, self.sample, found.index, plan, seed, count=self.size.views, runtime=self.runtime, then=then
        )
        if not (found.rows.isfinite().all() and views.isfinite().all()):
            return None
        earlier = self._embeddings_before(student, done, log)
        if earlier is not None and len(earlier) != len(found.rows):  # an image has become unreadable since
            earlier = None
        self._earlier = (snapshot, found.rows)
        lasting = student.groups is not None
        count = len(student.groups.centers()[0]) if student.groups is not None else 0
        return label_free(found.rows, views, groups if lasting else None, count, earlier)

    def _embeddings_before(self, student: Student, done: int, log: Sequence[Mapping[str, Any]]) -> Tensor | None:
        """Those of the snapshot before: remembered, or made again from its weights if the run was resumed since."""
        assert self._run is not None
        earlier = [line for line in log if "snapshot" in line and line["epoch"] + 1 < done]
        if not earlier:
            return None
        name = str(earlier[-1]["snapshot"])
        if self._earlier is not None and self._earlier[0] == name:
            return self._earlier[1]
        return self._embed(self._load(name, student)).rows if (self._run.folder / name).exists() else None

    def _load(self, snapshot: str, student: Student) -> nn.Module:
        """The network of a snapshot, which is that of the run but for the rounding of its weights."""
        assert self._run is not None
        return load_backbone(self._run.folder / snapshot, into=copy.deepcopy(student.encoder.backbone))

    def _embed(self, network: nn.Module) -> Embeddings:
        return _embed(network, self.sample, self.config, self.runtime)


class ProbeCallback(Callback):
    """Probes with labels every ``probe.every_epochs`` epochs and at the end: a line of the log with what each found."""

    name = "probe"

    def __init__(self, config: PretrainConfig, probe: ProbeConfig, pair: LabeledPair, runtime: Runtime) -> None:
        """Probe a run of these settings on a pair of labeled sources."""
        self.config, self.probe, self.pair, self.runtime = config, probe, pair, runtime
        self._run: RunContext | None = None

    def on_start(self, run: RunContext) -> None:
        """Remember where to write, and show progress in place of the steps."""
        self._run, self.runtime = run, replace(self.runtime, logger=ProgressOnly(run.logger))

    def is_due(self, progress: Progress) -> bool:
        """Whether this step ends an epoch that is probed, or the run."""
        if progress.step + 1 == progress.total_steps:
            return True
        ended = progress.step_in_epoch + 1 == progress.steps_per_epoch
        return ended and (progress.epoch + 1) % self.probe.every_epochs == 0

    def on_due(self, student: Student, progress: Progress) -> None:
        """Embed both sources and probe."""
        assert self._run is not None
        names, seed, runtime = self.probe.probes, self.config.seed, self.runtime
        if any(each in PUBLISHED for each in names):
            runtime = replace(runtime, autocast=None)
        train, test = (
            _embed(student.encoder.backbone, part, self.config, runtime) for part in (self.pair.train, self.pair.test)
        )
        self._run.log(probe_embeddings(names, train, test, seed=seed, runtime=self.runtime))


def snapshot_name(epochs: int) -> str:
    """The file of the weights after so many epochs, relative to the run's folder."""
    return f"snapshots/epoch-{epochs:04d}.safetensors"


def _embed(network: nn.Module, source: ImageSource, config: PretrainConfig, runtime: Runtime) -> Embeddings:
    return embed_source(network, source, preprocessing_of(config), runtime)
