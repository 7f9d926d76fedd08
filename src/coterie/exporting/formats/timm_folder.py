"""A folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads, as it loads one of the hub."""

import json
from pathlib import Path

import timm
import torch

from coterie.atomic import write_text
from coterie.exporting.backbone_file import WEIGHTS, write_tensors
from coterie.exporting.formats.exportable import WEIGHTS_CONFIG, Exportable, Written
from coterie.exporting.formats.other_layout import fill_head, on_normalized
from coterie.exporting.preprocessing_files import timm_data_config
from coterie.models.backbone import feature_width, is_plain_timm, timm_arguments


def write_timm(what: Exportable, folder: Path) -> Written:
    """Write ``model.safetensors`` and ``config.json``, and let timm load them.

    Args:
        what: the model.
        folder: where to.

    Raises:
        UserError: timm does not build this network, or this head.
    """
    config, head = what.model.backbone, what.head
    what.refuse_own("timm")
    if not is_plain_timm(config):
        changed = "width" if config.width != 1 else "stem" if config.stem != "standard" else "norm before each MLP"
        raise what.refusal("timm", f"its {changed} is not timm's")
    name, classes = config.name.partition(".")[0], 0 if head is None else len(head.classes)
    arguments = timm_arguments(config, what.model.image_size) | {"num_classes": classes}
    network = what.model.network
    if head is not None:
        with torch.random.fork_rng(devices=[]):
            network = timm.create_model(name, **arguments).eval()
        classifier = network.get_classifier()
        if not isinstance(classifier, torch.nn.Linear):
            raise what.refusal("timm", f"the classifier of a {name} is not one linear layer")
        network.load_state_dict(what.model.network.state_dict(), strict=False)
        fill_head(classifier, what)
    write_tensors(folder / WEIGHTS, network.state_dict(), {"format": "pt"})
    known = getattr(network, "pretrained_cfg", {})
    pretrained = timm_data_config(what.model.preprocessing) | {
        "num_classes": classes,
        "custom_load": False,
        **{key: known[key] for key in ("pool_size", "first_conv", "classifier", "fixed_input_size") if key in known},
    }
    content = {
        "architecture": name,
        "num_classes": classes,
        "num_features": feature_width(network),
        "model_args": {key: value for key, value in arguments.items() if key != "num_classes"},
        "pretrained_cfg": pretrained,
    }
    if head is not None:
        content |= {"label_names": list(head.classes), "coterie": dict(what.about_classes())}
    write_text(folder / WEIGHTS_CONFIG, json.dumps(content, indent=2) + "\n")
    with torch.random.fork_rng(devices=[]):
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    usage = f"""\
import timm

network = timm.create_model("local-dir:FOLDER", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({{}}, model=network))
{what.logits_or_features} = network(transform(image)[None])  # image: of Pillow
"""
    library = f"timm {timm.__version__}"
    return Written(library, on_normalized(what, loaded), what.logits_or_features, 0.0, usage)
