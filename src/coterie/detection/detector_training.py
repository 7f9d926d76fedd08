"""The training of detectors: torchvision's losses, SGD, and the steps of a schedule."""

from collections.abc import Iterator
from typing import final

from torch import Tensor, nn
from torch.optim import SGD
from torchvision.models.detection import MaskRCNN

from coterie.config.hardware import Runtime
from coterie.detection.boxes import BoxedSource
from coterie.detection.schedules import DetectionSchedule, rate_at
from coterie.detection.training_images import DetectionBatch, training_batches
from coterie.training.supervised_training import SupervisedTraining, decaying_groups


@final
class DetectorTraining(SupervisedTraining[DetectionBatch]):
    """A detector that is trained in place, on the images of a file of boxes."""

    what = "training a detector"

    def __init__(
        self,
        network: nn.Module,
        boxed: BoxedSource,
        schedule: DetectionSchedule,
        total_steps: int,
        seed: int,
        runtime: Runtime,
    ) -> None:
        """Begin with the first step.

        Args:
            network: a detector in training mode, on the runtime's device.
            boxed: images and boxes.
            schedule: optimizer, batch size and learning rates.
            total_steps: how many there are.
            seed: for the order of images, their flips, and what the detector draws.
            runtime: where and how to compute; its logger shows progress.
        """
        groups = decaying_groups(network, schedule.weight_decay)
        optimizer = SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum)
        super().__init__(network, optimizer, total_steps, seed, runtime)
        self.boxed, self.schedule = boxed, schedule

    def _batches(self, steps: range) -> Iterator[DetectionBatch]:
        channels = len(self.network.transform.image_mean)  # type: ignore[union-attr, arg-type]
        return training_batches(
            self.boxed,
            channels,
            self.schedule.batch_size,
            steps,
            self.seed,
            self.runtime.workers,
            masks=isinstance(self.network, MaskRCNN),
        )

    def _losses_of(self, batch: DetectionBatch) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = self.network(batch.images, batch.targets)
        return parts

    def _rate(self, step: int) -> float:
        return rate_at(self.schedule, step, self.total_steps)
