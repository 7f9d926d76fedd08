"""What a profile found: where the time of a step goes, what holds it up, and what to change."""

import math
from dataclasses import dataclass
from importlib.util import find_spec

from coterie.config import PretrainConfig
from coterie.evaluation.drawing import duration, number
from coterie.stages import COLOUR, CROP, DECODE, READ, STACK

WAITING, COPY, STUDENT, TEACHER, GROUPING, BACKWARD, OPTIMISER, BOOKKEEPING = PARTS = (
    "waiting",
    "copy",
    "student",
    "teacher",
    "grouping",
    "backward",
    "optimiser",
    "bookkeeping",
)
NETWORK = (STUDENT, TEACHER, BACKWARD)
"""What a step is for; all else is better small."""
WORTH_IT = 0.1
"""A share of the step that is worth a change."""

_LABELS = {
    WAITING: "waiting for data",
    COPY: "copying, normalising",
    STUDENT: "forward, the student",
    TEACHER: "forward, the teacher",
    GROUPING: "grouping and loss",
    BACKWARD: "backward",
    OPTIMISER: "optimiser",
    BOOKKEEPING: "bookkeeping",
    READ: "read",
    DECODE: "decode",
    CROP: "crop, mirror",
    COLOUR: "colour, blur",
    STACK: "draw, stack",
}


@dataclass(frozen=True)
class Profile:
    """Where the time goes; times in seconds, memory in bytes.

    Attributes:
        config: every setting.
        summary: one line.
        parts: of a step, by name (:data:`PARTS`); they sum up to a step that is timed in parts.
        step: a step as a run makes it; on a CUDA device it is measured without the timing of parts, which then overlap.
        steps: how many were timed in parts.
        stages: of one core for one image in a process that loads images, by name (:data:`coterie.stages.STAGES`).
        jpeg: whether most images are JPEG files.
        preparing: decoding all images, once, where they live on the device; 0: they do not.
        filling: a batch of the pass that fills the memory before the first step; 0: there is none.
        refresh: k-means and labels, each time; 0: there are none.
        steps_per_epoch: whole batches in the images.
        device: what trains: ``cpu`` or ``cuda``.
        workers: processes that load images.
        cores: that this process may use.
        main_memory: most that this process has held at once so far (VmHWM).
        worker_memory: what the processes that load images hold beside that, each its own pages only.
        device_memory: most that tensors held on a CUDA device.
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
        """Of a step, by name of its part."""
        whole = sum(self.parts.values())
        return {part: seconds / whole for part, seconds in self.parts.items()}

    @property
    def image(self) -> float:
        """Seconds of one core that loading an image takes."""
        return sum(self.stages.values())

    @property
    def enough_workers(self) -> int:
        """How many, each on a core of its own, would load images as fast as the rest of a step takes them."""
        busy = sum(self.parts.values()) - self.parts[WAITING]
        return math.ceil(self.config.batch_size * self.image / busy)

    @property
    def refreshing(self) -> float:
        """The share of an epoch, or of the steps between two refreshes, that refreshes take."""
        rule = self.config.refresh
        if rule is None:
            return 0.0
        steps = rule.every_steps or rule.every_epochs * self.steps_per_epoch
        return self.refresh / (self.refresh + steps * self.step)

    @property
    def bottleneck(self) -> str:
        """The part of a step that is most worth a change: ``network`` where nothing else takes a tenth of it."""
        shares = {part: share for part, share in self.shares.items() if part not in NETWORK}
        worst = max(shares, key=lambda part: shares[part])
        return worst if shares[worst] >= WORTH_IT else "network"

    @property
    def advice(self) -> tuple[str, ...]:
        """What to change, one to three lines, the most important first."""
        said = {
            part: _ADVICE[part] for part in (GROUPING, OPTIMISER, BOOKKEEPING, COPY) if self.shares[part] >= WORTH_IT
        }
        if self.device == "cpu" and self.config.views.engine == "device" and COPY in said:
            said[COPY] = "--set views.engine=cpu, as there is no GPU"
        lines = [
            f"{_label(self, part)} {_percent(self.shares[part])} of a step: {mend}"
            for part, mend in sorted(said.items(), key=lambda pair: -self.shares[pair[0]])
        ]
        if self.shares[WAITING] >= WORTH_IT:
            waits = f"the network waits {_percent(self.shares[WAITING])} of the time for images"
            mend = "; or ".join(_faster_loading(self))
            lines.insert(0, f"{waits}: {mend}")
        if self.refreshing >= WORTH_IT:
            lines.append(f"refreshes take {_percent(self.refreshing)} of the time: a larger refresh.every_epochs")
        if not lines:
            atwork = _percent(sum(self.shares[part] for part in NETWORK))
            mends = "a smaller --backbone or smaller views.crops" + (", or a CUDA device" * (self.device == "cpu"))
            lines = [f"none: the network is at work {atwork} of the time; only {mends} would make a step shorter"]
        return tuple(lines[:3])


_ADVICE = {
    GROUPING: "fewer groups (groups.counts) or a shorter memory (memory.length), if there are so many",
    OPTIMISER: "a larger --batch-size spreads it over more images",
    BOOKKEEPING: "a larger run.log_steps",
    COPY: "fewer or smaller views.crops",
}


def _faster_loading(found: Profile) -> list[str]:
    """What would bring images sooner, the surest first."""
    enough, room = found.enough_workers, max(1, found.cores - 1)
    shares = {stage: seconds / found.image for stage, seconds in found.stages.items()}
    mends = []
    if found.workers < min(enough, room):
        mends.append(f"--set run.workers={min(enough, room)} (now {found.workers})")
    if found.device == "cuda" and shares[COLOUR] >= 0.25:
        mends.append("--set views.engine=device")
    if shares[DECODE] >= 0.25 and found.jpeg and find_spec("simplejpeg") is None:
        mends.append("pip install 'coterie[fast]', which decodes faster")
    if shares[READ] >= 0.25:
        mends.append("a faster disk, or the files in a few tar or parquet files")
    if enough > room and len(mends) < 2:
        cores = f"{found.cores} core{'s' * (found.cores > 1)}"
        mends.append(f"more cores, as {enough} workers would keep up and there are {cores}")
        if shares[DECODE] >= 0.25:
            mends.append("smaller copies of the images")
    if not mends:
        mends.append(f"{enough} workers with a core each would keep up, so let nothing else use the cores")
    return mends[:2]


def _label(found: Profile, name: str) -> str:
    return "copying, colouring" if name == COPY and found.config.views.engine == "device" else _LABELS[name]


def profile_lines(found: Profile) -> list[str]:
    """A profile as it is shown: a step, an image in a worker, and what follows."""
    whole, batch = sum(found.parts.values()), found.config.batch_size
    # A teacher is listed only where there is one, and what the workers leave to the device is not.
    parts = {part: seconds for part, seconds in found.parts.items() if seconds or part != TEACHER}
    stages = {stage: seconds for stage, seconds in found.stages.items() if seconds}
    rows = [
        *_rows(found, f"a step of {batch} images", parts),
        *([("  without the timing", number(1000 * found.step), "")] if found.device == "cuda" else []),
        ("", "", ""),
        *_rows(found, "an image in a worker", stages),
    ]
    first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
    table = [f"{row[0]:<{first}}  {row[1]:>{second}}  {row[2]:>{third}}".rstrip() for row in rows]
    return [*table, "", found.summary, *_facts(found, whole)]


def _facts(found: Profile, whole: float) -> list[str]:
    batch = found.config.batch_size
    keep_up = "1 keeps up" if found.enough_workers == 1 else f"{found.enough_workers} would keep up"
    lines = [
        f"speed    {number(batch / found.step)} images/s; a worker alone on a core makes {number(1 / found.image)}, so "
        f"{keep_up} with the rest of a step (now {found.workers}, on {found.cores} cores)"
    ]
    if found.preparing:
        lines.append(f"images   live on the device; decoding them, once: {duration(found.preparing)}")
    if found.filling:
        seconds = duration(found.filling * found.steps_per_epoch)
        lines.append(f"filling  the memory, once, before the first step: about {seconds}")
    if found.refresh:
        lines.append(f"refresh  {number(found.refresh)} s each: {_percent(found.refreshing)} of the time")
    memory = f"memory   {found.main_memory / 2**30:.2f} GiB, and {found.worker_memory / 2**30:.2f} what loads images"
    if found.device_memory:
        memory += f"; {found.device_memory / 2**30:.2f} GiB of tensors on the device"
    slowest, stage = max(found.parts, key=lambda p: found.parts[p]), max(found.stages, key=lambda s: found.stages[s])
    lines += [
        memory,
        f"slowest  of a step: {_label(found, slowest)}, {_percent(found.parts[slowest] / whole)}; of loading an image: "
        f"{_LABELS[stage]}, {_percent(found.stages[stage] / found.image)}",
    ]
    return [
        *lines,
        *(f"advice   {line}" for line in found.advice),
        f"from {found.steps} step{'s' * (found.steps > 1)}, timed in parts here",
    ]


def _rows(found: Profile, title: str, seconds: dict[str, float]) -> list[tuple[str, str, str]]:
    whole = sum(seconds.values())
    return [
        (title, "ms", "share"),
        *(
            (f"  {_label(found, each)}", number(1000 * spent), _percent(spent / whole))
            for each, spent in seconds.items()
        ),
        ("  together", number(1000 * whole), ""),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
