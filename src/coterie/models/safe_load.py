"""Files that ``torch.save`` wrote, read as what they may be: anything at all."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree


def read_torch_file(path: Path, allowed: Sequence[type] = ()) -> Any:
    """What the file holds, on the CPU; nothing in it is executed.

    It takes no more memory than the file has bytes: no compression, and no tensor that is larger than what is stored of it.

    Args:
        path: the file.
        allowed: types of plain values, beside torch's own, that it may hold.

    Raises:
        Exception: whatever a broken file makes torch raise; ValueError for one that is whole but not as above.
    """
    if zipfile.is_zipfile(path):  # files of torch 1.5 and before are none
        with zipfile.ZipFile(path) as packed:
            if any(each.compress_type != zipfile.ZIP_STORED for each in packed.infolist()):
                raise ValueError("it is compressed, which torch.save never does")
    with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles that others wrote, and of sparse tensors
        content = torch.load(path, map_location="cpu", weights_only=True)
    for each in tree.tree_leaves(content):
        if isinstance(each, Tensor) and not _is_stored(each):
            raise ValueError(f"a tensor {list(each.shape)} is not stored in full")
    return content


def _is_stored(tensor: Tensor) -> bool:
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
