"""What a classifier adds when it is exported: its head, and what its model card says."""

from pathlib import Path

import torch
from torch import Tensor, nn

from coterie.classifier.classifier_file import Classifier, open_classifier, save_classifier
from coterie.exporting.formats.exportable import Exportable, ExportHead
from coterie.exporting.model_card import CardFacts

_TRAINING = ("model", "kind", "candidate", "images", "date")
"""What the training notes in the file, besides its figures."""


def exportable_classifier(classifier: Classifier, backbone: nn.Module | None = None) -> Exportable:
    """A classifier as the formats of ``coterie export`` take it, with its temperature in its logits.

    Args:
        classifier: on the CPU.
        backbone: the module of a classifier whose backbone was given in Python.
    """

    def write(folder: Path) -> None:
        save_classifier(folder, classifier)

    def read(folder: Path) -> nn.Module:
        opened = open_classifier(folder, backbone=backbone)
        return nn.Sequential(opened.model.network, _calibrated(opened)).eval()

    head = _calibrated(classifier)
    linear = (head.weight, head.bias) if isinstance(head, nn.Linear) else None
    names, several, unknown = classifier.classes, classifier.multi_label, classifier.threshold
    return Exportable(classifier.model, ExportHead(head, linear, names, several, unknown, write, read))


def classifier_card(classifier: Classifier, license: str) -> CardFacts:  # noqa: A002 -- as the hub calls it
    """What the file of a classifier says of its training.

    Args:
        classifier: the classifier.
        license: of the weights.
    """
    about = dict(classifier.about or {})
    model, kind, candidate, images, date = (about.pop(name, "") for name in _TRAINING)
    on = "fine-tuned from" if kind == "finetune" else "on the features of"
    whence = f" {on} {Path(model).name}" if model else ""
    how = f": {', '.join(filter(None, (kind, candidate)))}" if kind or candidate else ""
    count = f", {images} labeled images" if images else ""
    origin = [f"A classifier of Coterie{whence}{how}{count}{f', {date}' if date else ''}."]
    figures = {name.replace("_", " "): value for name, value in about.items()}
    limits = [] if figures else ["Not tested: no class had an image to spare."]
    return CardFacts(license, origin, figures, limits)


class _Calibrated(nn.Module):
    """A head whose logits are divided by a temperature."""

    def __init__(self, head: nn.Module, temperature: float) -> None:
        super().__init__()
        self.head, self.temperature = head, temperature

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(features)
        return logits / self.temperature


def _calibrated(classifier: Classifier) -> nn.Module:
    """The head with its temperature; of a linear one, another linear one."""
    head, temperature = classifier.head, classifier.temperature
    if not isinstance(head, nn.Linear):
        return _Calibrated(head, temperature).eval()
    scaled = nn.Linear(head.in_features, head.out_features, device="meta")
    with torch.no_grad():
        scaled.weight, scaled.bias = (nn.Parameter(each / temperature, False) for each in (head.weight, head.bias))
    return scaled.eval()
