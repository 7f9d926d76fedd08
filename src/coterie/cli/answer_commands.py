"""The commands from features to answers: each calls the function of its name in :mod:`coterie.answers`."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coterie.cli.importing import importing
from coterie.cli.parsing import (
    Classifier,
    Images,
    Model,
    ModelFlags,
    PredictFlags,
    Sources,
    StructureFlags,
    TrainFlags,
    TransferFlags,
    comma_separated,
    named_set,
    show,
)
from coterie.config.option_values import Whole


def train(
    model: Model, /, *labelled: str, out: Annotated[Path, Parameter(name="--out")], options: TrainFlags = None
) -> None:
    """Train a classifier on labeled images, a detector of boxes, or a segmenter of masks. Run it again to resume.

    Parameters
    ----------
    labelled
        Labeled images: class folders, or any images with --labels; those without a label may help too. Or those of
        --boxes or --masks.
    out
        The folder: classifier.safetensors, config.toml, metrics.jsonl, images.parquet, report.html; or detector.safetensors, or
        segmenter.safetensors.
    """
    with importing():
        from coterie import answers
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        figures = answers.train(model, labelled, out=out, logger=terminal, **(options or {}))
    kept = f"the classifier is in {out / 'classifier.safetensors'}; open {out / 'report.html'} in a browser"
    if (options or {}).get("boxes") is not None:
        kept = f"the detector is in {out / 'detector.safetensors'}"
    if (options or {}).get("masks") is not None:
        kept = f"the segmenter is in {out / 'segmenter.safetensors'}"
    show(str(figures), f"{out}: {kept}")


def transfer(
    model: Model,
    /,
    *sets: str,
    out: Path | None = None,
    test: Sources = (),
    probes: str = "knn,linear",
    beside: Sources = (),
    details: bool = False,
    options: TransferFlags = None,
) -> None:
    """Evaluate a network on several labeled sets; or train the same head from new weights, from it and from others.

    Parameters
    ----------
    sets
        Each NAME=TRAIN, a random fifth of which is tested on, or NAME=TRAIN,TEST. With --out: labeled images, or those of
        --boxes or --masks.
    out
        A folder: heads are trained on the images, and what is done is not done again. [default: none, probes on sets]
    test
        With --out: images to test heads on; without it, another fifth for each seed. [default: none]
    probes
        Separated by commas: knn, linear, linear_published, clusters, retrieval, svm, low_shot, linear_blocks, linear_images,
        finetune.
    beside
        Other models to compare; --backbone and --size are theirs too. [default: none]
    details
        Print every metric.
    """
    with importing():
        from coterie import answers
        from coterie.display.terminal import Terminal

    given = sets if out is not None else dict(map(named_set, sets))
    with closing(Terminal()) as terminal:
        names, opened = comma_separated(probes), options or {}
        table = answers.transfer(
            model, given, out=out, test=test, probes=names, beside=beside, details=details, logger=terminal, **opened
        )
    show(
        str(table),
        *([f"{out}: every figure is in transfer.json; open {out / 'report.html'} in a browser"] if out else []),
    )


def structure(
    model: Model,
    /,
    *images: Images,
    out: Annotated[Path, Parameter(name="--out")],
    segments: Whole = 10,
    options: StructureFlags = None,
) -> None:
    """Write a page of what a network tells apart in a handful of images: components, segments and nearest patches.

    Parameters
    ----------
    out
        The page, an .html file.
    segments
        How many groups all patches are divided into, 2 to 20.
    """
    with importing():
        from coterie import answers
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        page = answers.structure(model, images, out=out, segments=segments, logger=terminal, **(options or {}))
    show(f"open {page} in a browser")


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
    """Write the label of each image, its probability, the runner-up and whether it is of no known class; or boxes, or masks.

    Run the same command again to complete a folder of parts; torchrun or --ray writes it with many processes.

    Parameters
    ----------
    out
        A file ending in .csv or .parquet, or else a folder of parts; of a detector, a file ending in .json; of a segmenter, a
        folder: masks, overlays, report.html.
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
    pages = {".json": out.with_suffix(".html"), "": out / "report.html"}
    page = pages.get(out.suffix)
    show(f"{out}: {written} images" + (f"; open {page} in a browser" if page is not None and page.exists() else ""))
