"""Augmentation on the GPU: view parameters are applied to the crops of a whole batch at once, on the device they are on.

Parameters, operations and their order are those of the CPU (``cpu``), with whole numbers from 0 to 255 between the
operations. But each operation runs for all views of one size together, each view with its own parameters, which keeps a
GPU busy without waiting for a processor. Nothing here depends on the values in a tensor: every choice is a
``torch.where``, so it compiles to one graph and never blocks the host.

Crops made by workers equal those of the CPU to the last bit; crops made here (``crop_on_device``, from images stored on
the device) differ by at most 1. Colors are the same numbers in single precision, and hue uses Pillow's own table of
bytes: where a product falls on the boundary between two bytes, one in thousands is rounded the other way. Blur is Pillow's
three box filters along each axis, rounded once instead of six times. ``tests/data/augmentation/test_gpu.py`` bounds all
differences.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from coterie.data.augmentation import color as colors
from coterie.data.augmentation.blur import PASSES, box_filter
from coterie.data.augmentation.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.errors import first_cause

# The columns of packed parameters; four for the order of the operations, four for their factors, four for the box.
FLIP, VERTICAL_FLIP, QUARTER_TURNS, GRAY, SOLARIZE, HUE_SHIFT, REACH, WEIGHT, EDGE = range(9)
ORDER, FACTORS, BOX, COLUMNS = 9, 13, 17, 21

_RED, _GREEN, _BLUE = (float(weight) for weight in colors.LUMA)

_Parameters = Float[Tensor, "n columns"]
_Views = Float[Tensor, "n c h w"]


def pack_parameters(
    parameters: ViewParameters, views: Sequence[int], image_size: tuple[int, int] | None = None
) -> Float[np.ndarray, "v b columns"]:
    """Pack the parameters of some views into one array, so that one copy moves them to the device.

    Args:
        parameters: Parameters of B images.
        views: Numbers of the views.
        image_size: Height and width of all images, if the device crops them; None: without boxes.
    """
    numbers = list(views)
    packed = np.zeros((len(parameters.flip), len(numbers), COLUMNS), dtype=np.float32)
    packed[..., FLIP] = parameters.flip[:, numbers]
    packed[..., VERTICAL_FLIP] = parameters.vertical_flip[:, numbers]
    packed[..., QUARTER_TURNS] = parameters.quarter_turns[:, numbers]
    jitter, hue = parameters.jitter[:, numbers], parameters.hue[:, numbers]
    packed[..., ORDER : ORDER + 4] = parameters.order[:, numbers]
    for operation, factor in (
        (BRIGHTNESS, parameters.brightness),
        (CONTRAST, parameters.contrast),
        (SATURATION, parameters.saturation),
    ):
        packed[..., FACTORS + operation] = np.where(jitter, factor[:, numbers], 1.0)
    packed[..., FACTORS + HUE] = jitter & (hue != 0)
    packed[..., HUE_SHIFT] = (hue * 255).astype(np.int64) % 256
    packed[..., GRAY], packed[..., SOLARIZE] = parameters.grayscale[:, numbers], parameters.solarize[:, numbers]
    packed[..., WEIGHT] = 1.0
    sigmas = parameters.blur[:, numbers]
    for row, view in np.argwhere(sigmas > 0):
        packed[row, view, REACH : EDGE + 1] = box_filter(float(sigmas[row, view]))
    if image_size is not None:
        for row in range(len(packed)):
            packed[row, :, BOX : BOX + 4] = parameters.boxes(row, *image_size, numbers)
    return packed.swapaxes(0, 1)


@dataclass(frozen=True)
class EnabledOperations:
    """The operations that a plan can apply to views of one size; all others are left out of the graph.

    Attributes:
        rotate: Vertical flip or rotation.
        jitter: Color jitter.
        gray: Conversion to gray.
        margin: Largest reach of the blur's box filter plus one, in pixels; 0: no blur.
        solarize: Inversion of bright values.
    """

    rotate: bool
    jitter: bool
    gray: bool
    margin: int
    solarize: bool


def enabled_operations(plan: ViewPlan, views: Sequence[int]) -> EnabledOperations:
    """The operations that the plan can apply to any of these views."""
    groups = [group.augmentation for group in plan.crops for _ in range(group.count)]
    chosen = [groups[view] for view in views]
    color = plan.channels == 3
    radius = max((each.blur_radius[1] for each in chosen if each.blur), default=0.0)
    return EnabledOperations(
        rotate=any(each.vertical_flip or each.rotation for each in chosen),
        jitter=color and any(each.jitter for each in chosen),
        gray=color and any(each.grayscale for each in chosen),
        margin=int(box_filter(radius)[0]) + 1 if radius else 0,
        solarize=color and any(each.solarize for each in chosen),
    )


def crop_on_device(
    images: UInt8[Tensor, "b c h w"], parameters: Float[Tensor, "v b columns"], size: int
) -> UInt8[Tensor, "n c s s"]:
    """Crop a box of each image for each view and resize it to a square, bilinear and antialiased.

    A resize is linear in the pixels: one matrix for the rows and one for the columns.

    Args:
        images: B images of one size.
        parameters: Packed parameters of V views, with boxes.
        size: Height and width of the views.

    Returns:
        The N = V x B crops, first view first.
    """
    top, left, height, width = parameters[..., BOX : BOX + 4].unbind(-1)
    pixels = images.float()
    across = _resize_matrix(left, width, images.shape[3], size)  # [V, B, size, W]
    down = _resize_matrix(top, height, images.shape[2], size)
    wide = (pixels @ across.mT[:, :, None] + 0.5).floor()  # rounded between the two, as on the CPU
    return (down[:, :, None] @ wide + 0.5).floor().clamp(0, 255).to(torch.uint8).flatten(0, 1)


def _resize_matrix(start: Tensor, length: Tensor, pixels: int, size: int) -> Float[Tensor, "*n size pixels"]:
    """The weight of each input pixel in each output pixel: a triangle as wide as a step, or a pixel if that is wider."""
    step = (length / size)[..., None, None]
    places = torch.arange(size, device=start.device)[:, None] + 0.5
    inside = torch.arange(pixels, device=start.device) - start[..., None, None]
    share = (1 - (inside + 0.5 - places * step).abs() / step.clamp(min=1)).clamp(min=0)
    share = torch.where((inside >= 0) & (inside < length[..., None, None]), share, 0.0)
    return share / share.sum(dim=-1, keepdim=True)


def augment_crops(
    crops: UInt8[Tensor, "n c s s"],
    parameters: _Parameters,
    hues: UInt8[Tensor, " hues"],
    scale: Float[Tensor, " c"],
    shift: Float[Tensor, " c"],
    enabled: EnabledOperations,
) -> _Views:
    """Flip and rotate, jitter colors in the sampled order, grayscale, blur, solarize and normalize.

    Args:
        crops: Crops of N views.
        parameters: Packed parameters of each (see ``pack_parameters``).
        hues: The table ``coterie.data.augmentation.color.hue_table``.
        scale: For each channel; ``x * scale - shift`` normalizes.
        shift: For each channel.
        enabled: Operations that any of these views may need.
    """
    with torch.autocast(crops.device.type, enabled=False):
        column = parameters[..., None, None, None].unbind(1)
        x = crops.float()
        x = torch.where(column[FLIP] > 0, x.flip(-1), x)
        if enabled.rotate:
            x = _rotate(torch.where(column[VERTICAL_FLIP] > 0, x.flip(-2), x), column[QUARTER_TURNS])
        if enabled.jitter:
            x = _jitter(x, parameters, hues)
        if enabled.gray:
            x = torch.where(column[GRAY] > 0, _luma(x), x)
        if enabled.margin:
            x = _blur(x, parameters, enabled.margin)
        if enabled.solarize:
            x = torch.where((column[SOLARIZE] > 0) & (x >= 128), 255 - x, x)
        return x * scale[:, None, None] - shift[:, None, None]


def _rotate(x: _Views, turns: Tensor) -> _Views:
    """Rotate counterclockwise by quarter turns."""
    for quarters in (1, 2, 3):
        x = torch.where(turns == quarters, torch.rot90(x, quarters, (2, 3)), x)
        turns = torch.where(turns == quarters, 0, turns)
    return x


def _jitter(x: _Views, parameters: _Parameters, hues: Tensor) -> _Views:
    """The four operations in each view's own order: three scale the difference from a center, one shifts the hue."""
    shift = parameters[:, HUE_SHIFT, None, None]
    for place in range(4):
        operation = parameters[:, ORDER + place]
        factor = parameters[:, FACTORS : FACTORS + 4].gather(1, operation[:, None].long())[..., None, None]
        operation = operation[:, None, None, None]
        gray = _luma(x)
        mean = (gray.mean(dim=(2, 3), keepdim=True) + 0.5).floor()
        center = torch.where(operation == CONTRAST, mean, torch.where(operation == SATURATION, gray, 0.0))
        scaled = (center + factor * (x - center)).clamp(0, 255).floor()
        scaled = torch.where(factor == 1, x, scaled)
        shifted = torch.where(factor > 0, _shift_hue(x, shift, hues), x)
        x = torch.where(operation == HUE, shifted, scaled)
    return x


def _luma(x: _Views) -> Float[Tensor, "n 1 h w"]:
    red, green, blue = x.unbind(1)
    return (red * _RED + green * _GREEN + blue * _BLUE + 0.5).floor()[:, None]


def _shift_hue(x: _Views, shift: Tensor, hues: Tensor) -> _Views:
    """As ``coterie.data.augmentation.color.adjust_hue``: a channel is ``value - chroma * share``, rounded."""
    red, green, blue = x.unbind(1)
    position = (red * 512 - green * 511 - blue + 255 * 513).to(torch.int32)
    shifted = hues[position].float() + shift
    hue = torch.where(shifted > 255, shifted - 256, shifted)
    value, lowest = x.amax(dim=1), x.amin(dim=1)
    chroma = ((value - lowest) / value.clamp(min=1) * 255).floor() * value / (255 * 85)
    shares = [170 - (2 * hue - 255).abs(), (2 * hue - 170).abs() - 85, (2 * hue - 340).abs() - 85]
    return torch.stack([value - chroma * share.clamp(0, 85) for share in shares], dim=1).round()


def _blur(x: _Views, parameters: _Parameters, margin: int) -> _Views:
    """A blur is linear in the pixels and the same along rows and columns: one matrix per view."""
    size = x.shape[-1]
    reach, weight, edge = (parameters[:, column, None, None] for column in (REACH, WEIGHT, EDGE))
    places = torch.arange(-margin, size + margin, device=x.device)
    distance = (places - torch.arange(size, device=x.device)[:, None]).abs()
    share = torch.where(distance <= reach, weight, 0.0) + torch.where(distance == reach + 1, edge, 0.0)
    once = share[..., margin : margin + size].clone()  # weights beyond the border go to the outermost pixel
    once[..., 0] += share[..., :margin].sum(dim=-1)
    once[..., -1] += share[..., margin + size :].sum(dim=-1)
    all_passes = once
    for _ in range(PASSES - 1):
        all_passes = all_passes @ once
    blurred = (all_passes[:, None] @ x @ all_passes.mT[:, None]).round().clamp(0, 255)
    return torch.where(edge[..., None] + reach[..., None] > 0, blurred, x)


class GpuAugmenter:
    """Makes the views of a batch from packed parameters and crops, or images stored on the device.

    Args:
        plan: The plan of the views; its mean and standard deviation must be set.
        device: Device on which to augment.
    """

    def __init__(self, plan: ViewPlan, device: torch.device | str) -> None:
        assert plan.mean is not None
        assert plan.std is not None
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (plan.mean, plan.std))
        self.plan = plan
        self.scale = (1 / (255 * std)).float().to(device)
        self.shift = (mean / std).float().to(device)
        self.hues = torch.from_numpy(colors.hue_table()).to(device)
        self.crop: Callable[..., Tensor] = crop_on_device
        self.augment: Callable[..., Tensor] = augment_crops

    def compile(self, count: int, views: Sequence[int], images: Tensor | None = None) -> str | None:
        """Compile the augmentation, and test it on blank crops.

        Args:
            count: Number of images in a batch.
            views: Numbers of the views that a step uses.
            images: Images stored on the device, if any.

        Returns:
            None, or the reason in one line if the compiler failed; augmentation then runs uncompiled.
        """
        self.crop = torch.compile(crop_on_device, dynamic=False)
        self.augment = torch.compile(augment_crops, dynamic=False)
        device, channels = self.hues.device, self.plan.channels
        parameters = torch.ones(len(views), count, COLUMNS, device=device)
        try:
            if images is not None:
                self.views_from_images(images[:1].expand(count, -1, -1, -1).contiguous(), parameters, views)
            else:
                blank = {
                    size: torch.zeros(len(places), count, channels, size, size, dtype=torch.uint8, device=device)
                    for size, places in places_by_size(self.plan, views).items()
                }
                self.views_from_crops(blank, parameters, views)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of any kind: Triton is missing, or the compiler has a bug
            self.crop, self.augment = crop_on_device, augment_crops
            return first_cause(error)
        return None

    def views_from_crops(
        self, crops: Mapping[int, Tensor], parameters: Float[Tensor, "v b columns"], views: Sequence[int]
    ) -> dict[int, Tensor]:
        """Make views from crops.

        Args:
            crops: For each size, the crops ``[n, B, C, size, size]`` of the n views of that size, uint8.
            parameters: Packed parameters of all V views.
            views: Numbers of the views.

        Returns:
            For each number, the normalized view ``[B, C, size, size]``.
        """
        finished: dict[int, Tensor] = {}
        for size, places in places_by_size(self.plan, views).items():
            numbers = [views[place] for place in places]
            rows = parameters[places].flatten(0, 1)
            enabled = enabled_operations(self.plan, numbers)
            made = self.augment(crops[size].flatten(0, 1), rows, self.hues, self.scale, self.shift, enabled)
            finished |= zip(numbers, made.chunk(len(numbers)), strict=True)
        return finished

    def views_from_images(
        self, images: UInt8[Tensor, "b c h w"], parameters: Float[Tensor, "v b columns"], views: Sequence[int]
    ) -> dict[int, Tensor]:
        """Make views from images of one size on the device; arguments and result as of `views_from_crops`."""
        crops = {
            size: self.crop(images, parameters[places], size).view(len(places), len(images), -1, size, size)
            for size, places in places_by_size(self.plan, views).items()
        }
        return self.views_from_crops(crops, parameters, views)


def places_by_size(plan: ViewPlan, views: Sequence[int]) -> dict[int, list[int]]:
    """For each size, the places in ``views`` of the views of that size."""
    places: dict[int, list[int]] = {}
    for place, view in enumerate(views):
        places.setdefault(plan.sizes[view], []).append(place)
    return places
