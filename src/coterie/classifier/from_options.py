"""From the options of ``evaluate`` to a classifier that is tested."""

from pathlib import Path

from coterie.classifier.classifier_file import open_classifier
from coterie.classifier.evaluate import evaluate_classifier
from coterie.config.hardware import Runtime
from coterie.config.options import EvaluationOptions, check_options, label_columns, machine_options, model_options
from coterie.data.sources.own_data import Data, given_data
from coterie.errors import BadConfig
from coterie.evaluation.classifier_figures import ClassifierResults
from coterie.logger import Logger


def evaluate_classifier_given(
    path: str | Path, test: Data, options: EvaluationOptions, logger: Logger
) -> ClassifierResults:
    """Test a classifier on labeled images as a caller gives them.

    Args:
        path: of the classifier.
        test: the images.
        options: as a user gave them; those of how a MODEL is opened are refused, as the file says it all.
        logger: receives messages and progress.

    Raises:
        UserError: an option that a classifier does not take, or images that cannot be used.
    """
    check_options(options, EvaluationOptions)
    if options.get("boxes") is not None:
        raise BadConfig(f"--boxes is for a detector, and {path} is a classifier: leave it out")
    if options.get("masks") is not None or options.get("classes") is not None:
        raise BadConfig(f"--masks and --classes are for a segmenter, and {path} is a classifier: leave them out")
    opened = {name: value for name, value in model_options(options).items() if value is not None}
    network = opened.pop("backbone", None)
    refused = next(iter(opened), None) or ("backbone" if isinstance(network, str) else None)
    if refused is not None:
        raise BadConfig(f"{path} is a classifier, which knows its network and its images: leave out --{refused}")
    runtime = Runtime.choose(**machine_options(options), logger=logger)
    classifier = open_classifier(path, runtime.device, backbone=network)
    columns = label_columns(options)
    source = given_data(test, "test", columns=columns, read_labels=True, logger=logger).open(columns, logger)
    return ClassifierResults(evaluate_classifier(classifier, source, runtime))
