"""From the options of ``evaluate`` and ``transfer`` to an evaluator, and to what is written down of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coterie.config.hardware import Runtime
from coterie.config.options import EvaluationOptions, check_options, model_options
from coterie.config.schema import check_known
from coterie.evaluation.evaluation_file import note_evaluation
from coterie.evaluation.evaluator import OF_IMAGES, PROBES, Evaluator
from coterie.evaluation.results import ProbeResults
from coterie.exporting.model import is_own, is_public_file, open_beside, open_model
from coterie.logger import Logger


def evaluator_from_options(
    model: str | Path, probes: Sequence[str], beside: Sequence[str], options: EvaluationOptions, logger: Logger
) -> Evaluator:
    """Open a MODEL, and those beside it, for evaluation.

    Args:
        model: the MODEL.
        probes: names of probes.
        beside: other MODELs.
        options: as a user gave them.
        logger: receives messages and progress.

    Raises:
        TypeError: an unknown option.
        UserError: an unknown probe, or no such model, in one line.
    """
    check_options(options, EvaluationOptions)
    check_known(probes, PROBES)
    runtime = Runtime.choose(options.get("device", "auto"), workers=options.get("workers", -1), logger=logger)
    opened = model_options(options)
    name, size = opened.get("backbone"), opened.get("size")
    if is_own(model) and any(map(is_public_file, beside)):
        opened["backbone"] = None  # the option names the network of those
    return Evaluator(
        open_model(model, runtime.device, **opened),
        probes,
        runtime,
        beside=open_beside(beside, runtime.device, name, size),
        labels=options.get("labels", "10%"),
        seed=options.get("seed", 0),
    )


def note_for_run(evaluator: Evaluator, sources: Mapping[str, str | Sequence[str]], found: ProbeResults) -> None:
    """Add an evaluation to ``evaluation.json`` of a run, with all that was asked; does nothing for other models.

    Args:
        evaluator: what evaluated.
        sources: names of the sources, and of the set if it is one of a transfer.
        found: the figures.

    Raises:
        UserError: the file cannot be written.
    """
    model = evaluator.model
    autocast = evaluator.runtime.autocast if {*OF_IMAGES} & {*evaluator.probes} else None  # embeddings are in float32
    if model.run is None:
        return
    asked: dict[str, Any] = {
        **sources,
        "probes": evaluator.probes,
        "beside": [each.name for each in evaluator.beside],
        "label_fraction": evaluator.labels,
        "seed": evaluator.seed,
        "preprocessing": model.preprocessing.facts(),
        "precision": "float32" if autocast is None else str(autocast).removeprefix("torch."),
    }
    note_evaluation(model.run, asked, found, evaluator.runtime.logger)
