"""Evaluating a backbone on labeled images by any number of probes; every image is embedded once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from coterie.config.hardware import Runtime
from coterie.config.schema import OF_EMBEDDINGS, check_known
from coterie.data.sources.source import ImageSource, Subset, label_matrix, label_notes, labels
from coterie.embedding.cache import EmbeddingCache
from coterie.embedding.embed import Embeddings, embed_source
from coterie.errors import UserError
from coterie.evaluation.class_checks import check_classes
from coterie.evaluation.labeled_data import LabeledPair, labeled_pair, no_labels
from coterie.evaluation.probes.embedding_probes import probe_embeddings
from coterie.evaluation.probes.few_labels import TENTH, FewLabels
from coterie.evaluation.probes.finetuning import finetune
from coterie.evaluation.probes.supervised import linear_published_images
from coterie.evaluation.probes.svm import low_shot, svm
from coterie.exporting.backbone_file import WEIGHTS
from coterie.exporting.model import Model
from coterie.training.loaded_run import load_run
from coterie.training.student import assigned_groups

OF_SETS = ("svm", "low_shot")
"""Probes on frozen embeddings, with any number of labels per image."""
OF_IMAGES = ("linear_images", "finetune")
"""Probes that pass the images through the network again in every epoch."""
PROBES = (*OF_EMBEDDINGS, *OF_SETS, *OF_IMAGES)

Figures = dict[str, dict[str, float]]


class Evaluator:
    """A frozen backbone with its preprocessing, evaluated by probes on labeled images."""

    def __init__(
        self, model: Model, probes: Sequence[str], runtime: Runtime, *, few: FewLabels = TENTH, seed: int = 0
    ) -> None:
        """Evaluate a model; if it is a run's, its embeddings are kept in the run's folder.

        Args:
            model: the network, on the device of ``runtime``.
            probes: of ``PROBES``.
            runtime: where and how to compute.
            few: for ``finetune``: how many of the training labels may be used.
            seed: for what is drawn.

        Raises:
            BadConfig: an unknown probe.
        """
        check_known(probes, PROBES)
        self.probes, self.few, self.seed = tuple(probes), few, seed
        self.model, self.runtime = model, runtime
        run = model.run
        self.store = EmbeddingCache(run / "embeddings", run / WEIGHTS) if run is not None else None

    def evaluate(self, train: ImageSource, test: ImageSource | None = None) -> Figures:
        """Run the probes: train on ``train`` and test on ``test``, or, without it, on a random fifth of ``train``."""
        found: Figures = {}
        single = [name for name in self.probes if name not in OF_SETS]
        if single:
            pair = labeled_pair(train, test)
            pair.tell(self.runtime.logger)
            found |= self._of_embeddings([name for name in single if name in OF_EMBEDDINGS], pair)
            if "linear_images" in single:
                found["linear_images"] = linear_published_images(
                    self.model.network, pair, self.model.preprocessing, seed=self.seed, runtime=self.runtime
                )
            if "finetune" in single:
                found["finetune"] = self._finetuned(pair)
        several = [name for name in self.probes if name in OF_SETS]
        if several:
            found |= self._of_sets(several, train, test)
        return {name: found[name] for name in self.probes}

    def embeddings(self, source: ImageSource, what: str) -> Embeddings:
        """Embed a source with the backbone, or read its embeddings from the run's folder."""
        network, preprocessing = self.model.network, self.model.preprocessing

        def make() -> Embeddings:
            return embed_source(network, source, preprocessing, self.runtime, what=f"embedding {what} images")

        return self.store.get(source, preprocessing, make) if self.store is not None else make()

    def _of_embeddings(self, probes: Sequence[str], pair: LabeledPair) -> Figures:
        if not probes:
            return {}
        train, test = self.embeddings(pair.train, "training"), self.embeddings(pair.test, "test")
        groups = self._groups(test) if "clusters" in probes else None
        return probe_embeddings(probes, train, test, groups=groups, seed=self.seed, runtime=self.runtime)

    def _groups(self, found: Embeddings) -> Tensor | None:
        """The run's own group of each embedded image; None without a run, or where it has no lasting groups."""
        if self.model.run is None:
            return None
        nearest = assigned_groups(load_run(self.model.run, self.runtime.device).student, found.rows)
        return None if nearest is None else nearest[0].to(self.runtime.device)

    def _finetuned(self, pair: LabeledPair) -> dict[str, float]:
        model = self.model
        return finetune(
            model.network,
            pair,
            model.preprocessing,
            build=model.untrained,
            few=self.few,
            seed=self.seed,
            runtime=self.runtime,
        )

    def _of_sets(self, probes: Sequence[str], train: ImageSource, test: ImageSource | None) -> Figures:
        if test is None:
            raise UserError("svm and low_shot need separate test images: name them with --test")
        classes: tuple[str, ...] = ()
        rows: list[Tensor] = []
        for source, name, what in ((train, "TRAIN", "training"), (test, "TEST", "test")):
            matrix = label_matrix(source)
            if not matrix.known.any():
                raise no_labels(source, name)
            for remark in (*label_notes(source).remarks, *check_classes(source, labels(source), name)):
                self.runtime.logger.warning(remark)
            if not matrix.known.all():
                self.runtime.logger.warning(f"{(~matrix.known).sum()} images of {name} have no label and are left out")
            classes = classes or matrix.classes
            positions = matrix.known.nonzero()[0]
            found = self.embeddings(Subset(source, positions), what)
            rows += [found.rows, torch.from_numpy(matrix.with_classes(classes).rows[positions[found.index]])]
        functions: dict[str, Callable[..., dict[str, float]]] = {"svm": svm, "low_shot": low_shot}
        return {name: functions[name](*rows, seed=self.seed, logger=self.runtime.logger) for name in probes}
