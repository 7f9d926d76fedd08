"""Our own file, which rebuilds the network, or the classifier, by itself."""

import copy
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from coterie.exporting.backbone_file import WEIGHTS, describe_backbone, load_backbone, save_backbone
from coterie.exporting.formats.exportable import Exportable, Written
from coterie.exporting.model import is_own
from coterie.models.backbone import OWN
from coterie.models.own_backbone import users_module, wrap_backbone
from coterie.models.weights_file import split_branch
from coterie.version import __version__


def write_own(what: Exportable, folder: Path) -> Written:
    """Write ``model.safetensors``, or a classifier's file, and open it again.

    Args:
        what: the model.
        folder: where to.
    """
    if what.head is not None:
        what.head.write(folder)
        run, usage = what.head.read(folder), "coterie predict FOLDER IMAGES --out labels.csv  # in a shell\n"
    else:
        run, usage = _write_backbone(what, folder)

    def of_pixels(pixels: Tensor) -> Tensor:
        return run(what.normalized(pixels))

    return Written(f"coterie {__version__}", of_pixels, what.logits_or_features, 0.0, usage)


def _write_backbone(what: Exportable, folder: Path) -> tuple[nn.Module, str]:
    model, look = what.model, what.model.preprocessing
    own = model.backbone.name.startswith(OWN)
    whose: Literal["student", "teacher"] = "student"
    if is_own(model.name):
        whose = describe_backbone(split_branch(model.name)[0]).whose
    save_backbone(
        folder / WEIGHTS,
        model.network,
        model.backbone,
        model.image_size,
        look.mean,
        look.std,
        interpolation=look.interpolation,
        crop=look.crop,
        size=look.size,
        value_range=look.value_range,
        whose=whose,
    )
    module = copy.deepcopy(users_module(model.network)) if own else None
    into = ", into=module" if own else ""
    loaded = load_backbone(folder / WEIGHTS, into=module)
    usage = f'import coterie\n\nnetwork = coterie.load_backbone("FOLDER"{into})\nfeatures = network(pixels)\n'
    return (wrap_backbone(loaded, model.backbone, model.image_size).eval() if own else loaded), usage
