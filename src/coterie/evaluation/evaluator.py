"""Evaluating a backbone on labeled images by any number of probes; every image is embedded once."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from coterie.config.hardware import Runtime
from coterie.config.schema import OF_EMBEDDINGS, OF_SETS, check_known
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.source import ImageSource, Subset, label_matrix, label_notes, labels
from coterie.embedding.cache import EmbeddingCache, weights_key
from coterie.embedding.embed import Embeddings, embed_source
from coterie.embedding.forward import embedding_runtime
from coterie.errors import BadConfig, UserError, did_you_mean
from coterie.evaluation.baselines import raw_pixels, untrained
from coterie.evaluation.class_checks import check_classes
from coterie.evaluation.labeled_data import LabeledPair, labeled_pair, no_labels
from coterie.evaluation.probes.embedding_probes import probe_embeddings
from coterie.evaluation.probes.few_labels import TENTH, FewLabels
from coterie.evaluation.probes.finetuning import FINETUNING_RECIPES, finetune
from coterie.evaluation.probes.linear_blocks import linear_blocks
from coterie.evaluation.probes.listed_labels import ListedLabels
from coterie.evaluation.probes.recipe import LINEAR_RECIPE, PLACES205, RECIPES
from coterie.evaluation.probes.supervised import linear_published_images
from coterie.evaluation.results import RAW_PIXELS, UNTRAINED, Figures, ProbeResults
from coterie.exporting.backbone_file import WEIGHTS
from coterie.exporting.model import Model
from coterie.models.own_backbone import OwnBackbone, users_module
from coterie.training.loaded_run import load_run
from coterie.training.student import assigned_groups

OF_IMAGES = ("linear_images", "finetune")
"""Probes that pass the images through the network again in every epoch."""
OF_BLOCKS = ("linear_blocks",)
"""Probes of features that are not the embedding."""
PROBES = (*OF_EMBEDDINGS, *OF_SETS, *OF_BLOCKS, *OF_IMAGES)
WITH_RECIPE = ("linear_published", "linear_blocks", "linear_images")
"""Probes that are trained by a published recipe, which may be another."""
COMPARED = ("knn", "linear", "retrieval")
"""Probes that are quick enough to be run on raw pixels, the untrained network and other models too."""


class Evaluator:
    """A frozen backbone with its preprocessing, evaluated by probes on labeled images."""

    def __init__(
        self,
        model: Model,
        probes: Sequence[str],
        runtime: Runtime,
        *,
        beside: Sequence[Model] = (),
        few: FewLabels | ListedLabels = TENTH,
        recipe: str | None = None,
        seed: int = 0,
        exact: bool = False,
    ) -> None:
        """Evaluate a model; if it is a run's, its embeddings are kept in the run's folder.

        Args:
            model: the network, on the device of ``runtime``.
            probes: of ``PROBES``.
            runtime: where and how to compute; its precision is that of passes with gradients, and of embedding, which
                ``exact`` makes float32.
            beside: other models on the same device, to be compared.
            few: for ``finetune``: how many of the training labels may be used, or which.
            recipe: name of a published recipe, of ``finetune`` or of those ``WITH_RECIPE``; None: that of each probe, and of
                fine-tuning that of the number of labels.
            seed: for what is drawn.
            exact: whether images are embedded in float32, whatever the precision of ``runtime``.

        Raises:
            BadConfig: an unknown probe or recipe, or a recipe without a probe that takes it.
        """
        check_known(probes, PROBES)
        takers = ("finetune",) if recipe in FINETUNING_RECIPES else WITH_RECIPE
        if recipe is not None and recipe not in (*RECIPES, *FINETUNING_RECIPES):
            known = [*RECIPES, *FINETUNING_RECIPES]
            raise BadConfig(f"--recipe is {recipe}: use one of {', '.join(known)}{did_you_mean(recipe, known)}")
        if recipe is not None and not set(probes) & set(takers):
            raise BadConfig(f"--recipe {recipe} is for {', '.join(takers)}: name one of them with --probes")
        self.probes, self.few, self.recipe, self.seed = tuple(probes), few, recipe, seed
        self._linear_recipe = RECIPES.get(recipe or "")
        self.model, self.runtime, self.beside = model, runtime, tuple(beside)
        self.exact = exact
        self.embedding = self._embedding(model)
        self._introduced, run = False, model.run
        self.store = EmbeddingCache(run / "embeddings", weights_key(run / WEIGHTS)) if run is not None else None

    def evaluate(self, train: ImageSource, test: ImageSource | None = None) -> ProbeResults:
        """Run the probes: train on ``train`` and test on ``test``, or, without it, on a random fifth of ``train``."""
        found: Figures = {}
        baselines: dict[str, Figures] = {}
        single = [name for name in self.probes if name not in OF_SETS]
        if single:
            pair = labeled_pair(train, test)
            self._introduce()
            pair.tell(self.runtime.logger)
            found |= self._of_embeddings([name for name in single if name in OF_EMBEDDINGS], pair)
            baselines = self._baselines([name for name in single if name in COMPARED], pair)
            if "linear_images" in single:
                found["linear_images"] = linear_published_images(
                    self.model.network,
                    pair,
                    self.model.preprocessing,
                    recipe=self._linear_recipe or LINEAR_RECIPE,
                    seed=self.seed,
                    runtime=self.runtime,
                )
            if "linear_blocks" in single:
                found["linear_blocks"] = linear_blocks(
                    self.model.network,
                    pair,
                    self.model.preprocessing,
                    recipe=self._linear_recipe or PLACES205,
                    seed=self.seed,
                    runtime=self.embedding,
                )
            if "finetune" in single:
                found["finetune"] = self._finetuned(pair)
        several = [name for name in self.probes if name in OF_SETS]
        if several:
            found |= self._of_sets(several, train, test)
        return ProbeResults({name: found[name] for name in self.probes}, baselines)

    def _introduce(self) -> None:
        """Say once what is evaluated; not before the images are known to have labels, so that an error stands alone."""
        if not self._introduced:
            for model in (self.model, *self.beside):
                for line in model.described(self._embedding(model).precision):
                    self.runtime.logger.info(line)
        self._introduced = True

    def _embedding(self, model: Model) -> Runtime:
        """Where and in which precision a model embeds."""
        return replace(self.runtime, autocast=None) if self.exact else embedding_runtime(model.network, self.runtime)

    def embeddings(self, source: ImageSource, what: str) -> Embeddings:
        """Embed a source with the backbone, or read its embeddings from the run's folder."""
        return self._embedded(lambda: self.model.network, source, self.model.preprocessing, f"embedding {what} images")

    def _embedded(
        self,
        network: Callable[[], nn.Module],
        source: ImageSource,
        preprocessing: Preprocessing,
        what: str,
        instead: str = "",
    ) -> Embeddings:
        def make() -> Embeddings:
            return embed_source(network(), source, preprocessing, self.embedding, what=what)

        if self.store is None:
            return make()
        return self.store.get(source, preprocessing, make, instead, self.embedding.precision)

    def _of_embeddings(self, probes: Sequence[str], pair: LabeledPair) -> Figures:
        if not probes:
            return {}
        train, test = self.embeddings(pair.train, "training"), self.embeddings(pair.test, "test")
        groups = self._groups(test) if "clusters" in probes else None
        recipe = self._linear_recipe or LINEAR_RECIPE
        return probe_embeddings(probes, train, test, groups=groups, recipe=recipe, seed=self.seed, runtime=self.runtime)

    def _baselines(self, probes: Sequence[str], pair: LabeledPair) -> dict[str, Figures]:
        """What the same probes find in raw pixels, in the untrained network and in the other models."""
        if not probes:
            return {}
        network, pixels = raw_pixels(self.model.preprocessing)
        new = cache(lambda: untrained(self.model, self.seed, self.runtime.device))
        found: dict[str, Figures] = {}
        for name, build, preprocessing, instead in (
            (RAW_PIXELS, lambda: network, pixels, RAW_PIXELS),
            (UNTRAINED, new, self.model.preprocessing, f"{UNTRAINED} {self.seed} {torch.__version__}"),
        ):
            train, test = (
                self._embedded(build, part, preprocessing, f"embedding {what} images, {name}", instead)
                for part, what in ((pair.train, "training"), (pair.test, "test"))
            )
            if train.rows.isfinite().all() and test.rows.isfinite().all():
                found[name] = probe_embeddings(probes, train, test, seed=self.seed, runtime=self.runtime)
            else:
                self.runtime.logger.warning(f"{name}: left out, its features are not finite")
        for model in self.beside:
            other = Evaluator(model, probes, self.runtime, seed=self.seed, exact=self.exact)
            found[model.name] = other._of_embeddings(probes, pair)
        return found

    def _groups(self, found: Embeddings) -> Tensor | None:
        """The run's own group of each embedded image; None without a run and its checkpoint, or without lasting groups."""
        if self.model.run is None or not (self.model.run / "checkpoint").is_dir():
            return None
        network = self.model.network
        module = users_module(network) if isinstance(network, OwnBackbone) else None
        nearest = assigned_groups(load_run(self.model.run, self.runtime.device, module).student, found.rows)
        return None if nearest is None else nearest[0].to(self.runtime.device)

    def _finetuned(self, pair: LabeledPair) -> dict[str, float]:
        model = self.model
        return finetune(
            model.network,
            pair,
            model.preprocessing,
            build=model.untrained,
            few=self.few,
            recipe=None if self._linear_recipe else self.recipe,
            seed=self.seed,
            runtime=self.runtime,
        )

    def _of_sets(self, probes: Sequence[str], train: ImageSource, test: ImageSource | None) -> Figures:
        from coterie.evaluation.probes.svm import low_shot, svm  # here: scikit-learn takes a second to import

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
            self._introduce()
            classes = classes or matrix.classes
            positions = matrix.known.nonzero()[0]
            found = self.embeddings(Subset(source, positions), what)
            rows += [found.rows, torch.from_numpy(matrix.with_classes(classes).rows[positions[found.index]])]
        functions: dict[str, Callable[..., dict[str, float]]] = {"svm": svm, "low_shot": low_shot}
        return {name: functions[name](*rows, seed=self.seed, logger=self.runtime.logger) for name in probes}
