"""What the command line reads in a form of its own, and how it writes results."""

import os
import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from coterie.config.method_name import check_method_name, names_a_source
from coterie.config.options import (
    EmbedOptions,
    EvaluationOptions,
    ModelOptions,
    PredictOptions,
    RunOptions,
    StructureOptions,
    TrainOptions,
    TransferOptions,
)
from coterie.errors import UserError
from coterie.methods.names import METHOD_NAMES

PROCESS = os.environ.get("RANK", "0")

METHOD_HELP = f"One of {', '.join(METHOD_NAMES)} (docs/methods.md). Left out, it is chosen for images and time."
Method = Annotated[str | None, Parameter(help=METHOD_HELP)]
Model = Annotated[
    str,
    Parameter(
        help="A run's folder, a model.safetensors, a weights file with --backbone, a folder of Hugging Face, or timm:NAME."
    ),
]
Classifier = Annotated[
    str,
    Parameter(
        help="The folder of a classifier, a detector or a segmenter, or its .safetensors file.", name="CLASSIFIER"
    ),
]
Images = Annotated[
    str,
    Parameter(help="Folders, text lists of files, globs, *.parquet with an image column, *.tar shards, *.npy, *.npz."),
]
Sources = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=(), show_default=False)]
Trackers = Annotated[
    tuple[Literal["tensorboard", "wandb"], ...], Parameter(consume_multiple=True, negative=(), show_default=False)
]
RunFlags = Annotated[RunOptions, Parameter(name="*")] | None
ModelFlags = Annotated[ModelOptions, Parameter(name="*")] | None
EmbedFlags = Annotated[EmbedOptions, Parameter(name="*")] | None
PredictFlags = Annotated[PredictOptions, Parameter(name="*")] | None
TrainFlags = Annotated[TrainOptions, Parameter(name="*")] | None
StructureFlags = Annotated[StructureOptions, Parameter(name="*")] | None
TransferFlags = Annotated[TransferOptions, Parameter(name="*")] | None
EvaluationFlags = Annotated[EvaluationOptions, Parameter(name="*")] | None


def show(*lines: str) -> None:
    """Write lines of the result; of the processes that torchrun started, only the first does."""
    if PROCESS == "0":
        sys.stdout.writelines(line + "\n" for line in lines)


def refuse_unknown_method(method: str | None, options: RunOptions | None) -> None:
    """Refuse a misspelt method before torch is imported.

    With a config file, what METHOD may be depends on the file; a word that names images is no METHOD, which is then chosen.

    Raises:
        UserError: it is not a method.
    """
    if method is not None and not (options or {}).get("config") and not names_a_source(method):
        check_method_name(method, METHOD_NAMES)


def comma_separated(words: str) -> tuple[str, ...]:
    """The words between commas."""
    return tuple(word.strip() for word in words.split(",") if word.strip())


def named_set(text: str) -> tuple[str, str | tuple[str, str]]:
    """``NAME=TRAIN`` or ``NAME=TRAIN,TEST``.

    Raises:
        UserError: it is neither.
    """
    name, equals, where = text.partition("=")
    parts = [part for part in where.split(",") if part]
    if not (name and equals and 1 <= len(parts) <= 2):
        raise UserError(
            f"{text}: write each set as NAME=TRAIN or NAME=TRAIN,TEST; to train heads on IMAGES, give --out"
        )
    return name, parts[0] if len(parts) == 1 else (parts[0], parts[1])
