"""What goes onto the pages: of a run, and of the demonstration."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from coterie.config import PretrainConfig
from coterie.data.decode import decode
from coterie.data.loader import center_view
from coterie.data.source import ImageSource, Subset
from coterie.embedding.embed import Embeddings, Eye, embed_source
from coterie.errors import NoImages
from coterie.evaluation.report import Gallery, Picture, Report, Row, Strip, write_report
from coterie.ops.neighbours import nearest
from coterie.settings import to_toml
from coterie.training.folder import read_log
from coterie.training.monitor import LARGEST_LOSS, SMALLEST_SPREAD

SAMPLED = 512
QUERIES, SHOWN = 8, 8


def report_run(
    folder: Path, config: PretrainConfig, source: ImageSource, network: nn.Module, eye: Eye, device: torch.device
) -> None:
    """Write a run's ``report.html``: did it work, the curves, and neighbours of some of its images."""
    records = read_log(folder)
    write_report(
        folder / "report.html",
        Report(
            title=f"{config.method} on {', '.join(Path(each).name for each in config.data)}",
            answer=verdict(records),
            summary=(
                f"{len(source)} images, {config.backbone.name}, {config.epochs} epochs, batch {config.batch_size}.",
            ),
            metrics=records,
            galleries=_neighbours(source, network, eye, device),
            config_text=to_toml(config),
            environment=environment(device),
        ),
    )


def verdict(records: Sequence[dict[str, Any]]) -> str:
    """One sentence: what the last line of the log says, without labels, of the run."""
    last = next((record for record in reversed(records) if "loss" in record), None)
    if last is None:
        return "Nothing was logged."
    figures = (
        f"loss {last['loss']:.2f} ({last['loss_over_ln_k']:.2f} of ln K), {last['groups_used']} of {last['groups']} groups "
        f"used, spread {last['spread']:.2f}"
    )
    if any("warning" in record for record in records):
        return f"The run was warned of: see below ({figures})."
    if last["spread"] < SMALLEST_SPREAD or last["loss_over_ln_k"] > LARGEST_LOSS:
        return f"It has not learned to tell images apart yet ({figures})."
    knn = next((record["knn"] for record in reversed(records) if "knn" in record), None)
    judged = f" kNN of the last probe: {knn['k20_t0.07_top1']:.1f} % (k = 20)." if knn else ""
    return f"No sign of collapse: {figures}.{judged}"


def environment(device: torch.device) -> dict[str, str]:
    """Where it ran, and with what."""
    on = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    versions = {name: version(name) for name in ("coterie", "torch", "timm", "numpy", "pillow")}
    return {"device": on, "system": platform.platform(), "python": platform.python_version()} | versions


def picture(source: ImageSource, index: int, eye: Eye, caption: str = "", right: bool | None = None) -> Picture:
    """An image as it is shown: its middle, in colour or in grey."""
    cut = center_view(decode(source[index], eye.channels), max(eye.size, 64))
    pixels = cut if cut.dtype == np.uint8 else (cut * 255).astype(np.uint8)
    pixels = pixels if len(pixels) in (1, 3) else pixels[:1]
    return Picture(pixels.transpose(1, 2, 0).squeeze(), caption, right)


def neighbours_of(
    queries: torch.Tensor, train: Embeddings, source: ImageSource, eye: Eye, count: int, label: int | None = None
) -> tuple[Picture, ...]:
    """The ``count`` images whose embeddings are nearest to one row; marked right if of class ``label``, if that is given."""
    _, found = nearest(F.normalize(queries[None], dim=1), F.normalize(train.rows, dim=1), count)
    return tuple(
        picture(source, int(train.index[row]), eye, right=None if label is None else bool(train.labels[row] == label))
        for row in found[0].tolist()
    )


def _neighbours(source: ImageSource, network: nn.Module, eye: Eye, device: torch.device) -> tuple[Gallery, ...]:
    """Some images, and which of a sample the network finds nearest to them."""
    count = min(SAMPLED, len(source))
    sample = Subset(source, np.arange(count) * len(source) // count)
    training = network.training
    try:
        embeddings = embed_source(network.eval(), sample, eye, device=device)
    except NoImages:
        return ()
    finally:
        network.train(training)
    rows = []
    for row in range(0, len(embeddings.rows), max(1, len(embeddings.rows) // QUERIES))[:QUERIES]:
        others = torch.arange(len(embeddings.rows)) != row
        rest = Embeddings(embeddings.index[others.numpy()], embeddings.rows[others], embeddings.labels[others], ())
        found = neighbours_of(embeddings.rows[row], rest, sample, eye, SHOWN)
        query = picture(sample, int(embeddings.index[row]), eye)
        rows.append(Row(query, (Strip("nearest", found),)))
    note = f"Of {len(embeddings.rows)} images of the training set, by cosine."
    return (Gallery("Nearest neighbours", tuple(rows), note),)
