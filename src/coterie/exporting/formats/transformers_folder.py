"""A folder that transformers' ``AutoModel.from_pretrained`` loads, with its own network of the same kind."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coterie.errors import UserError
from coterie.exporting.formats.exportable import Exportable, Written
from coterie.exporting.formats.other_layout import fill, fill_head, on_normalized
from coterie.exporting.formats.transformers_layout import OtherNetworkError, transformers_layout
from coterie.models.backbone import is_plain_timm


def write_transformers(what: Exportable, folder: Path) -> Written:
    """Write ``config.json`` and ``model.safetensors``, and let transformers load them.

    Args:
        what: the model.
        folder: where to.

    Raises:
        UserError: the extra ``export`` is not installed, or transformers has no such network.
    """
    transformers = _installed()
    what.refuse_own("transformers")
    network = what.model.network
    try:
        kind, settings = transformers_layout(network, what.model.backbone.channels)
        with _quiet(transformers):
            model = _built(transformers, kind, settings, what)
            base = model if what.head is None else model.base_model
            fill(base, network)
            if what.head is not None:
                head: Any = model.classifier  # of a ResNet, flattening comes first
                fill_head(head[-1] if hasattr(head, "__len__") else head, what)
            model.eval().save_pretrained(folder)
            arguments = {"add_pooling_layer": False} if what.head is None and kind == "ViT" else {}
            auto = transformers.AutoModel if what.head is None else transformers.AutoModelForImageClassification
            loaded = auto.from_pretrained(folder, **arguments).eval()
    except OtherNetworkError as error:
        also = " (but it reads the folder of --format timm)" if is_plain_timm(what.model.backbone) else ""
        raise what.refusal("transformers", f"{error}{also}") from error
    pooled = "pooler_output.flatten(1)" if kind == "ResNet" else "pooler_output"  # of a ResNet, a map of one pixel
    field = "logits" if what.head is not None else "last_hidden_state[:, 0]" if kind == "ViT" else pooled

    def run(images: Tensor) -> Tensor:
        returned = loaded(images)
        if what.head is not None:
            found: Tensor = returned.logits
        else:
            found = returned.last_hidden_state[:, 0] if kind == "ViT" else returned.pooler_output.flatten(1)
        return found

    given = "".join(f", {name}={value}" for name, value in arguments.items())
    usage = f"""\
from transformers import AutoImageProcessor, {auto.__name__}

processor = AutoImageProcessor.from_pretrained("FOLDER")
network = {auto.__name__}.from_pretrained("FOLDER"{given}).eval()
{what.logits_or_features} = network(**processor(image, return_tensors="pt")).{field}
"""
    library = f"transformers {transformers.__version__}"
    any_size = kind in ("ResNet", "ConvNext")
    return Written(library, on_normalized(what, run), what.logits_or_features, 1e-5, usage, any_size)


def _built(transformers: Any, kind: str, settings: dict[str, Any], what: Exportable) -> Any:
    """Transformers' network, with random weights."""
    config = getattr(transformers, f"{kind}Config")(**settings)
    with torch.random.fork_rng(devices=[]):
        if what.head is None:
            pooling = {"add_pooling_layer": False} if kind == "ViT" else {}
            return getattr(transformers, f"{kind}Model")(config, **pooling)
        config.id2label = dict(enumerate(what.head.classes))
        config.label2id = {name: number for number, name in enumerate(what.head.classes)}
        config.problem_type = f"{'multi' if what.head.multi_label else 'single'}_label_classification"
        return getattr(transformers, f"{kind}ForImageClassification")(config)


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its progress bars and warnings; both are as they were afterwards."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


def _installed() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise UserError("--format transformers needs transformers: pip install 'coterie[export]'") from error
    return transformers
