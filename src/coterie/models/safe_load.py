"""Read files written by ``torch.save`` without trusting them."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree


def read_torch_file(path: Path, allowed: Sequence[type] = ()) -> Any:
    """Load a file written by ``torch.save`` onto the CPU; nothing in it is executed.

    It takes no more memory than the file has bytes: compressed files are refused, and so are tensors larger than their stored
    data.

    Args:
        path: the file.
        allowed: types of plain values that the file may contain besides torch's own.

    Returns:
        The saved object.

    Raises:
        ValueError: the file is compressed, or a tensor is not stored in full.
        Exception: whatever torch raises for a damaged file or for one that contains other types.
    """
    if zipfile.is_zipfile(path):  # files from before torch 1.6 are not
        with zipfile.ZipFile(path) as packed:
            if any(each.compress_type != zipfile.ZIP_STORED for each in packed.infolist()):
                raise ValueError("it is compressed, which torch.save never does")
    with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old pickles and sparse tensors
        content = torch.load(path, map_location="cpu", weights_only=True)
    for each in tree.tree_leaves(content):
        if isinstance(each, Tensor) and not _is_stored(each):
            raise ValueError(f"a tensor {list(each.shape)} is not stored in full")
    return content


def _is_stored(tensor: Tensor) -> bool:
    """Whether the file contains every element: an expanded or sparse tensor takes more memory than its data."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
