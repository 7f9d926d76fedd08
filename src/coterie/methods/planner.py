"""Plans automatic values: what follows from the images and from what the user requested, each with its reason."""

from dataclasses import replace
from typing import TypeVar

from coterie.config.choice import Scale
from coterie.config.facts import SMALL_SIDE, Facts
from coterie.models.backbone import BackboneConfig, is_resnet
from coterie.models.backbone_of_weights import FoundBackbone

Value = TypeVar("Value")

SMALL_STEM_SIDE = 64
"""Largest side for which a ResNet keeps the resolution in its first layers: a standard stem would leave 2 x 2 pixels of 32."""
BATCH_GROUPS = 8
"""At most so many groups for each image of a batch that alone has to balance them."""
MOST_ROWS = 1_281_167
"""Most rows of a memory: the number of ImageNet's images, as published."""
LABEL_STEPS = 240
"""Fewest steps between two changes of labels that are kept."""
PUBLIC_SIDE = 224
"""Side of the images that public weights were trained at, where they do not say it."""
SEEN_FROM_WEIGHTS = 1500
"""Images to see in all where a run goes on from weights: minutes of a CPU."""
MOST_ENLARGED = 4.0
"""At most so many times small images are enlarged for weights: what a standard stem reduces more than a small one does."""


class Planner:
    """Chooses automatic values from facts and requests; ``reasons`` collects why, under the path of each setting.

    A preset calls it for what its recipe leaves open. The user's requests (``epochs``, ``batch_size``, ``backbone``, ``start``)
    are here too, because other values follow from them.
    """

    def __init__(
        self,
        facts: Facts,
        *,
        epochs: int | None = None,
        batch_size: int | None = None,
        backbone: str | None = None,
        start: FoundBackbone | None = None,
        scale: Scale | None = None,
    ) -> None:
        """Plan for these images; requests that are None are chosen.

        ``start`` is the network in the weights to start from, ``scale`` what a budget chooses: images that are seen at another
        size than their own are planned for as images of that size, which are small.
        """
        self.scale = scale or Scale()
        self.facts = facts if self.scale.side is None else replace(facts, side=self.scale.side, reduced=True)
        self.start = start
        self.requested_epochs, self.requested_batch_size, self.requested_backbone = epochs, batch_size, backbone
        self.reasons: dict[str, str] = {}
        self._batch_size = self._epochs = 0

    @property
    def learns_anew(self) -> bool:
        """Whether small images are learned from new weights: as a search found best (``docs/log.md``), not as published."""
        return self.facts.small and self.start is None

    def because(self, path: str, value: Value, reason: str) -> Value:
        """Return ``value``, and record its reason under the path of the setting."""
        self.reasons[path] = reason
        return value

    def batch_size(self, published: int | None = None) -> int:
        """256, or the largest power of two that leaves at least 64 batches per epoch, but at least 32 images.

        The result of the first call stays: a published preset passes its own value before calling what depends on it. Its
        learning rate is the published one at any batch size, and the reasons say so where that is another.
        """
        if not self._batch_size:
            self._batch_size = self.requested_batch_size or published or self._fitting_batch()
            steps = self.facts.images // self._batch_size
            why = "as published" if published else f"up to 256, as long as an epoch has 64 steps ({steps})"
            self.reasons["batch_size"] = "requested" if self.requested_batch_size else why
            if published and self._batch_size != published:
                why = f"as published for batch {published}, not scaled to your batch of {self._batch_size}"
                self.reasons["learning_rate.peak"] = why
        return self._batch_size

    def _fitting_batch(self) -> int:
        size = 256
        while size > 32 and self.facts.images < 64 * size:
            size //= 2
        return min(size, self.facts.images)

    def epochs(self, published: int | None = None) -> int:
        """Enough to see about ten million images, between 20 and 400 epochs; the result of the first call stays.

        From weights, which need to learn only what is different in these images: 1,500 images, between 1 and 20 epochs.
        """
        if not self._epochs:
            (least, most), wanted = ((20, 400), 10_000_000) if self.start is None else ((1, 20), SEEN_FROM_WEIGHTS)
            fitting = max(least, min(most, round(wanted / self.facts.images)))
            self._epochs = self.requested_epochs or published or fitting
            bound = "" if least < fitting < most else f", within {least} to {most} epochs"
            seen = fitting * self.facts.images
            images = "ten million" if self.start is None else f"{wanted:,}"
            why = "as published" if published else f"to see about {images} images{bound}: {seen}"
            self.reasons["epochs"] = "requested" if self.requested_epochs else why
        return self._epochs

    def backbone(self, published: BackboneConfig | None = None) -> BackboneConfig:
        """The network: of the weights to start from, or as requested or published, or else chosen from the images.

        ResNet-18 for small images, ResNet-50 for others. A ResNet that is not published has a small stem for small images.
        """
        if self.start is not None:
            return self._backbone_of_weights(self.start, published)
        if published is not None:
            name = self.requested_backbone or published.name
            self.reasons["backbone.name"] = "requested" if self.requested_backbone else "as published"
            return replace(published, name=name, channels=self.facts.channels)
        side, small = self.facts.side, self.facts.small
        why = f"images of {side} pixels are {'small' if small else 'large'} (small: up to {SMALL_SIDE})"
        chosen = None if self.requested_backbone else self.scale.network
        name = self.requested_backbone or chosen or ("resnet18" if small else "resnet50")
        self.reasons["backbone.name"] = "requested" if self.requested_backbone else why
        backbone = BackboneConfig(name=name, channels=self.facts.channels)
        if chosen is not None:
            self.reasons["backbone.width"] = why
            backbone = replace(backbone, width=self.scale.width)
        if not is_resnet(name):
            return backbone
        if side <= SMALL_STEM_SIDE:
            self.reasons["backbone.stem"] = f"images of {side} pixels: keep the resolution"
            return replace(backbone, stem="small")
        self.reasons["backbone.stem"] = f"images of {side} pixels: the network's own"
        return backbone

    def _backbone_of_weights(self, start: FoundBackbone, published: BackboneConfig | None) -> BackboneConfig:
        found, default, why = start.config, BackboneConfig(), "from the weights"
        self.reasons["backbone.name"] = "requested" if self.requested_backbone else why
        if is_resnet(found.name):
            self.reasons["backbone.stem"] = why
        if found.width != default.width:
            self.reasons["backbone.width"] = why
        if found.mlp_norm != default.mlp_norm:
            self.reasons["backbone.mlp_norm"] = why
        drop_path = 0.0 if published is None else published.drop_path
        return replace(found, channels=self.facts.channels, drop_path=drop_path)

    def enlargement(self) -> float:
        """How many times small images are enlarged, so that the weights to start from see sizes near those they know.

        ImageNet networks reduce an image 32 times: of the 24 pixels of a crop of CIFAR-10 they would leave one.
        """
        if self.start is None or self.start.config.stem == "small":
            return 1.0
        trained_at = self.start.image_size or PUBLIC_SIDE
        return max(1.0, min(MOST_ENLARGED, trained_at / self.facts.side))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the images."""
        return max(1, self.facts.images // self.batch_size())

    def groups(self, heads: int = 1) -> tuple[int, ...]:
        """The number of groups of each head.

        One per hundred images, at most 3,000, but at least 100 if that leaves twenty images per group: an order of magnitude
        above the number of classes is the authors' rule (swav#37). And no more than the run can train: one per 2,000 images
        seen (500 groups stood still for 340,000 images of CIFAR-10, 100 moved from the first epoch: ``docs/log.md``).
        """
        images, seen = self.facts.images, self.facts.images * self.epochs()
        least = max(2, min(100, images // 20))
        by_images = max(least, min(3000, round(images / 1000) * 10))
        count = max(least, min(by_images, round(seen / 20_000) * 10))
        why = f"no more than {seen} images seen can train"
        if count == by_images:
            why = f"one per hundred of {images} images, at least {least} and at most 3000"
        return self.because("groups.counts", (count,) * heads, why)

    def groups_of_batch(self) -> tuple[int, ...]:
        """The number of groups of one head, as of :meth:`groups`, but no more than a batch alone can balance."""
        (count,), most = self.groups(), BATCH_GROUPS * self.batch_size()
        if count <= most:
            return (count,)
        return self.because("groups.counts", (most,), f"{BATCH_GROUPS} for each image of a batch, which balances them")

    def groups_momentum(self) -> float:
        """Beta of the groups of small images: 0.5; at SMoG's 0.99 they lag behind the network (``docs/log.md``)."""
        return self.because("groups.momentum.value", 0.5, "a short run: groups that follow the network at once")

    def label_epochs(self) -> int:
        """Epochs between two changes of labels: one, as published, but at least 240 steps, or a quarter of a shorter run.

        Published epochs have 312 steps and more. Where labels changed every 78 steps, the rank of the features fell epoch by
        epoch until little but one direction was left (``docs/log.md``).
        """
        epochs = min(-(-LABEL_STEPS // self.steps_per_epoch), max(1, self.epochs() // 4))
        steps = epochs * self.steps_per_epoch
        why = f"labels change every {steps} steps: {LABEL_STEPS} or more, and at most a quarter of the run"
        return self.because("refresh.every_epochs", epochs, why)

    def frozen_steps(self) -> int:
        """One epoch, as published, but a twentieth of a run of fewer than 20 epochs; none for small images."""
        if self.facts.small:
            return self.because("groups.frozen_steps", 0, "small images: freezing the groups gains nothing")
        if self.epochs() < 20:  # a single pass would be over before the groups had moved
            steps = self.steps_per_epoch * self.epochs() // 20
            return self.because("groups.frozen_steps", steps, "a twentieth of a run of few epochs")
        return self.because("groups.frozen_steps", self.steps_per_epoch, "one epoch, as published")

    def sinkhorn_temperature(self) -> float:
        """Epsilon: 0.05 as published; 0.02 for small images, where sharper codes learn faster (``docs/log.md``)."""
        if self.facts.small:
            return self.because(
                "assignment.temperature", 0.02, "small images learn faster from sharper codes than 0.05"
            )
        return self.because("assignment.temperature", 0.05, "as published")

    def self_assignment_temperature(self) -> float:
        """Epsilon of ReSA: 0.05 as published; 0.01 for small images, whose features are close to each other in short runs."""
        if self.facts.small:
            why = "small images: at 0.05 most of a batch counts as alike in a short run"
            return self.because("assignment.temperature", 0.01, why)
        return self.because("assignment.temperature", 0.05, "as published")

    def queue(self, groups: int) -> int:
        """Length of the queue that gives a balanced assignment about two rows per group; 0 if the batch alone has them."""
        batch = self.batch_size()
        missing = 2 * groups - batch
        length = -(-missing // batch) * batch if missing > 0 else 0
        if not length:
            self.reasons["memory"] = f"not needed: a batch of {batch} has two rows for each of {groups} groups"
            return 0
        return self.because("memory.length", length, f"with the batch of {batch}, two rows for each of {groups} groups")

    def queue_epoch(self) -> int:
        """The epoch in which the queue starts: the second, if there is one."""
        if self.epochs() == 1:
            return self.because("memory.start_epoch", 0, "a single pass has no later epoch")
        return self.because("memory.start_epoch", 1, "after the first epoch, when embeddings have begun to settle")

    def epoch_memory(self) -> int:
        """Length of a memory of one epoch, at most ImageNet's."""
        epoch = self.steps_per_epoch * self.batch_size()
        why = "one epoch, as published" if epoch <= MOST_ROWS else f"as published, less than an epoch of {epoch} rows"
        return self.because("memory.length", min(epoch, MOST_ROWS), why)
