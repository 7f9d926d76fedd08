"""The commands from features to answers: each calls the function of its name in :mod:`coterie.answers`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coterie.cli.importing import importing
from coterie.cli.parsing import Model, TrainFlags, show


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
