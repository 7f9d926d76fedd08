"""``model.pt2``: a program of ``torch.export``, with normalization inside, which needs torch and nothing else."""

from pathlib import Path

import torch
from torch import Tensor

from coterie.exporting.formats.deployed import traced
from coterie.exporting.formats.exportable import Exportable, Written

FILE = "model.pt2"


def write_torch_export(what: Exportable, folder: Path, *, bytes_in: bool = False) -> Written:
    """Write and open ``model.pt2``.

    Args:
        what: the model.
        folder: where to.
        bytes_in: whether it takes uint8 ``[B, H, W, C]``.

    Raises:
        UserError: torch cannot trace this network, or the file cannot be written.
    """
    program, module, any_size = traced(what, bytes_in=bytes_in, guarded=True)
    torch.export.save(program, folder / FILE)
    opened = torch.export.load(folder / FILE).module()

    def run(pixels: Tensor) -> Tensor:
        found: Tensor = opened(module.batch(pixels))
        return found

    images = "torch.uint8 [B, H, W, C]" if bytes_in else "torch.float32 [B, C, H, W], from 0 to 1"
    usage = f"""\
import torch

network = torch.export.load("FOLDER/{FILE}").module()
{module.output} = network(images)  # {images}, resized and cropped
"""
    version = f"torch {torch.__version__.partition('+')[0]}"
    return Written(version, run, module.output, 1e-5, usage, any_size, bytes_in, inside=True)
