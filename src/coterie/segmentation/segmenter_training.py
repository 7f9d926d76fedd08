"""The training of segmenters: the cross entropy of each pixel, and the steps of a schedule."""

from collections.abc import Iterator
from typing import final

from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer

from coterie.config.hardware import Runtime
from coterie.segmentation.classes import IGNORED
from coterie.segmentation.masks import MaskedSource
from coterie.segmentation.network import SegmentationNetwork, SegmenterSettings
from coterie.segmentation.schedules import SegmentationSchedule, rate_at
from coterie.segmentation.training_images import SegmentationBatch, padded_labels, training_batches
from coterie.training.supervised_training import SupervisedTraining, decaying_groups

MOMENTUM = 0.9


@final
class SegmenterTraining(SupervisedTraining[SegmentationBatch]):
    """A segmenter that is trained in place, on images with masks."""

    what = "training a segmenter"
    network: SegmentationNetwork

    def __init__(
        self,
        network: SegmentationNetwork,
        masked: MaskedSource,
        settings: SegmenterSettings,
        schedule: SegmentationSchedule,
        total_steps: int,
        seed: int,
        runtime: Runtime,
    ) -> None:
        """Begin with the first step.

        Args:
            network: in training mode, on the runtime's device.
            masked: images and masks.
            settings: of the segmenter.
            schedule: optimizer, batch size and learning rates.
            total_steps: how many there are.
            seed: for the order of images, their scales, crops and flips, and what the network drops.
            runtime: where and how to compute; its logger shows progress.
        """
        super().__init__(network, _optimizer(network, schedule), total_steps, seed, runtime)
        self.masked, self.settings, self.schedule = masked, settings, schedule

    def _batches(self, steps: range) -> Iterator[SegmentationBatch]:
        channels, workers = len(self.network.mean), self.runtime.workers
        return training_batches(self.masked, channels, self.settings, self.schedule, steps, self.seed, workers)

    def _losses_of(self, batch: SegmentationBatch) -> dict[str, Tensor]:
        """The mean over the pixels that have a class; 0 if none has."""
        scores = self.network(batch.images)
        labels = padded_labels(batch.labels, scores.shape[2:]).long()
        total = F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")
        return {"pixels": total / (labels != IGNORED).sum().clamp(min=1)}

    def _rate(self, step: int) -> float:
        return rate_at(self.schedule, step, self.total_steps)


def _optimizer(network: SegmentationNetwork, schedule: SegmentationSchedule) -> Optimizer:
    groups = decaying_groups(network, schedule.weight_decay)
    if schedule.optimizer == "sgd":
        return SGD(groups, lr=schedule.learning_rate, momentum=MOMENTUM)
    return AdamW(groups, lr=schedule.learning_rate)
