"""``README.md`` of an exported folder: what it holds, where it is from, how to load it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coterie.exporting.formats.exportable import Exportable, Written

_LIBRARIES = {"timm": "timm", "transformers": "transformers", "onnx": "onnx"}


@dataclass(frozen=True)
class CardFacts:
    """What the card says besides the network itself.

    Attributes:
        license: an identifier of SPDX, such as apache-2.0, or ``unknown``.
        origin: where the weights are from, a line each: method, data, length of the training.
        figures: ``{name: value}``, as measured.
        limits: what to know before use, a line each.
    """

    license: str = "unknown"
    origin: Sequence[str] = ()
    figures: Mapping[str, str] | None = None
    limits: Sequence[str] = ()


def model_card(what: Exportable, written: Written, form: str, difference: float, facts: CardFacts) -> str:
    """Write the card, as the hub of Hugging Face reads it.

    Args:
        what: the model.
        written: what was written of it.
        form: the format.
        difference: what :func:`~coterie.exporting.verification.verify` has found.
        facts: the rest.
    """
    config, look, head = what.model.backbone, what.model.preprocessing, what.head
    count = sum(each.numel() for each in what.model.network.parameters())
    task = "image-classification" if head is not None else "image-feature-extraction"
    front = {"license": facts.license, "library_name": _LIBRARIES.get(form), "pipeline_tag": task, "tags": ["coterie"]}
    kind = "An image classifier" if head is not None else "A network that turns images into features"
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in front.items() if value),  # YAML, which JSON is part of
        "---",
        "",
        f"# {config.name.partition('.')[0]}",
        "",
        f"{kind}: {what.name}, {count / 1e6:.1f} million parameters, {config.channels} channels.",
        "",
        "## Use",
        "",
        "```python" if not written.usage.startswith(("python ", "coterie ")) else "```sh",
        written.usage.strip(),
        "```",
        "",
        f"Images: {look}; the short side is resized to {look.resized} pixels and the center is cropped. "
        f"{_inside(written)}{_sizes(written)}",
    ]
    if head is not None:
        lines += ["", "## Classes", "", *_classes(what)]
    if facts.origin:
        lines += ["", "## Training", "", *(f"* {each}" for each in facts.origin)]
    if facts.figures:
        lines += ["", "## Figures", "", "| | |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in facts.figures.items()]
    if facts.limits:
        lines += ["", "## Limits", "", *(f"* {each}" for each in facts.limits)]
    same = "nothing" if difference == 0 else f"at most {difference:.1e} of the largest value"
    lines += ["", f"Checked in {written.library} when it was written: it differs from the original by {same}.", ""]
    return "\n".join(lines)


def _inside(written: Written) -> str:
    if not written.inside:
        return "`pixels` are normalized. "
    return f"Normalization is inside; pixels are {'bytes from 0 to 255' if written.bytes_in else 'from 0 to 1'}. "


def _sizes(written: Written) -> str:
    return "Batches of any number; " + ("images of any size." if written.any_size else "images of this size alone.")


def _classes(what: Exportable) -> list[str]:
    head = what.head
    assert head is not None
    how = "Several per image: a probability each" if head.multi_label else "One per image: probabilities sum to 1"
    unknown = "" if head.threshold is None else f" Below a largest probability of {head.threshold:.4g}, say *unknown*."
    shown = [f"{number}: {name}" for number, name in enumerate(head.classes)]
    more = [f"and {len(shown) - 100} more, in the configuration"] if len(shown) > 100 else []
    return [
        f"{how}; logits and probabilities are calibrated.{unknown}",
        "",
        *(f"* {each}" for each in [*shown[:100], *more]),
    ]
