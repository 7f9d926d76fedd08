"""How images are prepared, as files that other libraries read."""

from typing import Any

from PIL import Image

from coterie.data.loading.center_crop import Preprocessing


def preprocessor_config(look: Preprocessing, *, inside: bool = False, bytes_in: bool = False) -> dict[str, Any]:
    """The content of ``preprocessor_config.json``, which transformers' ``AutoImageProcessor`` reads.

    Args:
        look: how images are prepared.
        inside: whether the network itself normalizes.
        bytes_in: whether it takes pixels from 0 to 255.
    """
    return {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": look.resized},
        "resample": int(Image.Resampling[look.interpolation.upper()]),
        "do_center_crop": True,
        "crop_size": {"height": look.size, "width": look.size},
        "do_rescale": not bytes_in,
        "rescale_factor": 1 / 255,
        "do_normalize": not inside,
        "image_mean": list(look.mean),
        "image_std": list(look.std),
        "do_convert_rgb": look.channels == 3,
    }


def timm_data_config(look: Preprocessing) -> dict[str, Any]:
    """What timm's ``resolve_data_config`` reads of a ``pretrained_cfg``.

    Args:
        look: how images are prepared.
    """
    share = 0.875 if int(look.size / 0.875) == look.resized else look.size / (look.resized + 1e-3)  # timm rounds down
    return {
        "input_size": [look.channels, look.size, look.size],
        "interpolation": look.interpolation,
        "crop_pct": 1.0 if look.resized == look.size else share,
        "crop_mode": "center",
        "mean": list(look.mean),
        "std": list(look.std),
    }
