"""The verbs from features to answers. The command line calls these, and those of :mod:`coterie.api`, and nothing else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from torch import nn

from coterie.classifier.classifier_file import is_classifier, open_classifier
from coterie.classifier.classifier_folder import REPORT
from coterie.classifier.exported_head import classifier_card, exportable_classifier
from coterie.classifier.train import train_classifier
from coterie.config.hardware import Runtime
from coterie.config.options import ModelOptions, TrainOptions, check_options, label_columns, model_options
from coterie.data.sources.own_data import Data, given_data
from coterie.errors import BadConfig
from coterie.evaluation.classifier_figures import ClassifierFigures
from coterie.exporting.export import Exported, check_format, export_model
from coterie.exporting.formats.exportable import Exportable
from coterie.exporting.model import open_model
from coterie.exporting.model_card import CardFacts
from coterie.logger import Logger
from coterie.reporting.classifier_page import write_classifier_page
from coterie.reporting.run_card import run_card
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


def export(
    model: str | Path,
    *,
    out: str | Path,
    format: str,  # noqa: A002 -- what it is called everywhere
    uint8: bool = False,
    license: str = "unknown",  # noqa: A002 -- as the hub of Hugging Face calls it
    logger: Logger | None = None,
    quiet: bool = False,
    **options: Unpack[ModelOptions],
) -> Exported:
    """Write a model, or a classifier, for another library; the folder appears when that library computes the same from it.

    Args:
        model: a MODEL, as of :func:`evaluate`, or a CLASSIFIER.
        out: the folder, which does not exist yet: weights, configuration, preprocessing, and a model card, ``README.md``.
        format: ``timm``, ``torchvision``, ``transformers``, ``onnx``, ``torch_export``, ``safetensors`` or ``swav``
            (``docs/export.md``).
        uint8: for ``onnx`` and ``torch_export``: take images as bytes ``[B, H, W, C]`` rather than float32 ``[B, C, H, W]`` in
            [0, 1].
        license: of the weights, for the card, as SPDX names it.
        logger: receives messages and progress; None: they are shown.
        quiet: show nothing.
        options: the keys of :class:`coterie.config.options.ModelOptions`; of a CLASSIFIER ``backbone`` alone, as a module.

    Returns:
        Files, library and largest difference; prints as a line.

    Raises:
        UserError: the format cannot hold this network, with those that can; or anything that the caller can fix, in one line.
    """
    check_options(options, ModelOptions)
    check_format(format, out, bytes_in=uint8)
    with session(logger, quiet) as logger:
        if is_classifier(model):
            what, facts = _opened_classifier(model, license, options, logger)
        else:
            what = Exportable(open_model(model, **model_options(options), logger=logger))
            origin = (f"Weights: {Path(model).name}.",)
            facts = CardFacts(license, origin) if what.model.run is None else run_card(what.model.run, license)
        logger.info(f"{format}: writing {out}, and checking it where it is read")
        return export_model(what, format, out, bytes_in=uint8, facts=facts)


def _opened_classifier(
    model: str | Path, licensed: str, options: Mapping[str, Any], logger: Logger
) -> tuple[Exportable, CardFacts]:
    """A classifier to export, and what its card says.

    Raises:
        UserError: it is damaged, or an option is for a MODEL.
    """
    module = options.get("backbone")
    given = next((each for each in options if each != "backbone" or not isinstance(module, nn.Module)), None)
    if given is not None:
        raise BadConfig(f"--{given} is for a MODEL: {model} is a classifier, whose file says it")
    classifier = open_classifier(model, backbone=module)
    for line in classifier.model.lines:
        logger.info(line)
    return exportable_classifier(classifier, module), classifier_card(classifier, licensed)
