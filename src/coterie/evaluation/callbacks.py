"""Looks at a run while it goes on, without labels: figures, and the weights that they are of."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from coterie.config.schema import PretrainConfig
from coterie.data.sources.source import ImageSource, Subset, sample_indices
from coterie.embedding.embed import Embeddings, embed_source
from coterie.errors import NoImages
from coterie.evaluation.augmented_views import embedded_views
from coterie.evaluation.label_free import label_free
from coterie.exporting.weights import load_backbone, save_backbone
from coterie.training.student import Student, predict_groups, preprocessing_of
from coterie.types import Progress, StepResult

SAMPLED = 1000
"""Images that are looked at: the same ones at each look, evenly spaced."""


class Looks:
    """An observer of a run that looks at it ``run.snapshots`` times, evenly, at the ends of epochs.

    Each look writes ``snapshots/epoch-NNNN.safetensors``, the backbone's weights, and a line of the log with the figures of
    :func:`coterie.evaluation.label_free.label_free`. It changes nothing that is learned, and is a pure function of the weights:
    what a resumed run sees is what the whole one would have seen.
    """

    def __init__(
        self,
        folder: Path,
        source: ImageSource,
        config: PretrainConfig,
        student: Student,
        write: Callable[[dict[str, Any]], None],
        *,
        workers: int,
        device: torch.device,
    ) -> None:
        """Look at ``student``, with images of ``source``; ``write`` takes the lines."""
        self.folder, self.config, self.student, self.write = folder, config, student, write
        self.workers, self.device = workers, device
        self.sample = Subset(source, sample_indices(SAMPLED, source))
        self.earlier: tuple[str, Tensor] | None = None

    def __call__(self, progress: Progress, result: StepResult) -> None:
        """After a step: look, if it is time."""
        if not self.due(progress):
            return
        snapshot = snapshot_name(progress.epoch + 1)
        self.student.eval()
        try:
            figures = self._figures(progress.epoch + 1, snapshot)
        except NoImages:  # not one of the sample can be decoded: nothing is said
            return
        finally:
            self.student.train()
        if figures is None:
            return
        look, backbone = preprocessing_of(self.config), self.student.encoder.backbone
        save_backbone(self.folder / snapshot, backbone, self.config.backbone, look.size, look.mean, look.std)
        self.write({"step": progress.step, "epoch": progress.epoch, "label_free": figures, "snapshot": snapshot})

    def due(self, progress: Progress) -> bool:
        """Whether this step ends an epoch that is looked at, or the run."""
        if progress.step + 1 == progress.total_steps:
            return True
        return progress.step_in_epoch + 1 == progress.steps_per_epoch and self._looked_at(progress.epoch + 1)

    def _looked_at(self, done: int) -> bool:
        """Whether there is a look after so many epochs."""
        wanted, epochs = self.config.run.snapshots, self.config.epochs
        return wanted * done // epochs > wanted * (done - 1) // epochs

    def _figures(self, done: int, snapshot: str) -> dict[str, float] | None:
        """None where embeddings are no longer numbers: that is for the monitor to say."""
        see = predict_groups(self.student, self.config.temperature)
        found = self._embedded(self.student.encoder.backbone)
        views, groups, _ = embedded_views(
            see, self.sample, found.index, self.config.views, self.config.seed, device=self.device
        )
        if not (found.rows.isfinite().all() and views.isfinite().all()):
            return None
        earlier = self._earlier(done)
        if earlier is not None and len(earlier) != len(found.rows):  # an image has become unreadable since
            earlier = None
        self.earlier = (snapshot, found.rows)
        lasting = self.student.groups is not None
        count = self.config.group_counts[0] if lasting else 0
        return label_free(found.rows, views.float(), groups if lasting else None, count, earlier)

    def _earlier(self, done: int) -> Tensor | None:
        """The embeddings of the look before: remembered, or made again from its snapshot if the run was resumed since."""
        before = next((each for each in range(done - 1, 0, -1) if self._looked_at(each)), None)
        if before is None:
            return None
        name = snapshot_name(before)
        if self.earlier is not None and self.earlier[0] == name:
            return self.earlier[1]
        if not (self.folder / name).exists():
            return None
        network = load_backbone(self.folder / name).to(self.device)
        return self._embedded(network).rows

    def _embedded(self, network: nn.Module) -> Embeddings:
        return embed_source(
            network, self.sample, preprocessing_of(self.config), workers=self.workers, device=self.device
        )


def snapshot_name(epochs: int) -> str:
    """The file of the weights after so many epochs, relative to the run's folder."""
    return f"snapshots/epoch-{epochs:04d}.safetensors"
