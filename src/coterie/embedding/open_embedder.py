"""Opens a MODEL to embed images: its backbone, and of a run its groups; or the features of patches."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from coterie.config.hardware import Runtime
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.source import ImageSource
from coterie.embedding.cache import state_key
from coterie.embedding.embed import Embedder
from coterie.embedding.forward import Then, embedding_runtime
from coterie.embedding.rows import FEATURES, EmbeddingRows, PatchRows
from coterie.errors import BadConfig, did_you_mean
from coterie.exporting.backbone_file import WEIGHTS
from coterie.exporting.model import open_model
from coterie.exporting.preprocessing import with_options
from coterie.models.backbone import feature_width
from coterie.models.image_sizes import check_image_size
from coterie.models.patch_features import Layout, PatchFeatures
from coterie.paths import expand
from coterie.training.loaded_run import load_run
from coterie.training.student import no_groups


def open_embedder(
    model: str | Path,
    source: ImageSource,
    options: Mapping[str, Any],
    features: str,
    runtime: Runtime,
) -> Embedder:
    """The backbone and, of a run, the groups of a MODEL, and the images for them.

    Args:
        model: a MODEL; of a run, finished or not, its newest checkpoint.
        source: the images.
        options: of :func:`coterie.exporting.model.open_model`.
        features: ``pooled`` for an embedding of each image; ``patch`` or ``map`` for the features of its patches.
        runtime: where the network is, its precision, and how many processes load images.

    Raises:
        UserError: there is no such model, or it has no patch features.
    """
    if features not in FEATURES:
        raise BadConfig(
            f"--features is {features!r}: use one of {', '.join(FEATURES)}{did_you_mean(features, FEATURES)}"
        )
    network, groups, preprocessing, facts, remarks = _open_run(model, runtime, options) or _open_file(
        model, runtime, options
    )
    runtime = embedding_runtime(network, runtime)
    facts["source"] = Fingerprint.of(source).key
    if features == "pooled":
        rows = EmbeddingRows(feature_width(network))
        return Embedder(network, source, preprocessing, rows, facts, runtime, remarks, groups)
    layout: Layout = "map" if features == "map" else "patch"
    patches = PatchFeatures(network, layout, preprocessing.channels, preprocessing.size)
    shown = " x ".join(map(str, patches.shape))
    facts.pop("temperature", None)
    return Embedder(
        patches,
        source,
        preprocessing,
        PatchRows(layout, patches.shape),
        facts,
        runtime,
        (*remarks[:2], f"features of each image: {layout}, {shown}"),
    )


Opened = tuple[nn.Module, Then, Preprocessing, dict[str, Any], tuple[str, ...]]
"""The backbone, groups and probabilities of embeddings, how images are prepared, plain values that identify the network, lines
about it."""


def _open_run(model: str | Path, runtime: Runtime, options: Mapping[str, Any]) -> Opened | None:
    """The student of a run's newest checkpoint; None if the MODEL is no run, or one of which only the weights are left."""
    folder = expand(model)
    if not (folder / "config.toml").is_file():
        return None
    if (folder / WEIGHTS).is_file() and not (folder / "checkpoint").is_dir():
        return None
    given = options.get("backbone")
    module = given if isinstance(given, nn.Module) else None
    loaded = load_run(folder, runtime.device, module)
    settings, student = loaded.config.backbone, loaded.student
    if module is None and given not in (None, settings.name):
        raise BadConfig(f"--backbone is {options['backbone']}, but {model} is a {settings.name}: leave out --backbone")
    changes = {name: value for name, value in options.items() if name != "backbone"}
    preprocessing = with_options(loaded.preprocessing, **changes)
    if preprocessing.size != loaded.preprocessing.size:
        check_image_size(student.encoder.backbone, settings, preprocessing.size)
    precision = embedding_runtime(student.encoder.backbone, runtime).precision
    groupless = () if student.groups is not None else (_no_groups(model),)
    remarks = (f"{model}: a run, a {settings.name}", f"images: {preprocessing}; {precision}", *groupless)
    facts = {"weights": state_key(student.state_dict()), "temperature": loaded.config.temperature}
    return student.encoder.backbone, loaded.nearest_groups, preprocessing, facts, remarks


def _open_file(model: str | Path, runtime: Runtime, options: Mapping[str, Any]) -> Opened:
    opened = open_model(model, runtime.device, **options)
    remarks = (*opened.described(embedding_runtime(opened.network, runtime).precision), _no_groups(model))
    facts: dict[str, Any] = {"weights": state_key(opened.network.state_dict())}
    return opened.network, no_groups, opened.preprocessing, facts, remarks


def _no_groups(model: str | Path) -> str:
    return f"{model} has no groups: each image gets group -1 and probability 0"
