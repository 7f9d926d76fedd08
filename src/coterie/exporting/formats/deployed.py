"""A network with its preprocessing inside, as ONNX and torch.export hold it."""

import warnings
from typing import final

import torch
import torch.fx.experimental._config as tracing
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from coterie.errors import first_cause
from coterie.exporting.formats.exportable import Exportable, Output
from coterie.exporting.verification import longer_sides


@final
class Deployed(nn.Module):
    """Images to features, or to the probabilities of classes.

    Attributes:
        output: which of the two.
    """

    def __init__(self, what: Exportable, *, bytes_in: bool) -> None:
        """Put normalization, network and head into one module.

        Args:
            what: the model.
            bytes_in: take uint8 ``[B, H, W, C]``, as images are decoded, rather than float32 ``[B, C, H, W]`` in [0, 1].
        """
        super().__init__()
        look, white = what.model.preprocessing, 255.0 if bytes_in else 1.0
        self.bytes_in, self.network = bytes_in, what.model.network
        self.head = None if what.head is None else what.head.module
        self.multi_label = what.head is not None and what.head.multi_label
        self.output: Output = "features" if what.head is None else "probabilities"
        scale = torch.tensor([1 / (white * each) for each in look.std])
        shift = torch.tensor([mean / std for mean, std in zip(look.mean, look.std, strict=True)])
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Normalize, and apply the network and the head."""
        pixels = images.permute(0, 3, 1, 2).contiguous().float() if self.bytes_in else images
        features: Tensor = self.network(pixels * self.scale - self.shift)  # type: ignore[operator]
        if self.head is None:
            return features
        logits: Tensor = self.head(features)
        return logits.sigmoid() if self.multi_label else logits.softmax(1)

    def batch(self, pixels: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` as this module takes them."""
        return pixels.permute(0, 2, 3, 1).contiguous() if self.bytes_in else pixels


def traced(what: Exportable, *, bytes_in: bool, guarded: bool = False) -> tuple[ExportedProgram, Deployed, bool]:
    """Trace a network for any number of images, and of any size where it can be.

    Args:
        what: the model.
        bytes_in: as of :class:`Deployed`.
        guarded: whether the program is used with its guards, which may refuse sizes that it was not traced at: it is tried.

    Returns:
        The program, the module, and whether images may have any size.

    Raises:
        UserError: torch cannot trace this network.
    """
    module, side, channels = (
        Deployed(what, bytes_in=bytes_in),
        what.model.preprocessing.size,
        what.model.backbone.channels,
    )

    def zeros(count: int, width: int) -> Tensor:
        kind = torch.uint8 if bytes_in else torch.float32
        return module.batch(torch.zeros(count, channels, side, width, dtype=kind))

    height, width = (1, 2) if bytes_in else (2, 3)
    batch = {0: Dim.DYNAMIC}  # without a name: torch refuses one where a network rounds sizes
    free = batch | {height: Dim.DYNAMIC, width: Dim.DYNAMIC}
    # Oblivious of sizes of 1, for maps of one pixel: otherwise a guard refuses images whose last maps are larger.
    attempts = [(free, True), (free, False), (batch, False)] if guarded else [(free, False), (batch, False)]
    if any(type(each).__name__.endswith("Same") for each in module.modules()):
        # Padding that depends on the size, as in TensorFlow: torch would simplify formulas for minutes.
        attempts = attempts[-1:]
    why = ""
    for dynamic, oblivious in attempts:
        try:
            patched = tracing.patch(backed_size_oblivious=oblivious)  # type: ignore[attr-defined]
            with warnings.catch_warnings(), torch.no_grad(), patched:
                warnings.simplefilter("ignore")  # about libraries that torch itself uses
                program = torch.export.export(module, (zeros(2, side),), dynamic_shapes={"images": dynamic})
                if guarded:
                    other = longer_sides(what.model.network, channels, side) if dynamic is free else []
                    used = program.module()
                    for count, width in ((1, side), (3, side), *((2, each) for each in other)):
                        used(zeros(count, width))
        except Exception as error:  # whatever a network may do that torch cannot trace
            why = first_cause(error)
            continue
        return program, module, dynamic is free
    raise what.refusal("torch.export", f"torch cannot trace it ({why})")
