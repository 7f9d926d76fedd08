"""The commands from features to answers: each calls the function of its name in :mod:`coterie.answers`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coterie.cli.importing import importing
from coterie.cli.parsing import Model, ModelFlags, TrainFlags, show


def train(
    model: Model, /, *labelled: str, out: Annotated[Path, Parameter(name="--out")], options: TrainFlags = None
) -> None:
    """Train a classifier on labeled images, test it on held-out ones, and keep it. Run the same command again to resume.

    Parameters
    ----------
    labelled
        Labeled images: class folders, or any images with --labels; those without a label may help too.
    out
        The classifier's folder: classifier.safetensors, config.toml, metrics.jsonl, images.parquet, report.html.
    """
    with importing():
        from coterie import answers
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        figures = answers.train(model, labelled, out=out, logger=terminal, **(options or {}))
    show(
        str(figures),
        f"{out}: the classifier is in {out / 'classifier.safetensors'}; open {out / 'report.html'} in a browser",
    )


def export(
    model: Model,
    /,
    *,
    out: Annotated[Path, Parameter(name="--out")],
    format: str,  # noqa: A002 -- what it is called everywhere
    uint8: bool = False,
    license: str = "unknown",  # noqa: A002 -- as the hub of Hugging Face calls it
    options: ModelFlags = None,
) -> None:
    """Write a model, or a classifier, for another library, and check it there before it is done.

    Parameters
    ----------
    out
        The folder: weights, preprocessing, README.md; it must not exist yet.
    format
        One of timm, torchvision, transformers, onnx, torch_export, safetensors, swav.
    uint8
        For onnx and torch_export: take images as bytes [B, H, W, C] rather than as numbers from 0 to 1 [B, C, H, W].
    license
        Of the weights, for README.md, as SPDX names it: apache-2.0, cc-by-4.0, other.
    """
    with importing():
        from coterie import answers
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        written = answers.export(
            model, out=out, format=format, uint8=uint8, license=license, logger=terminal, **(options or {})
        )
    show(str(written))
