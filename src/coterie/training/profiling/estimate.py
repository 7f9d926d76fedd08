"""Estimates the time and memory of a run from a rehearsal of it on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass

from coterie.config.describe import explain
from coterie.config.schema import PretrainConfig
from coterie.formatting import format_duration
from coterie.table import ShownInTables, TextTable
from coterie.training.profiling.extrapolation import Rehearsal

MAP_SECONDS = 3.0
"""Time of the report's map of 2,000 images on one core, a third of it for importing scikit-learn (``docs/log.md``)."""


@dataclass(frozen=True)
class Estimate:
    """Time in seconds and memory in bytes; probes and checkpoints (usually below one percent) are not included.

    Attributes:
        starting: reading the list of images, building the network, starting the loader processes.
        filling: the pass over the images that fills the memory.
        training: all steps.
        refreshes: all refreshes (k-means and labels).
        evaluating: label-free metrics at the snapshots.
        reporting: the report at the end.
        step: one step.
        steps: number of steps that were timed.
        main_memory: peak memory of the main process (VmHWM).
        worker_memory: memory of the loader processes in addition, counting only pages that they do not share.
        device_memory: peak memory of tensors on a CUDA device; not compared with a real run yet.
        basis: what the time of a step was measured on, and when.
    """

    starting: float
    filling: float
    training: float
    refreshes: float
    evaluating: float
    reporting: float
    step: float
    steps: int
    main_memory: int
    worker_memory: int
    device_memory: int = 0
    basis: str = ""

    @property
    def seconds(self) -> float:
        """Time from start to end."""
        return self.starting + self.filling + self.training + self.refreshes + self.evaluating + self.reporting

    @property
    def memory(self) -> int:
        """Memory of all processes, without the device's."""
        return self.main_memory + self.worker_memory


@dataclass(frozen=True)
class Alternative:
    """What a budget would train.

    Attributes:
        minutes: the budget.
        config: the settings; None: it is too short for one epoch.
        epochs: passes over the images.
        images_seen: images in all of them.
    """

    minutes: float
    config: PretrainConfig | None
    epochs: int
    images_seen: int

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table."""
        time = format_duration(60 * self.minutes)
        if self.config is None:
            return (time, "too short for one epoch", "", "", "", "", "")
        config, width = self.config, self.config.backbone.width
        network = config.backbone.name + (f" x {width:g}" if width != 1 else "")
        crops = " + ".join(f"{each.count}x{each.size}" for each in config.views.crops)
        size = str(config.views.center_crop_size)
        return (time, config.method, network, size, crops, f"{self.epochs:,}", f"{self.images_seen:,}")


@dataclass(frozen=True)
class Plan(ShownInTables):
    """The settings of a run and an estimate of what it takes; ``print`` shows what ``coterie plan`` prints.

    Attributes:
        config: every setting.
        reasons: the reason for each setting that was chosen, requested or set, by its path.
        summary: the run in one line.
        steps_per_epoch: whole batches in the images.
        estimate: its time and memory.
        start: what it would take over from the weights that it starts from; None: nothing.
        alternatives: what budgets would train, where neither a method nor a length is named: shown in place of the settings.
        measured: the accuracy that the committed tables have for such images, in one line; None: they have none.
    """

    config: PretrainConfig
    reasons: dict[str, str]
    summary: str
    steps_per_epoch: int
    estimate: Estimate
    start: str | None = None
    alternatives: tuple[Alternative, ...] = ()
    measured: str | None = None

    def tables(self) -> Sequence[TextTable | str]:
        """The chosen settings with their reasons, then time and memory; or what budgets would train."""
        estimate = self.estimate
        if self.alternatives:
            header = ("time", "method", "network", "pixels", "crops", "epochs", "images seen")
            rows = TextTable(header, tuple(each.cells for each in self.alternatives), "<<<><>>")
            how = "add --time 1h, or any other time, to see each choice with its reason; pretrain with the same words trains it"
            lines = [] if self.measured is None else [self.measured]
            return [rows, "", *lines, how, f"from {estimate.basis}, scaled by counted operations"]
        phases = {
            "start": estimate.starting,
            "filling the memory": estimate.filling,
            "training": estimate.training,
            "refreshes": estimate.refreshes,
            "label-free metrics": estimate.evaluating,
            "report": estimate.reporting,
        }
        parts = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in phases.items() if seconds >= 0.5)
        settings = TextTable(("setting", "value", "reason"), tuple(explain(self.config, self.reasons)))
        memory = (
            f"about {estimate.memory / 2**30:.2f} GiB: {estimate.main_memory / 2**30:.2f} in the main process, "
            f"{estimate.worker_memory / 2**30:.2f} in loader processes"
        )
        lines = [
            "",
            self.summary,
            *([] if self.start is None else [f"starts from {self.start}"]),
            f"time    about {format_duration(estimate.seconds)}: {parts} ({estimate.step:.3g} s per step)",
            f"memory  {memory if estimate.memory else 'not measured, as images or parts were given in Python'}",
        ]
        if estimate.device_memory:
            lines.append(f"device  about {estimate.device_memory / 2**30:.2f} GiB of tensors")
        return [settings, *lines, f"from {estimate.basis}, on this machine as busy as it was then"]


def estimate(
    config: PretrainConfig,
    images: int,
    rehearsal: Rehearsal,
    *,
    before: float = 0.0,
    start: int = 0,
    label_free_images: int = 0,
    report_images: int = 0,
) -> Estimate:
    """Extrapolate a rehearsal to a whole run.

    Args:
        config: settings of the run.
        images: number of images in its source.
        rehearsal: what was measured.
        before: seconds from the start of the process to the first batch.
        start: steps already done, which leave less to do.
        label_free_images: number of images that the label-free metrics embed over the run, including augmented views.
        report_images: number of images that the report embeds; 0: there is no report.
    """
    per_epoch, rule, total = images // config.batch_size, config.refresh, config.total_steps(images)
    steps, refreshes = total - start, 0
    if rule is not None:
        every = rule.every_steps or rule.every_epochs * per_epoch
        refreshes = -(-total // every) - -(-start // every)
    return Estimate(
        starting=before + rehearsal.first,
        filling=0.0 if start else rehearsal.filling * per_epoch,
        training=rehearsal.step * steps,
        refreshes=rehearsal.refresh * refreshes,
        evaluating=rehearsal.embedding * label_free_images * steps / total,
        reporting=rehearsal.embedding * report_images + (MAP_SECONDS if report_images else 0.0),
        step=rehearsal.step,
        steps=rehearsal.steps,
        main_memory=rehearsal.main,
        worker_memory=rehearsal.workers,
        device_memory=rehearsal.device,
        basis=rehearsal.basis,
    )
