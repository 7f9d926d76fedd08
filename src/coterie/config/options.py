"""Options that several commands share, in Python and on the command line, each with its help text."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from cyclopts import Parameter

from coterie.config.option_values import Backbone, Numbers, Settings, Whole, Wholes
from coterie.data.sources.columns import Columns
from coterie.errors import UserError, did_you_mean

Precision = Literal["auto", "float32", "bfloat16"]


class ImageOptions(TypedDict, total=False):
    """Options of every command that reads images; each has its text here alone."""

    image_column: Annotated[
        str | None,
        Parameter(help="The column of a table that holds the images. [default: found by common names]"),
    ]


class LabelOptions(ImageOptions, total=False):
    """Options of every command that reads images, which may have labels."""

    labels: Annotated[
        str | Path | None,
        Parameter(help="A table (CSV, TSV, parquet) of image names and labels beside the images. [default: none]"),
    ]
    label_column: Annotated[
        str | None,
        Parameter(help="The column of a table that holds the labels. [default: found by common names]"),
    ]
    label_key: Annotated[
        str | None,
        Parameter(help="The key of the label in the .json files of tar shards, as in meta.class. [default: found]"),
    ]


class RunOptions(LabelOptions, total=False):
    """Options of ``plan``, ``profile`` and ``pretrain``.

    Attributes:
        backbone: Any network of timm, such as vit_small_patch16_224; with a tag, as in resnet18.a1_in1k, it starts from
            those public weights. [default: chosen from the images]
        start_from: MODEL|none. Weights to start from: a run's folder, a file of weights (FILE#BRANCH chooses one of several
            networks in it), a folder of Hugging Face, timm:NAME, or none. They bring a recipe of their own: lower rates,
            smaller crops, fewer epochs. [default: none, random weights]
        time: How long the run may take: 90s, 30m, 2h, 1h30m, or a number of minutes. Method, network, resolution and epochs
            are chosen for it, and laid out again if this machine turns out slower or faster. [default: none]
        epochs: Passes over the images. [default: chosen from their number and the time; on a CPU, about an hour]
        images: Stop after this many images, even within an epoch. [default: none, all epochs]
        batch_size: Images per step, over all processes. [default: chosen from the number of images]
        seed: Seed for weights, data order and augmentation. [default: 0]
        config: A config.toml, from a run or of your own, in place of the preset. [default: none]
        settings: Override a setting, as in --set groups.counts=300. May be given several times. [default: none]
    """

    backbone: Backbone | None
    start_from: str | Path | None
    time: str | float | None
    epochs: Whole | None
    images: Whole | None
    batch_size: Whole | None
    seed: Whole | None
    config: str | Path | None
    settings: Annotated[Settings, Parameter(name="--set", negative=())]


class MachineOptions(TypedDict, total=False):
    """Options of every command that uses a trained network.

    Attributes:
        device: One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N. [default: auto]
        workers: Processes that load images; -1: as many as there are cores to spare. [default: -1]
    """

    device: str
    workers: Whole


class PrecisionOptions(TypedDict, total=False):
    """Options of every command that embeds images."""

    precision: Annotated[
        Precision,
        Parameter(
            help="Of the network; auto: bfloat16 where the device has it in hardware. Embeddings are float32. [default: auto]"
        ),
    ]


class ModelOptions(TypedDict, total=False):
    """Options of every command that takes a MODEL: how it is opened, and how images are prepared for it."""

    backbone: Annotated[
        Backbone | None,
        Parameter(
            help="The network of a weights file that does not say it, as timm names it. [default: as the file says]"
        ),
    ]
    size: Annotated[
        Whole | None, Parameter(help="Side in pixels of the images that the network sees. [default: the model's]")
    ]
    mean: Annotated[
        Numbers | None,
        Parameter(help="Mean of each channel for pixels from 0 to 1, as in .485,.456,.406. [default: the model's]"),
    ]
    std: Annotated[
        Numbers | None,
        Parameter(help="Standard deviation of each channel, as in .229,.224,.225. [default: the model's]"),
    ]
    crop: Annotated[
        float | None, Parameter(help="Share of the resized short side that is cropped, as .875. [default: the model's]")
    ]
    interpolation: Annotated[
        str | None, Parameter(help="One of bilinear, bicubic, lanczos, nearest. [default: the model's]")
    ]


class TableOptions(TypedDict, total=False):
    """Options of every command that writes a row for each image: to one file, or to a folder of parts."""

    part_images: Annotated[
        Whole | None,
        Parameter(help="Images per part of a folder, a multiple of 256. [default: 65536, or as many as take 4 GiB]"),
    ]
    ray: Annotated[
        str | None,
        Parameter(
            help="For a folder: local starts Ray on this machine; auto or an address uses a cluster. [default: none]"
        ),
    ]
    actors: Annotated[
        Whole,
        Parameter(
            help="At most so many Ray actors; 0: one per GPU, or without GPUs one for every two cores. [default: 0]"
        ),
    ]


class EmbedOptions(TableOptions, MachineOptions, PrecisionOptions, ModelOptions, LabelOptions, total=False):
    """Options of ``embed``.

    Attributes:
        device: One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N. [default: auto]
        workers: Processes that load images; -1: as many as there are cores to spare. [default: -1]
    """


class StructureOptions(MachineOptions, PrecisionOptions, ModelOptions, ImageOptions, total=False):
    """Options of ``structure``.

    Attributes:
        device: One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N. [default: auto]
        workers: Processes that load images; -1: as many as there are cores to spare. [default: -1]
    """


class BoxOptions(TypedDict, total=False):
    """Options of every command that reads boxes around objects."""

    boxes: Annotated[
        str | Path | None,
        Parameter(help="Boxes around objects: a COCO file, or a folder of Pascal VOC's XML files. [default: none]"),
    ]


class DetectionOptions(BoxOptions, total=False):
    """Options of ``train`` for detectors alone."""

    detector: Annotated[
        str | None,
        Parameter(
            help="With --boxes: faster_rcnn, mask_rcnn or retinanet; a MODEL none is new weights. [default: faster_rcnn]"
        ),
    ]


class MaskOptions(TypedDict, total=False):
    """Options of every command that reads masks."""

    masks: Annotated[
        str | Path | None,
        Parameter(
            help="A class for each pixel: a folder of PNG masks that are named as their images, of VOC, Cityscapes or ADE20K, "
            "or a list of VOC. [default: none]"
        ),
    ]
    classes: Annotated[
        str | Path | None,
        Parameter(
            help="With --masks: a .txt or .json file of the names of classes, or voc, cityscapes or ade20k. [default: as the "
            "folder says, or the values of the masks]"
        ),
    ]


class SegmentationOptions(MaskOptions, total=False):
    """Options of ``train`` for segmenters alone."""

    head: Annotated[
        str | None,
        Parameter(
            help="With --masks: linear (on features that stay as they are), fcn or upernet (the network is trained too). "
            "[default: linear]"
        ),
    ]
    blocks: Annotated[
        Wholes | None,
        Parameter(
            help="With --masks: numbers of the feature maps that the head sees, as in 2,3. [default: by the head]"
        ),
    ]


class DenseOptions(DetectionOptions, SegmentationOptions, total=False):
    """Options of ``train`` for detectors and segmenters."""

    schedule: Annotated[
        str | None,
        Parameter(
            help="With --boxes: small (ours), voc, coco_1x or coco_2x (as published); with --masks: small, linear_ade20k, "
            "fcn_voc, fcn_cityscapes or upernet_ade20k. [default: small]"
        ),
    ]
    epochs: Annotated[
        Whole | None, Parameter(help="With --boxes or --masks: passes over the images. [default: as the schedule says]")
    ]
    batch_size: Annotated[
        Whole | None, Parameter(help="With --boxes or --masks: images per step. [default: as the schedule says]")
    ]
    learning_rate: Annotated[
        float | None, Parameter(help="With --boxes or --masks: the highest. [default: as the schedule says]")
    ]


class TrainOptions(DenseOptions, MachineOptions, PrecisionOptions, ModelOptions, LabelOptions, total=False):
    """Options of ``train``.

    Attributes:
        classifier: One of knn (the nearest labeled images vote), linear (a layer on frozen features) and finetune (the whole
            network is trained). [default: knn or linear, by the number of labels]
        time: How long it may take: 90s, 30m, 2h, 1h30m, or a number of minutes. Epochs of finetune are chosen for it by a
            rehearsal on this machine; of knn and linear, embedding has to fit; a detector or a segmenter is trained so
            long. [default: none]
        balanced: Let all classes count alike, however many images each has. [default: no]
        seed: Seed for which images are held out, and for fine-tuning; of a detector or a segmenter, for new weights,
            order and flips. [default: 0]
        device: One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N. [default: auto]
        workers: Processes that load images; -1: as many as there are cores to spare. [default: -1]
    """

    classifier: str | None
    time: str | float | None
    balanced: Annotated[bool, Parameter(negative=())]
    seed: Whole


class PredictOptions(TableOptions, MachineOptions, PrecisionOptions, ImageOptions, total=False):
    """Options of ``predict``.

    Attributes:
        boxes: Of a detector: a COCO file whose images are predicted, with the ids that they have there. [default: none]
        device: One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N. [default: auto]
        workers: Processes that load images; -1: as many as there are cores to spare. [default: -1]
    """

    boxes: str | Path | None


class EvaluationOptions(
    BoxOptions, MaskOptions, MachineOptions, PrecisionOptions, ModelOptions, LabelOptions, total=False
):
    """Options of ``evaluate`` and ``transfer``.

    Attributes:
        recipe: As published, for linear_published, linear_blocks and linear_images: imagenet, places205, inat18 or smog_swin;
            for finetune: 1% or 10%, SwAV's for these shares of ImageNet's labels (alone, with all labels of TRAIN).
            [default: imagenet; of linear_blocks, places205; of finetune, by the number of labels]
        label_fraction: For finetune: the share of the training labels of each class, such as 1%. [default: 10%]
        labels_per_class: For finetune, in place of a share: training labels per class, such as 5. [default: none]
        label_list: For finetune, in place of a share: a text file of the training images whose labels are used, one name a
            line, such as SimCLR's 1percent.txt. [default: none]
        seed: Seed for what a probe draws. [default: 0]
        device: One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N. [default: auto]
        workers: Processes that load images; -1: as many as there are cores to spare. [default: -1]
    """

    recipe: str | None
    label_fraction: str | float | None
    labels_per_class: Whole | None
    label_list: str | Path | None
    seed: Whole


class TransferOptions(DenseOptions, EvaluationOptions, total=False):
    """Options of ``transfer``.

    Attributes:
        classifier: With --out: one of knn, linear and finetune. [default: knn or linear, by the number of labels]
        test_boxes: With --boxes and --test: the boxes of the test images. [default: those of --boxes]
        test_masks: With --masks and --test: the masks of the test images. [default: those of --masks]
        seeds: With --out: how many seeds, counted from --seed. [default: 3]
        recipe: As published, for linear_published, linear_blocks and linear_images: imagenet, places205, inat18 or smog_swin;
            for finetune: 1% or 10%, SwAV's for these shares of ImageNet's labels (alone, with all labels of TRAIN).
            [default: imagenet; of linear_blocks, places205; of finetune, by the number of labels]
        label_fraction: For finetune: the share of the training labels of each class, such as 1%. [default: 10%]
        labels_per_class: For finetune, in place of a share: training labels per class, such as 5. [default: none]
        label_list: For finetune, in place of a share: a text file of the training images whose labels are used, one name a
            line, such as SimCLR's 1percent.txt. [default: none]
        seed: Seed for what a probe draws; with --out, the first seed. [default: 0]
        device: One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N. [default: auto]
        workers: Processes that load images; -1: as many as there are cores to spare. [default: -1]
    """

    classifier: str | None
    test_boxes: str | Path | None
    test_masks: str | Path | None
    seeds: Whole


def label_columns(options: Mapping[str, Any]) -> Columns:
    """Where images and labels are, by the :class:`LabelOptions` among some options.

    Raises:
        UserError: ``labels`` is a share or a number, which it was in an earlier version.
    """
    labels = options.get("labels")
    share = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(%?)\s*", str(labels))
    if share and not Path(str(labels)).exists():
        option = "--label-fraction" if share[2] else "--labels-per-class"
        raise UserError(f"--labels {labels}: this option names a table of labels; write {option} {share[1]}{share[2]}")
    return Columns(
        options.get("image_column"),
        options.get("label_column"),
        options.get("label_key"),
        None if labels is None else str(labels),
    )


def model_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some options that say how a MODEL is opened."""
    return _among(options, ModelOptions)


def machine_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some options that say where and in which precision a network computes."""
    return _among(options, MachineOptions, PrecisionOptions)


def table_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of some options that say how a table of images is written."""
    return _among(options, TableOptions, MachineOptions, PrecisionOptions)


def _among(options: Mapping[str, Any], *kinds: type) -> dict[str, Any]:
    """Those of some options that are of these kinds."""
    known = {name for kind in kinds for name in kind.__annotations__}
    return {name: value for name, value in options.items() if name in known}


def check_options(options: Mapping[str, Any], kind: type) -> None:
    """Check keyword arguments against a ``TypedDict``, as Python checks those that a function spells out.

    Raises:
        TypeError: an unknown keyword; the message suggests the one that was probably meant.
    """
    known = kind.__annotations__.keys() | {
        name for base in kind.__mro__ for name in getattr(base, "__annotations__", ())
    }
    for name in options:
        if name not in known:
            raise TypeError(f"unexpected keyword argument {name!r}{did_you_mean(name, known)}")
