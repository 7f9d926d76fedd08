"""An accelerator without hardware: its tensors are computed on the CPU, but, as with CUDA, never together with the CPU's own.

So a tensor that a function creates on the CPU, although its inputs or its ``device`` argument are elsewhere, is an error here
as it would be on a GPU. The device is called ``meta``, which is the only one that Torch knows without a library or a driver;
but these tensors have values.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
aten = torch.ops.aten
_MOVES = (aten._to_copy.default, aten.copy_.default)
_INDEXING = (aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default)


class OnAccelerator(Tensor):
    """A tensor that says it is on ``DEVICE``; ``inner`` holds its numbers, on the CPU."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnAccelerator":
        self = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        self.inner = inner
        return self

    def tolist(self) -> Any:
        """Torch refuses to do this for its subclasses."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return _compute(function, args, kwargs or {})


@contextmanager
def accelerator() -> Iterator[None]:
    """As long as this lasts, ``DEVICE`` can be used."""
    original = torch.autocast

    def autocast(device_type: str, **more: Any) -> AbstractContextManager[Any]:
        return nullcontext() if device_type == DEVICE.type else original(device_type, **more)

    torch.autocast = autocast  # type: ignore[assignment, misc]
    try:
        with _Factories(), _Dispatch():
            yield
    finally:
        torch.autocast = original  # type: ignore[misc]


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return _compute(function, args, kwargs or {})


class _Factories(TorchFunctionMode):
    """``torch.tensor`` and ``torch.as_tensor`` do not dispatch the move to their device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and _is_there(kwargs.get("device")):
            return OnAccelerator(function(*args, **{**kwargs, "device": "cpu"}))
        return function(*args, **kwargs)


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


def _compute(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = {id(each.inner): each for each in tensors if isinstance(each, OnAccelerator)}
    # CUDA takes single numbers from the CPU, and indexes by positions on the CPU.
    here = [each for each in tensors if not isinstance(each, OnAccelerator) and each.dim()]
    allowed = function in _MOVES or (function in _INDEXING and isinstance(args[0], OnAccelerator))
    if there and here and not allowed:
        shapes = [tuple(each.shape) for each in here]
        raise RuntimeError(f"{function}: expected all tensors to be on the same device, but {shapes} are on the CPU")
    inner_args, inner_kwargs = tree_map_only(OnAccelerator, lambda each: each.inner, (args, kwargs))
    device = inner_kwargs.get("device")
    if _is_there(device):
        inner_kwargs = {**inner_kwargs, "device": torch.device("cpu")}
    found = function(*inner_args, **inner_kwargs)
    if function is aten.copy_.default:
        return args[0]
    if _is_there(device) or (there and device is None):
        return tree_map_only(Tensor, lambda each: there[id(each)] if id(each) in there else OnAccelerator(each), found)
    return found
