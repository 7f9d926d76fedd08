"""The features of the images that a classifier is trained on, kept in its folder part by part."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coterie.config.hardware import Runtime
from coterie.data.sources.source import ImageSource, Subset
from coterie.embedding.cache import EmbeddingCache
from coterie.embedding.embed import embed_source
from coterie.embedding.forward import embedding_runtime
from coterie.errors import NoImages
from coterie.evaluation.input_checks import check_finite, warn_of_undecodable
from coterie.exporting.model import Model

PART = 8192
"""Images whose features are kept at a time: what a command that was stopped has to embed again, at most."""


class FeatureStore:
    """Embeds images with one network, and keeps what it has embedded."""

    def __init__(self, folder: Path, model: Model, runtime: Runtime, key: str) -> None:
        """Keep features in ``folder``, of the network whose values ``key`` identifies."""
        self.model, self.runtime = model, embedding_runtime(model.network, runtime)
        self._cache = EmbeddingCache(folder, key)

    def features(
        self, source: ImageSource, positions: Int[np.ndarray, " n"], what: str
    ) -> tuple[Int[np.ndarray, " m"], Float[Tensor, "m d"]]:
        """The features of some images of a source; those that cannot be decoded are left out.

        Args:
            source: the images.
            positions: of those that are wanted.
            what: names them, for messages.

        Returns:
            Which of the positions could be decoded (their places among them), and the features, on the CPU.

        Raises:
            UserError: none can be decoded, or features are not finite.
        """
        places, rows, bad = [np.empty(0, dtype=np.int64)], [], list[tuple[int, str]]()
        for first in range(0, len(positions), PART):
            part = Subset(source, positions[first : first + PART])
            found = self._cache.get(
                part,
                self.model.preprocessing,
                lambda part=part: embed_source(  # type: ignore[misc]
                    self.model.network, part, self.model.preprocessing, self.runtime, what=f"embedding {what} images"
                ),
                precision=self.runtime.precision,
            )
            places.append(first + found.index)
            rows.append(found.rows)
            bad += [(first + place, reason) for place, reason in found.bad]
        warn_of_undecodable(bad, f"{what} images", Subset(source, positions).name, self.runtime.logger)
        if not rows:
            raise NoImages(f"there are no {what} images")
        check_finite(features := torch.cat(rows), what)
        return np.concatenate(places), features

    def missing(self, source: ImageSource, positions: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """Those of some images whose features are not kept yet.

        Args:
            source: the images.
            positions: of those that are wanted.
        """
        parts = [positions[first : first + PART] for first in range(0, len(positions), PART)]
        look, precision = self.model.preprocessing, self.runtime.precision
        new = [part for part in parts if not self._cache.has(Subset(source, part), look, precision)]
        return np.concatenate([positions[:0], *new])
