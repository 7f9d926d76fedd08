"""Learn visual features from unlabeled images by grouping them.

What stands in ``__all__`` is public. Each name is imported when it is first asked for, so that ``coterie --help`` and
``import coterie.grouping`` do not wait for what they do not need.
"""

import random
import warnings
from importlib import import_module
from typing import TYPE_CHECKING

from coterie.version import __version__

if TYPE_CHECKING:
    from coterie.answers import export, predict, structure, train, transfer
    from coterie.api import compare, embed, evaluate, plan, pretrain, profile, report, select
    from coterie.classifier.classifier_file import Classifier, open_classifier
    from coterie.cli.demo import demo
    from coterie.config.facts import Facts
    from coterie.config.schema import PretrainConfig
    from coterie.data.sources.open import open_source
    from coterie.detection.detector_file import Detector, open_detector
    from coterie.errors import CoterieWarning, UserError
    from coterie.exporting.backbone_file import describe_backbone, load_backbone
    from coterie.methods.planner import Planner
    from coterie.reporting.tracking import TensorBoardCallback, WandbCallback
    from coterie.segmentation.segmenter_file import Segmenter, open_segmenter
    from coterie.training.callback import Callback
    from coterie.training.custom_parts import CustomParts

__all__ = [
    "Callback",
    "Classifier",
    "CoterieWarning",
    "CustomParts",
    "Detector",
    "Facts",
    "Planner",
    "PretrainConfig",
    "Segmenter",
    "TensorBoardCallback",
    "UserError",
    "WandbCallback",
    "__version__",
    "compare",
    "demo",
    "describe_backbone",
    "embed",
    "evaluate",
    "export",
    "load_backbone",
    "open_classifier",
    "open_detector",
    "open_segmenter",
    "open_source",
    "plan",
    "predict",
    "pretrain",
    "profile",
    "report",
    "select",
    "structure",
    "train",
    "transfer",
]

_HOMES = {
    "Callback": "training.callback",
    "Classifier": "classifier.classifier_file",
    "CoterieWarning": "errors",
    "CustomParts": "training.custom_parts",
    "Detector": "detection.detector_file",
    "Facts": "config.facts",
    "Planner": "methods.planner",
    "PretrainConfig": "config.schema",
    "Segmenter": "segmentation.segmenter_file",
    "TensorBoardCallback": "reporting.tracking",
    "UserError": "errors",
    "WandbCallback": "reporting.tracking",
    "compare": "api",
    "demo": "cli.demo",
    "describe_backbone": "exporting.backbone_file",
    "embed": "api",
    "evaluate": "api",
    "export": "answers",
    "load_backbone": "exporting.backbone_file",
    "open_classifier": "classifier.classifier_file",
    "open_detector": "detection.detector_file",
    "open_segmenter": "segmentation.segmenter_file",
    "open_source": "data.sources.open",
    "plan": "api",
    "predict": "answers",
    "pretrain": "api",
    "profile": "api",
    "report": "api",
    "select": "api",
    "structure": "answers",
    "train": "answers",
    "transfer": "answers",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    state = random.getstate()  # some of the libraries that are imported draw from it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in notebooks: nothing here shows such bars
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    random.setstate(state)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
