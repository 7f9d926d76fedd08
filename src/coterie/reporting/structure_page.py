"""The page of unsupervised structure: components, segments and nearest patches beside each image."""

import base64
import colorsys
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from markupsafe import Markup
from torch import Tensor

from coterie.config.hardware import Runtime
from coterie.config.options import label_columns, machine_options, model_options
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.own_data import Data, given_data
from coterie.data.sources.source import ImageSource, Subset, random_positions
from coterie.embedding.embed import Embedder
from coterie.embedding.open_embedder import open_embedder
from coterie.errors import BadConfig, NoImages, UserError
from coterie.evaluation.input_checks import warn_of_undecodable
from coterie.logger import Logger
from coterie.reporting import html
from coterie.reporting.html import PictureArray
from coterie.reporting.pictures import seen_pixels
from coterie.reporting.structure import PatchStructure, patch_structure

MOST_IMAGES = 24
"""Images on a page; of more, a random sample, always the same."""
MOST_SEGMENTS = 20
"""More colors can hardly be told apart."""
WANTED_SIDE = 14
"""Patches a side that a map has at least, if the network takes images that are large enough."""
LARGEST_SIDE = 48
"""Patches a side that a page has room for."""
SIDES = (320, 240, 160)
"""Of a photograph in pixels; the smaller ones are for pages that would become too large."""


@dataclass(frozen=True)
class _Shown:
    """An image as the page shows it; the pictures of components and segments have a pixel for each patch."""

    name: str
    photograph: PictureArray
    components: UInt8[np.ndarray, "p q 3"]
    segments: UInt8[np.ndarray, "p q 3"]


def write_structure_page(
    model: str | Path, images: Data, out: str | Path, segments: int, options: Mapping[str, Any], logger: Logger
) -> Path:
    """Write the page of some images as one HTML file that loads nothing, atomically.

    Args:
        model: a MODEL.
        images: images; of more than :data:`MOST_IMAGES` a random sample.
        out: the ``.html`` file.
        segments: how many segments, over all images.
        options: of the command; they say how MODEL is opened.
        logger: receives messages and progress.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    path = Path(out).expanduser()
    if path.suffix != ".html":
        raise BadConfig(f"--out is {out}: name an .html file")
    if not 2 <= segments <= MOST_SEGMENTS:
        raise BadConfig(f"--segments is {segments}: give 2 to {MOST_SEGMENTS}")
    columns = label_columns(options)
    source = given_data(images, "images", columns=columns, logger=logger).open(columns, logger)
    if not len(source):
        raise NoImages("there are no images")
    if len(source) > MOST_IMAGES:
        logger.info(f"{MOST_IMAGES} of {len(source):,} images, at random")
        source = Subset(source, random_positions(MOST_IMAGES, len(source)))
    runtime = Runtime.choose(**machine_options(options), logger=logger)
    embedder, (width, height, across) = _opened(model, source, options, runtime)
    for line in embedder.remarks:
        logger.info(line)
    patches, positions = _patches(embedder, logger)
    if not patches.isfinite().all():
        raise UserError(f"the features of {model} are not finite: its weights are broken")
    if len(patches) * height * across < 4 * segments:
        raise UserError(
            f"{height} x {across} patches of {len(patches)} images are too few: give more images, or a larger --size"
        )
    found = patch_structure(patches, segments)
    shown = [
        _shown(source, position, embedder.preprocessing, found, number, (height, across))
        for number, position in enumerate(positions)
    ]
    about = {
        "model": str(model),
        "images": f"{len(shown)}, {embedder.preprocessing}",
        "features of a patch": f"{width}, {height} x {across} patches of an image",
        "segments": f"{segments}, spherical k-means over all patches",
    }
    _write(path, shown, found, about)
    return path


def segment_colors(count: int) -> UInt8[np.ndarray, "k 3"]:
    """Colors of segments, each far from those before it; the same in light and dark mode, as they are those of pictures.

    Args:
        count: how many.
    """
    found = [
        colorsys.hls_to_rgb((0.58 + 0.618034 * place) % 1, (0.42, 0.68, 0.28)[place % 3], 0.6) for place in range(count)
    ]
    return (255 * np.array(found)).round().astype(np.uint8)


def _patches(embedder: Embedder, logger: Logger) -> tuple[Float[Tensor, "n p d"], list[int]]:
    """The features of the patches of all images that can be decoded, and which images these are."""
    maps, positions, bad = list[Tensor](), list[int](), list[tuple[int, str]]()
    for places, outputs, failed in embedder.batches(logger):
        bad += failed
        if len(places):
            maps.append(outputs[0].float().cpu().flatten(2).transpose(1, 2))
            positions += places.tolist()
    warn_of_undecodable(bad, "images", embedder.source.name, logger)
    if not positions:
        raise NoImages(f"not one of the {len(bad)} images can be decoded; the first: {bad[0][1]}")
    return torch.cat(maps), positions


def _opened(
    model: str | Path, source: ImageSource, options: Mapping[str, Any], runtime: Runtime
) -> tuple[Embedder, tuple[int, int, int]]:
    """The network and the shape of its map; at a size that gives a fine map, unless the caller gives one."""
    opened = model_options(options)
    embedder = open_embedder(model, source, opened, "map", runtime)
    width, height, across = embedder.rows.shape()
    if opened.get("size") is None and height < WANTED_SIDE:
        larger = embedder.preprocessing.size * -(-WANTED_SIDE // height)
        try:
            embedder = open_embedder(model, source, {**opened, "size": larger}, "map", runtime)
        except UserError:  # it takes images of its own size alone
            return embedder, (width, height, across)
        width, height, across = embedder.rows.shape()
        runtime.logger.info(
            f"images are seen at {larger} pixels, for {height} x {across} patches: --size says otherwise"
        )
    if max(height, across) > LARGEST_SIDE:
        raise BadConfig(
            f"{height} x {across} patches are more than a page has room for ({LARGEST_SIDE} x {LARGEST_SIDE}): give a smaller "
            "--size"
        )
    return embedder, (width, height, across)


def _shown(
    source: ImageSource, position: int, look: Preprocessing, found: PatchStructure, number: int, sides: tuple[int, int]
) -> _Shown:
    palette = segment_colors(int(found.segments.max()) + 1)
    return _Shown(
        source.name(position),
        seen_pixels(source, position, look, SIDES[0]),
        found.colors[number].numpy().reshape(*sides, 3),
        palette[found.segments[number].numpy()].reshape(*sides, 3),
    )


def _write(path: Path, shown: Sequence[_Shown], found: PatchStructure, about: Mapping[str, str]) -> None:
    script = resources.files(__package__).joinpath("structure.js").read_text("utf-8")
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    count = int(found.segments.max()) + 1
    colors = segment_colors(count)
    shares = torch.bincount(found.segments.flatten(), minlength=count) / found.segments.numel()
    height, across = shown[0].components.shape[:2]
    data = {"rows": height, "columns": across, "neighbors": found.neighbors.flatten(0, 1).tolist()}
    html.write_page(
        path,
        "structure.html",
        SIDES,
        title=path.stem,
        shown=shown,
        patches=found.segments.numel(),
        share=sum(found.share),
        segments=[("#" + bytes(colors[place].tolist()).hex(), 100 * float(each)) for place, each in enumerate(shares)],
        rows=height,
        columns=across,
        data=Markup(json.dumps(data, separators=(",", ":"))),  # numbers alone
        script=Markup(script),
        script_hash=Markup(hashed),
        about=about,
    )
