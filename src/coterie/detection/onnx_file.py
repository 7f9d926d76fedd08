"""``model.onnx`` of a detector, by torch's older exporter, which torchvision supports; compared with it before it is kept."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from coterie.atomic import write_text, writing_folder
from coterie.detection.detector_file import Detector
from coterie.errors import BadConfig, UserError, first_cause
from coterie.exporting.export import check_format
from coterie.exporting.formats.exportable import WEIGHTS_CONFIG
from coterie.exporting.formats.onnx_file import FILE, require_onnx
from coterie.paths import expand
from coterie.version import __version__

_OPSET = 17
_SAME_BOX, _SAME_SCORE, _LEAST = 0.99, 1e-3, 0.98
"""Intersection over union and difference of scores of what counts as the same object; the share of objects that are the same.
Where two boxes overlap by just the limit of suppression, rounding decides which of them is kept."""
_SPREAD = 2.0
"""Standard deviation of the logits of categories while objects are compared."""


@dataclass(frozen=True)
class ExportedDetector:
    """What was exported; prints as a line.

    Attributes:
        folder: where it is.
        library: the library that ran it, with its version.
        compared: objects that the detector finds in made-up images, down to a score of 0.
        same: how many of them were found there too.
        difference: the largest difference of their scores.
        files: names of the files in the folder.
    """

    folder: Path
    library: str
    compared: int
    same: int
    difference: float
    files: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in a line."""
        found = (
            f"finds {self.same} of {self.compared} objects of any score, with scores up to {self.difference:.1e} apart"
        )
        files = ", ".join(self.files)
        return f"{self.folder}: {files}; {self.library} {found}; one image of any size at a time; README.md shows how"


@final
class _OneImage(nn.Module):
    """An image ``[c, H, W]`` to boxes, places of categories, scores and, of a Mask R-CNN, masks."""

    def __init__(self, network: nn.Module, *, masks: bool) -> None:
        super().__init__()
        self.network, self.names = network, ("boxes", "labels", "scores", *(("masks",) if masks else ()))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Find objects; torchvision counts categories from 1."""
        (found,) = self.network([image])
        return tuple(found[name] - 1 if name == "labels" else found[name] for name in self.names)


def export_detector(
    detector: Detector, form: str, out: str | Path, *, bytes_in: bool, licensed: str
) -> ExportedDetector:
    """Write a folder with ``model.onnx``; it appears when ONNX Runtime finds the same objects.

    Args:
        detector: on the CPU.
        form: must be ``onnx``.
        out: the folder.
        bytes_in: must be false: a detector takes float32 in [0, 1].
        licensed: of the weights, as SPDX names it.

    Raises:
        UserError: another format, the extra ``export`` is not installed, the network cannot be traced, or other objects are
            found.
    """
    check_format(form, out, bytes_in=bytes_in)
    if form != "onnx":
        raise BadConfig(
            f"--format is {form}: a detector is exported as onnx; for others, export the MODEL that it was trained from"
        )
    if bytes_in:
        raise BadConfig("--uint8 is for networks and classifiers: a detector takes an image [C, H, W] from 0 to 1")
    runtime = require_onnx()
    module = _OneImage(detector.network, masks=detector.settings.kind == "mask_rcnn").eval()
    library = f"onnxruntime {runtime.__version__}"
    with writing_folder(out) as folder:
        with _spread(detector):
            _write(module, detector, folder / FILE)
            compared, same, difference = _compare(module, detector, _session(runtime, folder / FILE))
        if same < _LEAST * compared:
            raise UserError(
                f"{library} finds {same} of {compared} objects alike in what was written: nothing is exported"
            )
        _write(module, detector, folder / FILE)
        _compare(module, detector, _session(runtime, folder / FILE))
        content = {
            "detector": detector.settings.kind,
            "categories": list(detector.categories),
            "category_ids": list(detector.numbers),
            "outputs": list(module.names),
            "library": library,
            "coterie": __version__,
        }
        write_text(folder / WEIGHTS_CONFIG, json.dumps(content, indent=2) + "\n")
        write_text(folder / "README.md", _card(detector, licensed))
        files = tuple(sorted(each.name for each in folder.iterdir()))
    return ExportedDetector(expand(out), library, compared, same, difference, files)


@contextmanager
def _spread(detector: Detector) -> Iterator[None]:
    """Let a detector return objects of any score, and spread these: where scores are alike, rounding decides what is kept."""
    network: Any = detector.network
    faster = hasattr(network, "roi_heads")
    part = network.roi_heads if faster else network
    layer = part.box_predictor.cls_score if faster else part.head.classification_head.cls_logits
    before, kept, seen = (
        part.score_thresh,
        {name: each.clone() for name, each in layer.state_dict().items()},
        list[Tensor](),
    )
    hook = layer.register_forward_hook(lambda _, __, logits: seen.append(logits.flatten()))
    with torch.no_grad():
        network(_images(detector)[:1])
        hook.remove()
        logits = torch.cat(seen)
        scale = _SPREAD / logits.std().clamp(min=1e-6)
        layer.weight.mul_(scale)
        layer.bias.sub_(logits.mean()).mul_(scale)
    part.score_thresh = 0.0
    try:
        yield
    finally:
        part.score_thresh = before
        layer.load_state_dict(kept)


def _write(module: _OneImage, detector: Detector, file: Path) -> None:
    axes = {"image": {1: "height", 2: "width"}} | {name: {0: "objects"} for name in module.names}
    if "masks" in axes:
        axes["masks"] |= {2: "height", 3: "width"}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # sizes that it takes for constants are in torchvision's hands
            torch.onnx.export(
                module,
                (_images(detector)[0],),
                str(file),
                dynamo=False,  # the newer one does not trace the choice of regions
                opset_version=_OPSET,
                input_names=["image"],
                output_names=list(module.names),
                dynamic_axes=axes,
            )
    except Exception as error:  # whatever a network may do that torch cannot trace
        raise UserError(
            f"torch cannot trace this {detector.name} ({first_cause(error)}): nothing is exported"
        ) from error


def _session(runtime: Any, file: Path) -> Any:
    return runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def _compare(module: _OneImage, detector: Detector, session: Any) -> tuple[int, int, float]:
    """How many objects a detector finds in some images, how many of them a session finds, and how scores differ at most."""
    compared, same, difference = 0, 0, 0.0
    for image in _images(detector):
        with torch.no_grad():
            boxes, labels, scores = module(image)[:3]
        given = session.run(None, {"image": image.numpy()})
        theirs = [torch.from_numpy(each) for each in given[:3]]
        compared += len(boxes)
        if not len(boxes) or not len(theirs[0]):
            continue
        overlap = box_iou(boxes.double(), theirs[0].double()) * (labels[:, None] == theirs[1][None])
        best, place = overlap.max(dim=1)
        apart = (scores - theirs[2][place]).abs()
        alike = (best > _SAME_BOX) & (apart < _SAME_SCORE)
        same += int(alike.sum())
        difference = max(difference, float(apart[alike].max()) if alike.any() else 0.0)
    return compared, same, difference


def _images(detector: Detector) -> list[Tensor]:
    """Images of three shapes, smooth and noisy, always the same."""
    side, channels = detector.settings.short_sides[-1], detector.model.backbone.channels
    generator, images = torch.Generator().manual_seed(0), []
    for height, width in ((side, side), (side, side + side // 4), (side + side // 2, side)):
        smooth = torch.rand(1, channels, 6, 6, generator=generator)
        large = F.interpolate(smooth, (height, width), mode="bilinear")[0]
        images.append(0.8 * large + 0.2 * torch.rand(channels, height, width, generator=generator))
    return images


def _card(detector: Detector, licensed: str) -> str:
    masks = ", masks" if detector.settings.kind == "mask_rcnn" else ""
    shape = ", masks [n, 1, height, width] of probabilities" if masks else ""
    return f"""\
---
license: {json.dumps(licensed)}
library_name: "onnx"
pipeline_tag: "object-detection"
tags: ["coterie"]
---

# {detector.settings.kind} on a {detector.model.backbone.name}

```python
import json

import onnxruntime

session = onnxruntime.InferenceSession("FOLDER/{FILE}")
boxes, labels, scores{masks} = session.run(None, {{"image": image}})
categories = json.load(open("FOLDER/{WEIGHTS_CONFIG}"))["categories"]  # categories[label]
```

`image`: np.float32 [channels, height, width], from 0 to 1; resizing and normalization are inside.
One image of any size at a time.
Boxes are left, top, right and bottom edge in pixels of the image{shape}. Objects of a score below .05 are left out.

Trained from {detector.about.get("model", "a MODEL")}, on {detector.about.get("images", "some")} images.
"""
