"""Opens a CLASSIFIER to predict the labels of images, and says what a row of its predictions holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from coterie.classifier.classifier_file import Classifier, open_classifier
from coterie.config.hardware import Runtime
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.source import ImageSource
from coterie.embedding.cache import state_key
from coterie.embedding.embed import Embedder
from coterie.embedding.forward import embedding_runtime

CHOSEN = 0.5
"""Of several labels, those with at least this probability are predicted."""


@final
@dataclass(frozen=True)
class PredictionRows:
    """The likeliest label and the next, each with its probability, and whether the image is of no known class.

    Of several labels an image: all with a probability of at least `CHOSEN`, the likeliest first, and theirs.

    Attributes:
        classes: names of the labels.
        threshold: below this probability of the likeliest an image is ``unknown``; None: never.
        several: whether an image can have several labels.
    """

    classes: tuple[str, ...]
    threshold: float | None
    several: bool = False
    noun: ClassVar[str] = "predictions"
    work: ClassVar[str] = "predicting"
    array: ClassVar[str | None] = None

    def facts(self) -> dict[str, Any]:
        """As of :class:`coterie.embedding.rows.Rows`."""
        return {"rows": self.noun}

    def shape(self) -> tuple[int, ...]:
        """As of :class:`coterie.embedding.rows.Rows`: there is no array."""
        return ()

    def fields(self) -> Mapping[str, pa.DataType]:
        """As of :class:`coterie.embedding.rows.Rows`."""
        if self.several:
            return {"label": pa.list_(pa.string()), "probability": pa.list_(pa.float32()), "unknown": pa.bool_()}
        next_best = {"runner_up": pa.string(), "runner_up_probability": pa.float32()}
        return {"label": pa.string(), "probability": pa.float32(), **next_best, "unknown": pa.bool_()}

    def columns(
        self, source: ImageSource, positions: np.ndarray, outputs: tuple[Tensor, ...]
    ) -> Mapping[str, pa.Array | np.ndarray]:
        """As of :class:`coterie.embedding.rows.Rows`; outputs are features and probabilities ``[b, C]``."""
        best = outputs[1].amax(dim=1).double().cpu().numpy()
        low = np.zeros(len(best), dtype=bool) if self.threshold is None else best < self.threshold
        labels = self._several(outputs[1]) if self.several else self._two(outputs[1])
        return {**labels, "unknown": pa.array(low)}

    def _two(self, probabilities: Tensor) -> dict[str, pa.Array]:
        values, places = (each.cpu().numpy() for each in probabilities.float().topk(min(2, len(self.classes)), dim=1))
        names = pa.array(self.classes, pa.string())
        return {
            "label": names.take(pa.array(places[:, 0])),
            "probability": pa.array(values[:, 0]),
            "runner_up": names.take(pa.array(places[:, -1])),
            "runner_up_probability": pa.array(values[:, -1]),
        }

    def _several(self, probabilities: Tensor) -> dict[str, pa.Array]:
        values, places = (
            each.cpu().numpy() for each in probabilities.float().sort(dim=1, descending=True, stable=True)
        )
        chosen = values >= CHOSEN
        ends = pa.array(np.concatenate([[0], chosen.sum(axis=1).cumsum()]).astype(np.int32))
        names = pa.array(self.classes, pa.string()).take(pa.array(places[chosen]))
        return {
            "label": pa.ListArray.from_arrays(ends, names),
            "probability": pa.ListArray.from_arrays(ends, pa.array(values[chosen])),
        }


def open_predictor(
    classifier: str | Path, source: ImageSource, backbone: nn.Module | None, runtime: Runtime
) -> Embedder:
    """A CLASSIFIER, and the images that it labels.

    Args:
        classifier: the folder, or its ``classifier.safetensors``.
        source: the images.
        backbone: of a classifier whose backbone was given in Python, a module of it.
        runtime: where the network is, its precision, and how many processes load images.

    Raises:
        UserError: it is no classifier, such as a run, in one line.
    """
    opened = open_classifier(classifier, runtime.device, backbone=backbone)
    facts = {"classifier": _key(opened), "source": Fingerprint.of(source).key}
    model = opened.model
    runtime = embedding_runtime(model.network, runtime)
    return Embedder(
        model.network,
        source,
        model.preprocessing,
        PredictionRows(opened.classes, opened.threshold, opened.multi_label),
        facts,
        runtime,
        (*model.described(runtime.precision), _unknown_remark(opened)),
        lambda features: (opened.probabilities(features),),
    )


def _key(classifier: Classifier) -> str:
    """Identify what a classifier computes, whatever file it came from."""
    labels = [classifier.classes, classifier.multi_label, classifier.temperature, classifier.threshold]
    states = {"network": classifier.model.network.state_dict(), "head": classifier.head.state_dict()}
    tensors = {f"{part}.{name}": each for part, state in states.items() for name, each in state.items()}
    return state_key(tensors | {"labels": torch.tensor(list(json.dumps(labels).encode()), dtype=torch.uint8)})


def _unknown_remark(classifier: Classifier) -> str:
    if classifier.threshold is None:
        return "unknown: no image, as this classifier has no threshold"
    return f"unknown: images whose likeliest label has a probability below {classifier.threshold:.3g}"
