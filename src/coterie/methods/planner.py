"""Automatic values: what follows from the images and from what a person asked for, each with its reason."""

from typing import TypeVar

from coterie.config.facts import SMALL_SIDE, Facts

Value = TypeVar("Value")

SMALL_STEM_SIDE = 64
"""Up to this side a ResNet keeps its resolution in the first layers: a standard stem would leave 2 x 2 pixels of 32."""


MOST_ROWS = 1_281_167
"""A memory keeps no more rows than ImageNet has images, as published."""
LABEL_STEPS = 240
"""Labels that are kept change no sooner than after so many steps."""


class Planner:
    """Facts and wishes in, automatic values out; ``reasons`` collects why, under the path of each setting.

    A preset asks it for what its recipe leaves open. What a person asked for (``epochs``, ``batch_size``, ``backbone``) is here
    too, because other values follow from it.
    """

    def __init__(
        self, facts: Facts, *, epochs: int | None = None, batch_size: int | None = None, backbone: str | None = None
    ) -> None:
        """Plan for these images."""
        self.facts = facts
        self.asked_epochs, self.asked_batch_size, self.asked_backbone = epochs, batch_size, backbone
        self.reasons: dict[str, str] = {}
        self._batch_size = self._epochs = 0

    def because(self, path: str, value: Value, reason: str) -> Value:
        """``value``, and its reason noted under the path of the setting."""
        self.reasons[path] = reason
        return value

    def batch_size(self, published: int | None = None) -> int:
        """256, or the largest power of two that leaves at least 64 batches an epoch, but at least 32 images.

        What the first call says stays: a published preset gives its own before it asks for what follows from it.
        """
        if not self._batch_size:
            self._batch_size = self.asked_batch_size or published or self._fitting_batch()
            steps = self.facts.images // self._batch_size
            why = "as published" if published else f"up to 256, as many as leave 64 steps an epoch ({steps})"
            self.reasons["batch_size"] = "asked for" if self.asked_batch_size else why
        return self._batch_size

    def _fitting_batch(self) -> int:
        size = 256
        while size > 32 and self.facts.images < 64 * size:
            size //= 2
        return min(size, self.facts.images)

    def epochs(self, published: int | None = None) -> int:
        """Enough for about ten million images seen, between 20 and 400 epochs; what the first call says stays."""
        if not self._epochs:
            fitting = max(20, min(400, round(10_000_000 / self.facts.images)))
            self._epochs = self.asked_epochs or published or fitting
            bound = "" if 20 < fitting < 400 else ", within 20 to 400 epochs"
            seen = fitting * self.facts.images
            why = "as published" if published else f"for ten million images seen{bound}: {seen}"
            self.reasons["epochs"] = "asked for" if self.asked_epochs else why
        return self._epochs

    def backbone(self, published: str | None = None) -> str:
        """ResNet-18 for small images, ResNet-50 for others."""
        if self.asked_backbone:
            return self.because("backbone.name", self.asked_backbone, "asked for")
        if published:
            return self.because("backbone.name", published, "as published")
        side = self.facts.side
        name, size = ("resnet18", "small") if self.facts.small else ("resnet50", "large")
        return self.because("backbone.name", name, f"images of {side} pixels are {size} (the line is at {SMALL_SIDE})")

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the images."""
        return max(1, self.facts.images // self.batch_size())

    def groups(self, heads: int = 1) -> tuple[int, ...]:
        """How many groups each head gets.

        About a hundred images a group, at most 3,000, but at least 100 if that leaves twenty images a group: an order of
        magnitude above the number of classes is the authors' rule (swav#37). And no more than the run can teach: 2,000 images
        seen for each (500 groups stood still for 340,000 images of CIFAR-10, 100 moved from the first epoch: ``docs/log.md``).
        """
        images, seen = self.facts.images, self.facts.images * self.epochs()
        least = max(2, min(100, images // 20))
        by_images = max(least, min(3000, round(images / 1000) * 10))
        count = max(least, min(by_images, round(seen / 20_000) * 10))
        why = f"no more than {seen} images seen can teach"
        if count == by_images:
            why = f"one for a hundred of {images} images, at least {least} and at most 3000"
        return self.because("groups.counts", (count,) * heads, why)

    def label_epochs(self) -> int:
        """For how many epochs an image keeps its label: one, as published, but 240 steps, or a quarter of a shorter run.

        Published epochs are of 312 steps and more. Where labels changed after every 78 steps, the rank of the features fell
        epoch by epoch until little but one direction was left (``docs/log.md``).
        """
        epochs = min(-(-LABEL_STEPS // self.steps_per_epoch), max(1, self.epochs() // 4))
        steps = epochs * self.steps_per_epoch
        why = f"labels that last {steps} steps: {LABEL_STEPS} or more, and a quarter of the run at most"
        return self.because("refresh.every_epochs", epochs, why)

    def frozen_steps(self) -> int:
        """One epoch, as published, but a twentieth of a run of fewer than 20; none for small images: it would be a waste."""
        if self.facts.small:
            return self.because("groups.frozen_steps", 0, "small images: nothing is gained by waiting")
        if self.epochs() < 20:  # a single pass would be over before the groups had moved
            steps = self.steps_per_epoch * self.epochs() // 20
            return self.because("groups.frozen_steps", steps, "a twentieth of a run of few epochs")
        return self.because("groups.frozen_steps", self.steps_per_epoch, "one epoch, as published")

    def sinkhorn_temperature(self) -> float:
        """Epsilon: 0.05 as published; 0.02 for small images, where sharper codes teach sooner (``docs/log.md``)."""
        if self.facts.small:
            return self.because("assignment.temperature", 0.02, "small images: sharper codes than 0.05 teach sooner")
        return self.because("assignment.temperature", 0.05, "as published")

    def queue(self, groups: int) -> int:
        """Past rows so that a balanced assignment sees about two rows a group; 0 if the batch alone has them."""
        batch = self.batch_size()
        missing = 2 * groups - batch
        length = -(-missing // batch) * batch if missing > 0 else 0
        if not length:
            self.reasons["memory"] = f"not needed: a batch of {batch} has two rows for each of {groups} groups"
            return 0
        return self.because("memory.length", length, f"with the batch of {batch}, two rows for each of {groups} groups")

    def queue_epoch(self) -> int:
        """The epoch from which on past rows are kept: the second, if there is one."""
        if self.epochs() == 1:
            return self.because("memory.start_epoch", 0, "a single pass has no later epoch")
        return self.because("memory.start_epoch", 1, "after the first epoch, when embeddings have begun to settle")

    def epoch_memory(self) -> int:
        """One epoch of rows, and no more than ImageNet's."""
        epoch = self.steps_per_epoch * self.batch_size()
        why = (
            "one epoch, as published" if epoch <= MOST_ROWS else f"as much as is published, of an epoch of {epoch} rows"
        )
        return self.because("memory.length", min(epoch, MOST_ROWS), why)
