"""Write a MODEL or a classifier in the format of another library, and check it there before it is done."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coterie.atomic import refuse_taken, write_text, writing_folder
from coterie.errors import BadConfig, UserError, did_you_mean
from coterie.exporting.formats.detectron2_file import write_detectron2
from coterie.exporting.formats.exportable import WEIGHTS_CONFIG, Exportable, Written
from coterie.exporting.formats.mmlab_file import write_mmlab
from coterie.exporting.formats.onnx_file import write_onnx
from coterie.exporting.formats.own_file import write_own
from coterie.exporting.formats.swav_file import write_swav
from coterie.exporting.formats.timm_folder import write_timm
from coterie.exporting.formats.torch_export_file import write_torch_export
from coterie.exporting.formats.torchvision_file import write_torchvision
from coterie.exporting.formats.transformers_folder import write_transformers
from coterie.exporting.model_card import CardFacts, model_card
from coterie.exporting.preprocessing import HUGGING_FACE
from coterie.exporting.preprocessing_files import preprocessor_config
from coterie.exporting.verification import verify
from coterie.paths import expand
from coterie.version import __version__

FORMATS: dict[str, Callable[[Exportable, Path, bool], Written]] = {
    "timm": lambda what, folder, _: write_timm(what, folder),
    "torchvision": lambda what, folder, _: write_torchvision(what, folder),
    "transformers": lambda what, folder, _: write_transformers(what, folder),
    "onnx": lambda what, folder, bytes_in: write_onnx(what, folder, bytes_in=bytes_in),
    "torch_export": lambda what, folder, bytes_in: write_torch_export(what, folder, bytes_in=bytes_in),
    "safetensors": lambda what, folder, _: write_own(what, folder),
    "swav": lambda what, folder, _: write_swav(what, folder),
    "detectron2": lambda what, folder, _: write_detectron2(what, folder),
    "mmlab": lambda what, folder, _: write_mmlab(what, folder),
}
"""By name, what writes a folder and opens it again; the last argument is ``bytes_in`` of :func:`export_model`."""
_FILE_ENDINGS = (".onnx", ".pt2", ".pth", ".pt", ".bin", ".safetensors", ".json")


@dataclass(frozen=True)
class Exported:
    """What was exported; prints as a line.

    Attributes:
        folder: where it is.
        format: one of ``FORMATS``.
        library: the library that opened it, with its version.
        difference: the largest difference to what our own code computes, as a share of the largest value.
        output: ``features``, ``logits`` or ``probabilities``.
        any_size: whether images may have any size.
        files: names of the files in the folder.
    """

    folder: Path
    format: str
    library: str
    difference: float
    output: str
    any_size: bool
    files: tuple[str, ...]

    def __str__(self) -> str:
        """Say it in a line."""
        by = "exactly" if self.difference == 0 else f"up to {self.difference:.1e} of the largest value"
        sizes = "of any size" if self.any_size else "of one size"
        return (
            f"{self.folder}: {', '.join(self.files)}; {self.library} computes the same {self.output}, {by}; batches of any "
            f"number of images {sizes}; README.md shows how to load it"
        )


def check_format(form: str, out: str | Path, *, bytes_in: bool) -> None:
    """Refuse what cannot be exported before anything is opened.

    Args:
        form: name of the format.
        out: the folder.
        bytes_in: as of :func:`export_model`.

    Raises:
        UserError: an unknown format, an option that it does not have, or something is at ``out``.
    """
    if form not in FORMATS:
        raise BadConfig(f"--format is {form!r}: use one of {', '.join(FORMATS)}{did_you_mean(form, FORMATS)}")
    if bytes_in and form not in ("onnx", "torch_export"):
        raise BadConfig(f"--uint8 is for --format onnx and torch_export: {form} takes normalized images")
    if Path(out).suffix in _FILE_ENDINGS:
        raise UserError(f"--out {out}: name a folder, in which the file, its configuration and README.md are written")
    refuse_taken(out)


def export_model(
    what: Exportable, form: str, out: str | Path, *, bytes_in: bool = False, facts: CardFacts | None = None
) -> Exported:
    """Write a folder that another library loads; it appears when that library has computed the same from it.

    Args:
        what: the model.
        form: one of ``FORMATS``.
        out: the folder.
        bytes_in: for ONNX and torch.export: take uint8 ``[B, H, W, C]`` in place of float32 ``[B, C, H, W]`` in [0, 1].
        facts: what the card says of the training.

    Raises:
        UserError: the format cannot hold this network, or computes something else; or the folder cannot be written.
    """
    check_format(form, out, bytes_in=bytes_in)
    with writing_folder(out) as folder:
        written = FORMATS[form](what, folder, bytes_in)
        difference = verify(what, written, form)
        _write_configuration(what, written, form, folder)
        write_text(folder / "README.md", model_card(what, written, form, difference, facts or CardFacts()))
        files = tuple(sorted(each.name for each in folder.iterdir()))
    return Exported(expand(out), form, written.library, difference, written.output, written.any_size, files)


def _write_configuration(what: Exportable, written: Written, form: str, folder: Path) -> None:
    """Write how images are prepared and what the outputs are, where the format has no place of its own for it."""
    if form == "timm":  # its config.json says all
        return
    look = preprocessor_config(what.model.preprocessing, inside=written.inside, bytes_in=written.bytes_in)
    write_text(folder / HUGGING_FACE, json.dumps(look, indent=2) + "\n")
    if form == "transformers":
        return
    about = {
        "library": written.library,
        "backbone": what.model.backbone.name,
        "output": written.output,
        "coterie": __version__,
        **what.about_classes(),
    }
    write_text(folder / WEIGHTS_CONFIG, json.dumps(about, indent=2) + "\n")
