"""What a profile found: where the time of a step goes, what holds it up, and what to change."""

import math
from dataclasses import dataclass
from importlib.util import find_spec

from coterie.config.schema import PretrainConfig
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
"""What a step is for; all else is better small."""
WORTH_IT = 0.1
"""A share of the step that is worth a change."""

LABELS = {
    WAITING: "waiting for data",
    COPY: "copying, normalizing",
    STUDENT: "forward, the student",
    TEACHER: "forward, the teacher",
    GROUPING: "grouping and loss",
    BACKWARD: "backward",
    OPTIMIZER: "optimizer",
    BOOKKEEPING: "bookkeeping",
    READ: "read",
    DECODE: "decode",
    CROP: "crop, mirror",
    COLOR: "color, blur",
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
        stages: of one core for one image in a loader worker, by name (``loader_stages.STAGES``).
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
    def advice(self) -> tuple[str, ...]:
        """What to change, one to three lines, the most important first."""
        said = {
            part: _ADVICE[part] for part in (GROUPING, OPTIMIZER, BOOKKEEPING, COPY) if self.shares[part] >= WORTH_IT
        }
        if self.device == "cpu" and self.config.views.engine == "gpu" and COPY in said:
            said[COPY] = "--set views.engine=cpu, as there is no GPU"
        lines = [
            f"{label(self, part)} {percent(self.shares[part])} of a step: {mend}"
            for part, mend in sorted(said.items(), key=lambda pair: -self.shares[pair[0]])
        ]
        if self.shares[WAITING] >= WORTH_IT:
            waits = f"the network waits {percent(self.shares[WAITING])} of the time for images"
            mend = "; or ".join(_faster_loading(self))
            lines.insert(0, f"{waits}: {mend}")
        if self.refreshing >= WORTH_IT:
            lines.append(f"refreshes take {percent(self.refreshing)} of the time: a larger refresh.every_epochs")
        if not lines:
            atwork = percent(sum(self.shares[part] for part in NETWORK))
            mends = "a smaller --backbone or smaller views.crops" + (", or a CUDA device" * (self.device == "cpu"))
            lines = [f"none: the network is at work {atwork} of the time; only {mends} would make a step shorter"]
        return tuple(lines[:3])


_ADVICE = {
    GROUPING: "fewer groups (groups.counts) or a shorter memory (memory.length), if there are so many",
    OPTIMIZER: "a larger --batch-size spreads it over more images",
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
    if found.device == "cuda" and shares[COLOR] >= 0.25:
        mends.append("--set views.engine=gpu")
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


def label(found: Profile, name: str) -> str:
    """What a part of a step or a stage of loading is called in tables."""
    return "copying, coloring" if name == COPY and found.config.views.engine == "gpu" else LABELS[name]


def percent(share: float) -> str:
    """A share as whole percent."""
    return f"{100 * share:.0f} %"
