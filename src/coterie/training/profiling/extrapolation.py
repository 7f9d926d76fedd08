"""What a rehearsal measured, and how it is extrapolated from a part of a batch to a whole one."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal measured: seconds, and bytes of memory.

    Attributes:
        step: a step, with the loading that its workers cannot hide.
        filling: a batch of the pass that fills the memory; 0: there is none.
        refresh: a refresh of the full memory; 0: there is none.
        embedding: embedding an image for the label-free metrics and the report.
        first: by how much the first step was slower.
        ready: from the start of the process to its first batch, where it was a process of its own; else 0.
        batch: images of a whole batch.
        part: images of the largest step that was made: fewer than ``batch`` where a whole one takes too long.
        steps: number of steps.
        day: when it was, as 2026-11-29.
        main: peak memory of the main process; 0: not measured.
        workers: memory of the loader processes that they do not share.
        device: peak memory of tensors on a CUDA device.
        real: whether the time of a step is that of a real run.
        cached: whether it was read from the cache.
        threads: CPU threads of those steps; 0: not known.
        why: why that number was taken; empty: there was no other one.
    """

    step: float
    filling: float
    refresh: float
    embedding: float
    first: float
    batch: int
    part: int
    steps: int
    day: str
    ready: float = 0.0
    main: int = 0
    workers: int = 0
    device: int = 0
    real: bool = False
    cached: bool = False
    threads: int = 0
    why: str = ""

    @property
    def basis(self) -> str:
        """What the time of a step was measured on, and when."""
        steps = f"{self.steps} step{'s' * (self.steps > 1)}"
        if self.real:
            return f"{steps} of a run on {self.day}"
        part = f" of {self.part} of the {self.batch} images" if self.part < self.batch else ""
        return f"{steps}{part}, rehearsed {f'on {self.day}' if self.cached else 'just now'}"


@dataclass(frozen=True)
class Timed:
    """The times of steps of so many images.

    Attributes:
        images: images of each step.
        steps: number of steps.
        work: time of a step once its batch is there.
        cpu: CPU time of all threads in it; on a CUDA device, which a thread waits for, ``work``.
        load: time of one core to load its images.
        filling: time of a batch of the filling pass, its loading included.
        refresh: time of a refresh.
        first: by how much the first step was slower.
        workers: memory of the loader processes.
        step: time from one step to the next, where loader processes were at work; else 0.
        embedding: time of embedding an image.
        peak: peak memory of the process by now.
    """

    images: int
    steps: int
    work: float
    cpu: float
    load: float
    filling: float
    refresh: float
    first: float
    workers: int
    step: float
    embedding: float
    peak: int


def whole_batch(small: Timed, large: Timed, images: int) -> Timed:
    """Extrapolate steps of ``small.images`` and of ``large.images`` to steps of so many images.

    Every time is a straight line in the number of images, with a part that does not depend on it (optimizer, teacher) between
    nothing and half of the time of ``large``. The line of a step is that of its CPU time, times how much longer both took by
    the clock: on a busy machine, the difference of two short times by the clock can be anything.
    """
    if images == large.images:
        return large

    def line(less: float, more: float) -> float:
        slope = (more - less) / (large.images - small.images)
        slope = min(max(slope, 0.5 * more / large.images), more / large.images)
        return more + slope * (images - large.images)

    cpu = line(small.cpu, large.cpu)
    return replace(
        large,
        images=images,
        work=cpu * (small.work + large.work) / (small.cpu + large.cpu),
        cpu=cpu,
        load=(small.load + large.load) * images / (small.images + large.images),
        filling=line(small.filling, large.filling),
        peak=round(
            large.peak + max(0, large.peak - small.peak) / (large.images - small.images) * (images - large.images)
        ),
    )


def overlapped(work: float, cpu: float, load: float, workers: int, cores: int) -> float:
    """The time of a step while loader processes prepare the next batches: bounded by the step, the workers, and the cores.

    Args:
        work: time of a step once its batch is there.
        cpu: CPU time of all threads in it.
        load: time of one core to load the images of a batch.
        workers: loader processes; 0: the main process loads them between two steps.
        cores: cores for all of that.
    """
    if not workers:
        return work + load
    return max(work, load / workers, (cpu + load) / cores)


def affordable(smallest: int, whole: int, per_image: float, seconds: float) -> int:
    """The images of a step, of which two fit into the time: a whole batch, or a part of it that doubles the smallest.

    Args:
        smallest: images of the steps that were timed.
        whole: images of a batch.
        per_image: time of such a step, by image.
        seconds: the time that is left.
    """
    if 2 * per_image * whole <= seconds:
        return whole
    images = 2 * smallest
    while 2 * per_image * 2 * images <= seconds:
        images *= 2
    return min(images, whole)
