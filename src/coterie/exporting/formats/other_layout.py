"""Put the weights of a timm network into another library's network of the same kind."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from coterie.exporting.formats.exportable import Exportable
from coterie.exporting.formats.transformers_layout import OtherNetworkError
from coterie.models.other_names import places_in_timm


def fill(target: nn.Module, network: nn.Module) -> None:
    """Copy the weights of a timm network, whose names and joined tensors differ.

    Args:
        target: another library's network, without a head; changed in place.
        network: timm's.

    Raises:
        OtherNetworkError: a tensor is missing in one of them, or has another shape.
    """
    state, expected = network.state_dict(), target.state_dict()
    places, taken, filled = places_in_timm(expected), set[str](), dict[str, Tensor]()
    for name, wanted in expected.items():
        place, third = places[name]
        if place not in state:
            if wanted.is_floating_point() and not name.endswith("mask_token"):  # only read where patches are masked
                raise OtherNetworkError(f"it has no {name}")
            continue  # an index that the library computes itself
        taken.add(place)
        tensor = state[place] if third is None else state[place].chunk(3)[third]
        if [side for side in tensor.shape if side != 1] != [side for side in wanted.shape if side != 1]:
            raise OtherNetworkError(f"{place} is {_shape(tensor)}, and {_shape(wanted)} there")
        filled[name] = tensor.reshape(wanted.shape)
    if left := [name for name in state if name not in taken]:
        raise OtherNetworkError(f"it has no place for {left[0]}")
    target.load_state_dict(filled, strict=False)


def fill_head(target: nn.Linear, what: Exportable) -> None:
    """Copy the linear head of a classifier; columns that the target has beyond its features become zero."""
    assert what.head is not None
    assert what.head.linear is not None
    weight, bias = what.head.linear
    with torch.no_grad():
        target.weight.zero_()
        target.weight[:, : weight.shape[1]] = weight
        target.bias.copy_(bias)


def on_normalized(what: Exportable, run: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A network of normalized images as one of plain ones."""

    def of_pixels(pixels: Tensor) -> Tensor:
        with torch.inference_mode():
            return run(what.normalized(pixels))

    return of_pixels


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
