"""The demonstration: pretrain on built-in photographs and evaluate the result; offline, on a CPU, in minutes."""

import io
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from coterie import api
from coterie.atomic import writing
from coterie.config.toml import from_dict, read_toml, to_toml
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.builtin_photos import PHOTOGRAPHS, PhotoPatches, photo_patches
from coterie.data.sources.open import open_source
from coterie.data.sources.source import random_positions
from coterie.embedding.embed import Embeddings, embed_source
from coterie.evaluation.baselines import raw_pixels
from coterie.evaluation.labeled_data import LabeledPair, labeled_pair
from coterie.evaluation.probes.knn import knn
from coterie.evaluation.results import RAW_PIXELS, UNTRAINED
from coterie.exporting.backbone_file import load_backbone
from coterie.global_state import restoring_global_state
from coterie.logger import Logger
from coterie.paths import expand
from coterie.reporting.gallery import Gallery, Row, Strip
from coterie.reporting.pictures import make_picture, nearest_pictures
from coterie.reporting.report_page import BarChart, Report, write_report
from coterie.session import session
from coterie.training.build import build_student
from coterie.training.environment import environment
from coterie.training.run_folder import read_log
from coterie.training.student import preprocessing_of

TRAIN_IMAGES, TEST_IMAGES, SIDE = 6000, 1500, 32
SETTINGS = ("backbone.width=0.25", "views.crops.1.count=2", "run.log_steps=23", "run.snapshots=4")
EPOCHS, BATCH_SIZE = 16, 128
QUERIES, SHOWN = 12, 8
NEIGHBORS, TEMPERATURE = 20, 0.07


@dataclass(frozen=True)
class Space:
    """One way to compare images: by their pixels, or by features of the untrained or the pretrained network."""

    name: str
    train: Embeddings
    test: Embeddings

    accuracy: float
    """kNN accuracy in percent: test images whose 20 nearest training images vote for the right class."""


def demo(out: str | Path = "demo", *, seed: int = 0, logger: Logger | None = None, quiet: bool = False) -> list[str]:
    """Pretrain on unlabeled patches of photographs, then compare raw pixels, the untrained and the pretrained network.

    Writes ``train.parquet``, ``test.parquet`` and ``report.html`` to ``out``, and the run to ``out/run``. Call it again to
    resume an interrupted run.

    Args:
        out: Folder for the data, the run and the report.
        seed: Seed for the patches, weights, data order and augmentation.
        logger: Receives progress and messages; None: they are shown.
        quiet: Show nothing.

    Returns:
        The lines of the summary.

    Raises:
        UserError: scikit-image, which ships the photographs, is not installed.
    """
    with session(logger, quiet) as logger:
        return _demo(expand(out), seed, logger)


def _demo(out: Path, seed: int, logger: Logger) -> list[str]:
    start = time.monotonic()
    train, test = out / "train.parquet", out / "test.parquet"
    for split, path, count in (("train", train, TRAIN_IMAGES), ("test", test, TEST_IMAGES)):
        if not path.exists():
            patches = photo_patches(split, count, SIDE, seed)
            write_patches(path, patches)
    logger.info(
        f"{TRAIN_IMAGES} training and {TEST_IMAGES} test patches of {SIDE} x {SIDE} pixels from disjoint regions of "
        f"{len(PHOTOGRAPHS)} photographs; the class is the photograph, and training never sees it"
    )
    run = api.pretrain(
        "swav",
        train,
        out=out / "run",
        epochs=EPOCHS,
        batch_size=BATCH_SIZE,
        seed=seed,
        settings=SETTINGS,
        logger=logger,
    )
    pair = labeled_pair(open_source(train), open_source(test))
    spaces = evaluate_spaces(run, pair)
    before = max(space.accuracy for space in spaces[:-1])
    write_demo_report(out / "report.html", run, spaces, pair)
    lines = [
        f"kNN accuracy ({NEIGHBORS} neighbors, {len(spaces[0].test.labels)} test images, {len(PHOTOGRAPHS)} classes):"
    ]
    lines += [f"  {space.name:<20} {space.accuracy:5.1f} %" for space in spaces]
    lines.append(f"  gain over the better {spaces[-1].accuracy - before:+5.1f} points")
    lines.append(f"took {time.monotonic() - start:.0f} s; open {out / 'report.html'}")
    return lines


def evaluate_spaces(run: Path, pair: LabeledPair) -> list[Space]:
    """Evaluate raw pixels, the untrained and the pretrained network of a run."""
    config = from_dict(read_toml(run / "config.toml"))
    preprocessing = preprocessing_of(config)
    untrained = build_student(config).encoder.backbone.eval()
    networks: list[tuple[str, nn.Module, Preprocessing]] = [
        (RAW_PIXELS, *raw_pixels(preprocessing)),
        (UNTRAINED, untrained, preprocessing),
        ("pretrained network", load_backbone(run), preprocessing),
    ]
    with restoring_global_state():
        threads = config.run.threads or torch.get_num_threads()  # as the run found best: beside other work, 1
        torch.set_num_threads(threads)
        return [_space(name, network, pair, prepared) for name, network, prepared in networks]


def write_demo_report(path: Path, run: Path, spaces: list[Space], pair: LabeledPair) -> None:
    """Write the report: the three accuracies, nearest neighbors in each space, the training curves."""
    config = from_dict(read_toml(run / "config.toml"))
    preprocessing, classes = preprocessing_of(config), pair.train.classes
    trained, before = spaces[-1], max(space.accuracy for space in spaces[:-1])
    rows = []
    for query in random_positions(QUERIES, len(pair.test)).tolist():
        label = int(trained.test.labels[query])
        strips = [
            Strip(
                space.name,
                nearest_pictures(space.test.rows[query], space.train, pair.train, preprocessing, SHOWN, label),
            )
            for space in spaces
        ]
        rows.append(Row(make_picture(pair.test, query, preprocessing, classes[label]), tuple(strips)))
    note = "Left: test patches. Right: the training patches nearest to each. Green: from the same photograph."
    write_report(
        path,
        Report(
            title="Coterie's demonstration",
            answer=f"The pretrained network identifies the photograph of {trained.accuracy:.1f} % of the test patches, "
            f"{trained.accuracy - before:.1f} points more than the better of raw pixels and the untrained network.",
            summary=(
                f"A {config.backbone.name} was pretrained on {len(pair.train)} unlabeled patches of {len(classes)} "
                f"photographs, and evaluated by a {NEIGHBORS}-nearest-neighbor vote on {len(pair.test)} patches from "
                "other regions of the same photographs.",
            ),
            bars=BarChart(
                f"kNN accuracy, k = {NEIGHBORS}",
                tuple((space.name, space.accuracy) for space in spaces),
                chance=100 / len(classes),
            ),
            metrics=read_log(run),
            galleries=(Gallery("Neighbors before and after", tuple(rows), note),),
            config_text=to_toml(config),
            environment=environment(torch.device("cpu")),
        ),
    )


def _space(name: str, network: nn.Module, pair: LabeledPair, preprocessing: Preprocessing) -> Space:
    train, test = (embed_source(network, part, preprocessing) for part in (pair.train, pair.test))
    scores = knn(train.rows, train.labels, test.rows, test.labels, neighbors=(NEIGHBORS,), temperatures=(TEMPERATURE,))
    return Space(name, train, test, scores[f"k{NEIGHBORS}_t{TEMPERATURE:g}_top1"])


def write_patches(path: Path, patches: PhotoPatches) -> None:
    """Write patches to a parquet file with a column of PNG images and a column of class names."""
    encoded = []
    for image in patches.images:
        buffer = io.BytesIO()
        Image.fromarray(image[:, :, 0]).convert("RGB").save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    table = pa.table({"image": encoded, "label": [patches.classes[label] for label in patches.labels]})
    with writing(path) as part:
        pq.write_table(table, part)
