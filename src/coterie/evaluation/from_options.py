"""From the options of ``evaluate`` and ``transfer`` to an evaluator, and to what is written down of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from coterie.config.hardware import Runtime
from coterie.config.options import EvaluationOptions, check_options, model_options
from coterie.config.schema import PUBLISHED, check_known
from coterie.data.sources.columns import Columns
from coterie.data.sources.own_data import Data
from coterie.errors import BadConfig
from coterie.evaluation.evaluation_file import note_evaluation
from coterie.evaluation.evaluator import OF_IMAGES, PROBES, Evaluator
from coterie.evaluation.given_sets import given_sets
from coterie.evaluation.probes.few_labels import FewLabels, few_labels
from coterie.evaluation.probes.finetuning import FINETUNING_RECIPES
from coterie.evaluation.probes.listed_labels import ListedLabels, listed_labels
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
    if options.get("boxes") is not None:
        raise BadConfig(f"--boxes is for a detector, and {model} is none: coterie train --boxes makes one")
    if options.get("masks") is not None or options.get("classes") is not None:
        raise BadConfig(
            f"--masks and --classes are for a segmenter, and {model} is none: coterie train --masks makes one"
        )
    few, recipe = _labels_and_recipe(options)
    precision = options.get("precision", "auto")
    runtime = Runtime.choose(options.get("device", "auto"), precision, options.get("workers", -1), logger)
    opened = model_options(options)
    name, size = opened.get("backbone"), opened.get("size")
    if isinstance(name, str) and is_own(model) and any(map(is_public_file, beside)):
        opened["backbone"] = None  # the option names the network of those
    return Evaluator(
        open_model(model, runtime.device, **opened),
        probes,
        runtime,
        beside=open_beside(beside, runtime.device, name, size),
        few=few,
        recipe=recipe,
        seed=options.get("seed", 0),
        exact=precision == "auto" and any(each in PUBLISHED for each in probes),
    )


def _labels_and_recipe(options: EvaluationOptions) -> tuple[FewLabels | ListedLabels, str | None]:
    """Which training labels ``finetune`` may use, and the name of its recipe; with 1% or 10% alone, all labels of TRAIN."""
    fraction, number = options.get("label_fraction"), options.get("labels_per_class")
    listed, recipe = options.get("label_list"), options.get("recipe")
    if listed is not None:
        if fraction is not None or number is not None:
            raise BadConfig(
                "--label-list says which labels are used: leave out --label-fraction and --labels-per-class"
            )
        return listed_labels(listed), recipe
    if recipe in FINETUNING_RECIPES and fraction is None and number is None:
        return FewLabels(share=1.0), recipe
    return few_labels(fraction, number), recipe


def evaluate_given(
    evaluator: Evaluator, train: Data, test: Data, columns: Columns, name: str | None = None
) -> ProbeResults:
    """Evaluate on labeled images as a caller gives them, and write it down.

    Args:
        evaluator: what evaluates.
        train: to train probes on: paths, or images of the caller's own.
        test: to test them on; empty: a fifth of ``train``.
        columns: where images and labels are in them.
        name: of the set, if it is one of a transfer.

    Raises:
        UserError: they are no labeled images, or the file cannot be written.
    """
    given = given_sets(train, test, columns, evaluator.runtime.logger)
    found = evaluator.evaluate(*given.open(columns, evaluator.runtime.logger))
    asked = {"set": name} | {f"columns.{each}": value for each, value in asdict(columns).items()}
    note_for_run(evaluator, given.settings | {key: value for key, value in asked.items() if value is not None}, found)
    return found


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
    on_images = [each for each in evaluator.probes if each in OF_IMAGES]
    embeds, passes = evaluator.embedding.precision, evaluator.runtime.precision
    if model.run is None:
        return
    asked: dict[str, Any] = {
        **sources,
        "probes": evaluator.probes,
        "beside": [each.name for each in evaluator.beside],
        **evaluator.few.asked(),
        **({"recipe": evaluator.recipe} if evaluator.recipe is not None else {}),
        "seed": evaluator.seed,
        "preprocessing": model.preprocessing.facts(),
        "precision": passes if len(on_images) == len(evaluator.probes) else embeds,
        **({"precision.images": passes} if on_images and passes != embeds else {}),
    }
    note_evaluation(model.run, asked, found, evaluator.runtime.logger)
