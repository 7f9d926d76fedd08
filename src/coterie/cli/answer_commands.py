"""The commands from features to answers: each calls the function of its name in :mod:`coterie.answers`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coterie.cli.importing import importing
from coterie.cli.parsing import Classifier, Images, Model, ModelFlags, PredictFlags, TrainFlags, show


def train(
    model: Model, /, *labelled: str, out: Annotated[Path, Parameter(name="--out")], options: TrainFlags = None
) -> None:
    """Train a classifier on labeled images and test it on held-out ones, or a detector of boxes. Run it again to resume.

    Parameters
    ----------
    labelled
        Labeled images: class folders, or any images with --labels; those without a label may help too. Or those of --boxes.
    out
        The folder: classifier.safetensors, config.toml, metrics.jsonl, images.parquet, report.html; or detector.safetensors.
    """
    with importing():
        from coterie import answers
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        figures = answers.train(model, labelled, out=out, logger=terminal, **(options or {}))
    kept = f"the classifier is in {out / 'classifier.safetensors'}; open {out / 'report.html'} in a browser"
    if (options or {}).get("boxes") is not None:
        kept = f"the detector is in {out / 'detector.safetensors'}"
    show(str(figures), f"{out}: {kept}")


def export(
    model: Model,
    /,
    *,
    out: Annotated[Path, Parameter(name="--out")],
    format: str,  # noqa: A002 -- what it is called everywhere
    uint8: bool = False,
    license: str = "unknown",  # noqa: A002 -- as the hub of Hugging Face calls it
    options: ModelFlags = None,
) -> None:
    """Write a model, a classifier, or a detector (as onnx) for another library, and check it there before it is done.

    Parameters
    ----------
    out
        The folder: weights, preprocessing, README.md; it must not exist yet.
    format
        One of timm, torchvision, transformers, onnx, torch_export, safetensors, swav, detectron2, mmlab.
    uint8
        For onnx and torch_export: take images as bytes [B, H, W, C] rather than as numbers from 0 to 1 [B, C, H, W].
    license
        Of the weights, for README.md, as SPDX names it: apache-2.0, cc-by-4.0, other.
    """
    with importing():
        from coterie import answers
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        written = answers.export(
            model, out=out, format=format, uint8=uint8, license=license, logger=terminal, **(options or {})
        )
    show(str(written))


def predict(
    classifier: Classifier,
    /,
    *data: Images,
    out: Annotated[Path, Parameter(name="--out")],
    sort_into: Path | None = None,
    copy: Annotated[bool, Parameter(negative=())] = False,
    options: PredictFlags = None,
) -> None:
    """Write the label of each image, its probability, the runner-up and whether the image is of no known class; or boxes.

    Run the same command again to complete a folder of parts; torchrun or --ray writes it with many processes.

    Parameters
    ----------
    out
        A file ending in .csv or .parquet, or else a folder of parts; of a detector, a file ending in .json.
    sort_into
        A folder in which each label gets a folder of links to its images; nothing is overwritten. [default: none]
    copy
        With --sort-into: copy the images in place of linking to them.
    """
    with importing():
        from coterie import answers
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        written = answers.predict(
            classifier,
            data,
            out,
            sort_into=sort_into,
            copy=copy,
            logger=terminal,
            **(options or {}),
        )
    page = out.with_suffix(".html")
    show(
        f"{out}: {written} images" + (f"; open {page} in a browser" if out.suffix == ".json" and page.exists() else "")
    )
