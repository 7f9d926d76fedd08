"""The verbs from features to answers. The command line calls these, and those of :mod:`coterie.api`, and nothing else."""

from pathlib import Path
from typing import Any, Unpack

from coterie.classifier.classifier_folder import REPORT
from coterie.classifier.train import train_classifier
from coterie.config.hardware import Runtime
from coterie.config.options import TrainOptions, check_options, label_columns, model_options
from coterie.data.sources.own_data import Data, given_data
from coterie.evaluation.classifier_figures import ClassifierFigures
from coterie.exporting.model import open_model
from coterie.logger import Logger
from coterie.reporting.classifier_page import write_classifier_page
from coterie.session import refuse_torchrun, session


def train(
    model: str | Path,
    labelled: Data,
    *,
    out: str | Path,
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[TrainOptions],
) -> ClassifierFigures:
    """Train a classifier on labeled images, and keep it: :func:`coterie.open_classifier` opens it.

    Every choice is made on images that are held out, and the figures are of these.

    Args:
        model: a MODEL, as of :func:`evaluate`.
        labelled: images with labels, one each or several (``docs/data.md``); images without a label beside them help where
            labels are few.
        out: the classifier's folder; the same call again completes one that was stopped.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.TrainOptions`.

    Returns:
        Its figures, which print as a table; ``folder`` is where it is.

    Raises:
        UserError: anything that the caller can fix, in one line.
    """
    refuse_torchrun()
    check_options(options, TrainOptions)
    with session(logger, quiet) as logger:
        columns = label_columns(options)
        runtime = Runtime.choose(
            options.get("device", "auto"), options.get("precision", "auto"), options.get("workers", -1), logger
        )
        opened = open_model(model, runtime.device, **model_options(options))
        given = given_data(labelled, "labelled", columns=columns, read_labels=True, logger=logger)
        source, named = given.open(columns, logger), columns.labels
        asked = {"model": str(model), "labelled": list(given.specs), "labels": named, "precision": runtime.precision}
        wishes: dict[str, Any] = {"kind": options.get("classifier"), "seed": options.get("seed", 0)}
        trained = train_classifier(opened, source, out, runtime, asked=asked, **wishes)
        write_classifier_page(trained.folder / REPORT, trained.figures, source, opened, trained.classifier.about or {})
    return trained.figures
