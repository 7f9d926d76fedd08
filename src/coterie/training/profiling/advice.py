"""The results of a profile: where the time of a step goes, what limits it, and what to change."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from coterie.config.schema import PretrainConfig
from coterie.formatting import format_duration, format_number
from coterie.table import ShownInTables, TextTable
from coterie.training.profiling.loader_stages import COLOR, CROP, DECODE, READ, STACK

WAITING, COPY, STUDENT, TEACHER, GROUPING, BACKWARD, OPTIMIZER, BOOKKEEPING = PARTS = (
    "waiting",
    "copy",
    "student",
    "teacher",
    "grouping",
    "backward",
    "optimizer",
    "bookkeeping",
)
NETWORK = (STUDENT, TEACHER, BACKWARD)
"""The parts that are the purpose of a step; all others should be small."""
WORTH_ADVICE = 0.1
"""Smallest share of a step for which there is advice."""

LABELS = {
    WAITING: "waiting for data",
    COPY: "copying, normalizing",
    STUDENT: "forward, student",
    TEACHER: "forward, teacher",
    GROUPING: "grouping and loss",
    BACKWARD: "backward",
    OPTIMIZER: "optimizer",
    BOOKKEEPING: "bookkeeping",
    READ: "read",
    DECODE: "decode",
    CROP: "crop, mirror",
    COLOR: "color, blur",
    STACK: "parameters, stacking",
}
"""What each part of a step and each stage of loading is called in tables."""


@dataclass(frozen=True)
class Profile(ShownInTables):
    """Where the time of a run goes; times in seconds, memory in bytes. ``print`` shows what ``coterie profile`` prints.

    Attributes:
        config: every setting.
        summary: the run in one line.
        parts: time of each part of a step, by name (:data:`PARTS`); they add up to a step that is timed in parts.
        step: time of a normal step; on a CUDA device it is measured without timing parts, so that they overlap.
        steps: number of steps timed in parts.
        stages: time of one core per image for each stage of a loader worker, by name (``loader_stages.STAGES``).
        jpeg: whether most images are JPEG files.
        preparing: time to decode all images, once, if they are kept on the device; 0: they are not.
        filling: time per batch of the pass that fills the memory before the first step; 0: there is none.
        refresh: time of one refresh (k-means and labels); 0: there is none.
        steps_per_epoch: whole batches in the images.
        device: type of the device that trains: ``cpu`` or ``cuda``.
        workers: processes that load images.
        cores: cores that this process may use.
        main_memory: peak memory of this process so far (VmHWM).
        worker_memory: memory of the loader processes in addition, counting only pages that they do not share.
        device_memory: peak memory of tensors on a CUDA device.
    """

    config: PretrainConfig
    summary: str
    parts: dict[str, float]
    step: float
    steps: int
    stages: dict[str, float]
    jpeg: bool
    preparing: float
    filling: float
    refresh: float
    steps_per_epoch: int
    device: str
    workers: int
    cores: int
    main_memory: int
    worker_memory: int
    device_memory: int = 0

    @property
    def shares(self) -> dict[str, float]:
        """The share of each part in a step, by name."""
        total = sum(self.parts.values())
        return {part: seconds / total for part, seconds in self.parts.items()}

    @property
    def image(self) -> float:
        """Seconds of one core to load an image."""
        return sum(self.stages.values())

    @property
    def enough_workers(self) -> int:
        """The number of workers, each on its own core, that would keep up with the rest of a step."""
        busy = sum(self.parts.values()) - self.parts[WAITING]
        return math.ceil(self.config.batch_size * self.image / busy)

    @property
    def refreshing(self) -> float:
        """The share of the total time that refreshes take."""
        rule = self.config.refresh
        if rule is None:
            return 0.0
        steps = rule.every_steps or rule.every_epochs * self.steps_per_epoch
        return self.refresh / (self.refresh + steps * self.step)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to change: one to three lines, the most important first."""
        changes = {
            part: _ADVICE[part]
            for part in (GROUPING, OPTIMIZER, BOOKKEEPING, COPY)
            if self.shares[part] >= WORTH_ADVICE
        }
        if self.device == "cpu" and self.config.views.engine == "gpu" and COPY in changes:
            changes[COPY] = "use --set views.engine=cpu, as there is no GPU"
        lines = [
            f"{part_label(self, part)} takes {percent(self.shares[part])} of a step: {change}"
            for part, change in sorted(changes.items(), key=lambda pair: -self.shares[pair[0]])
        ]
        if self.shares[WAITING] >= WORTH_ADVICE:
            waits = f"training waits for images {percent(self.shares[WAITING])} of the time"
            lines.insert(0, f"{waits}: {'; or '.join(_faster_loading(self))}")
        if self.refreshing >= WORTH_ADVICE:
            lines.append(f"refreshes take {percent(self.refreshing)} of the time: use a larger refresh.every_epochs")
        if not lines:
            busy = percent(sum(self.shares[part] for part in NETWORK))
            changes_left = "a smaller --backbone or smaller views.crops" + (
                ", or a CUDA device" * (self.device == "cpu")
            )
            lines = [f"none: the network computes {busy} of the time; only {changes_left} would shorten a step"]
        return tuple(lines[:3])

    def tables(self) -> Sequence[TextTable | str]:
        """The parts of a step, the stages of loading an image, and what follows from them."""
        # List a teacher only if there is one, and no stages that workers leave to the device.
        parts = {part: seconds for part, seconds in self.parts.items() if seconds or part != TEACHER}
        stages = {stage: seconds for stage, seconds in self.stages.items() if seconds}
        untimed = ("  without timing parts", format_number(1000 * self.step), "")
        title, *rows = _part_rows(self, f"a step of {self.config.batch_size} images", parts)
        rows += [untimed] if self.device == "cuda" else []
        rows += [("", "", ""), *_part_rows(self, "an image in a worker", stages)]
        return [TextTable(title, tuple(rows), "<>>"), "", self.summary, *_facts(self)]


_ADVICE = {
    GROUPING: "use fewer groups (groups.counts) or a shorter memory (memory.length)",
    OPTIMIZER: "use a larger --batch-size, which spreads it over more images",
    BOOKKEEPING: "use a larger run.log_steps",
    COPY: "use fewer or smaller views.crops",
}


def _faster_loading(profile: Profile) -> list[str]:
    """Up to two changes that would load images faster, the most certain first."""
    enough, available = profile.enough_workers, max(1, profile.cores - 1)
    shares = {stage: seconds / profile.image for stage, seconds in profile.stages.items()}
    changes = []
    if profile.workers < min(enough, available):
        changes.append(f"use --set run.workers={min(enough, available)} (now {profile.workers})")
    if profile.device == "cuda" and shares[COLOR] >= 0.25:
        changes.append("use --set views.engine=gpu")
    if shares[DECODE] >= 0.25 and profile.jpeg and find_spec("simplejpeg") is None:
        changes.append("pip install 'coterie[fast]', which decodes faster")
    if shares[READ] >= 0.25:
        changes.append("use a faster disk, or pack the files into a few tar or parquet files")
    if enough > available and len(changes) < 2:
        cores = f"{profile.cores} core{'s' * (profile.cores > 1)}"
        changes.append(f"use more cores: {enough} workers would keep up, but there are {cores}")
        if shares[DECODE] >= 0.25:
            changes.append("use smaller copies of the images")
    if not changes:
        changes.append(f"{enough} workers would keep up with a core each, so let nothing else use the cores")
    return changes[:2]


def part_label(profile: Profile, name: str) -> str:
    """The label of a part of a step or of a stage of loading, for tables."""
    return "copying, coloring" if name == COPY and profile.config.views.engine == "gpu" else LABELS[name]


def percent(share: float) -> str:
    """Format a share as whole percent."""
    return f"{100 * share:.0f} %"


def _facts(profile: Profile) -> list[str]:
    """Speed, memory and advice, one line each."""
    total, batch = sum(profile.parts.values()), profile.config.batch_size
    keep_up = "1 keeps up" if profile.enough_workers == 1 else f"{profile.enough_workers} would keep up"
    one_worker = f"a worker with a core of its own loads {format_number(1 / profile.image)}"
    lines = [
        f"speed    {format_number(batch / profile.step)} images/s; {one_worker}, so {keep_up} with the rest of a step (now "
        f"{profile.workers}, on {profile.cores} cores)"
    ]
    if profile.preparing:
        lines.append(f"images   are kept on the device; decoding them once takes {format_duration(profile.preparing)}")
    if profile.filling:
        seconds = format_duration(profile.filling * profile.steps_per_epoch)
        lines.append(f"filling  the memory before the first step takes about {seconds}")
    if profile.refresh:
        lines.append(f"refresh  {format_number(profile.refresh)} s each: {percent(profile.refreshing)} of the time")
    main, loading = profile.main_memory / 2**30, profile.worker_memory / 2**30
    memory = f"memory   {main:.2f} GiB in the main process, {loading:.2f} in loader processes"
    if profile.device_memory:
        memory += f"; {profile.device_memory / 2**30:.2f} GiB of tensors on the device"
    part = max(profile.parts, key=lambda name: profile.parts[name])
    stage = max(profile.stages, key=lambda name: profile.stages[name])
    lines += [
        memory,
        f"slowest  part of a step: {part_label(profile, part)}, {percent(profile.parts[part] / total)}; stage of loading an "
        f"image: {LABELS[stage]}, {percent(profile.stages[stage] / profile.image)}",
    ]
    return [
        *lines,
        *(f"advice   {line}" for line in profile.advice),
        f"from {profile.steps} step{'s' * (profile.steps > 1)} timed in parts on this machine",
    ]


def _part_rows(profile: Profile, title: str, seconds: dict[str, float]) -> list[tuple[str, str, str]]:
    total = sum(seconds.values())
    return [
        (title, "ms", "share"),
        *(
            (f"  {part_label(profile, each)}", format_number(1000 * spent), percent(spent / total))
            for each, spent in seconds.items()
        ),
        ("  total", format_number(1000 * total), ""),
    ]
