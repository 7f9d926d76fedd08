"""The device's applier: what was drawn is done to the crops of a whole batch at once, wherever its tensors are.

The same draws as in the CPU's applier (``cpu``), the same operations in the same order, and whole numbers from 0 to 255
between them; but each operation runs for all views of one size together, each view with its own parameters, so that a
GPU is busy and nothing waits for a processor. Nothing here asks what a tensor holds: all is chosen by ``torch.where``, so
it compiles to one graph and never makes the host wait.

Crops that workers cut are the CPU applier's to the last bit; crops cut here (``crop``, of images that live on the device)
differ by 1 at most. Colors are the same numbers in single precision, and hue is Pillow's own, by its table of bytes: where
a product falls on the edge between two bytes, one in thousands falls to the other side. Blur is Pillow's three box filters
along each axis, but rounded once and not six times. ``tests/data/test_device.py`` holds all of it to stated bounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from coterie.data.augmentation import color as colors
from coterie.data.augmentation.blur import PASSES, box
from coterie.data.augmentation.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, ViewParameters
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.errors import first_cause

# The columns of packed parameters; four for the order of the operations, four for their factors, four for the box.
FLIP, VERTICAL_FLIP, TURNS, GRAY, SOLARIZE, TURN_HUE, REACH, WEIGHT, EDGE = range(9)
ORDER, FACTORS, BOX, COLUMNS = 9, 13, 17, 21

_RED, _GREEN, _BLUE = (float(weight) for weight in colors.LUMA)

Parameters = Float[Tensor, "n columns"]
Pixels = Float[Tensor, "n c h w"]


def pack(
    draws: ViewParameters, views: Sequence[int], image_size: tuple[int, int] | None = None
) -> Float[np.ndarray, "v b columns"]:
    """What was drawn for these views as one array, which one copy brings to the device.

    Args:
        draws: of B images.
        views: the numbers of those that are wanted.
        image_size: height and width of the images, which are all alike, where the device is to cut them.
    """
    wanted = list(views)
    packed = np.zeros((len(draws.flip), len(wanted), COLUMNS), dtype=np.float32)
    packed[..., FLIP], packed[..., VERTICAL_FLIP] = draws.flip[:, wanted], draws.vertical_flip[:, wanted]
    packed[..., TURNS] = draws.quarter_turns[:, wanted]
    jitter, hue = draws.jitter[:, wanted], draws.hue[:, wanted]
    packed[..., ORDER : ORDER + 4] = draws.order[:, wanted]
    for operation, factor in (
        (BRIGHTNESS, draws.brightness),
        (CONTRAST, draws.contrast),
        (SATURATION, draws.saturation),
    ):
        packed[..., FACTORS + operation] = np.where(jitter, factor[:, wanted], 1.0)
    packed[..., FACTORS + HUE] = jitter & (hue != 0)
    packed[..., TURN_HUE] = (hue * 255).astype(np.int64) % 256
    packed[..., GRAY], packed[..., SOLARIZE] = draws.grayscale[:, wanted], draws.solarize[:, wanted]
    packed[..., WEIGHT] = 1.0
    sigmas = draws.blur[:, wanted]
    for row, view in np.argwhere(sigmas > 0):
        packed[row, view, REACH : EDGE + 1] = box(float(sigmas[row, view]))
    if image_size is not None:
        for row in range(len(packed)):
            packed[row, :, BOX : BOX + 4] = draws.boxes(row, *image_size, wanted)
    return packed.swapaxes(0, 1)


@dataclass(frozen=True)
class Operations:
    """What can happen to a view of one size, as its plan has it; what cannot is left out of the graph.

    Attributes:
        turn: upside down, or by quarters.
        jitter: colors.
        gray: no colors.
        margin: the widest reach of a blur's box filter, in pixels; 0: no blur.
        solarize: the bright inverted.
    """

    turn: bool
    jitter: bool
    gray: bool
    margin: int
    solarize: bool


def operations(plan: ViewPlan, views: Sequence[int]) -> Operations:
    """What can happen to any of these views."""
    groups = [group.augmentation for group in plan.crops for _ in range(group.count)]
    drawn = [groups[view] for view in views]
    color = plan.channels == 3
    radius = max((each.blur_radius[1] for each in drawn if each.blur), default=0.0)
    return Operations(
        turn=any(each.vertical_flip or each.rotation for each in drawn),
        jitter=color and any(each.jitter for each in drawn),
        gray=color and any(each.grayscale for each in drawn),
        margin=int(box(radius)[0]) + 1 if radius else 0,
        solarize=color and any(each.solarize for each in drawn),
    )


def crop_on_device(
    images: UInt8[Tensor, "b c h w"], parameters: Float[Tensor, "v b columns"], size: int
) -> UInt8[Tensor, "n c s s"]:
    """Cut a box out of each image for each view and resize it to a square, bilinear and antialiased.

    A resize is linear in the pixels: a matrix for the rows and one for the columns.

    Returns:
        The crops, those of the first view first.
    """
    top, left, height, width = parameters[..., BOX : BOX + 4].unbind(-1)
    pixels = images.float()
    across = _resize(left, width, images.shape[3], size)  # [V, B, size, W]
    down = _resize(top, height, images.shape[2], size)
    wide = (pixels @ across.mT[:, :, None] + 0.5).floor()  # rounded between the two, as on the CPU
    return (down[:, :, None] @ wide + 0.5).floor().clamp(0, 255).to(torch.uint8).flatten(0, 1)


def _resize(start: Tensor, length: Tensor, pixels: int, size: int) -> Float[Tensor, "*n size pixels"]:
    """The share of each pixel in each place: a triangle as wide as a step, or as a pixel if that is wider."""
    step = (length / size)[..., None, None]
    places = torch.arange(size, device=start.device)[:, None] + 0.5
    inside = torch.arange(pixels, device=start.device) - start[..., None, None]
    share = (1 - (inside + 0.5 - places * step).abs() / step.clamp(min=1)).clamp(min=0)
    share = torch.where((inside >= 0) & (inside < length[..., None, None]), share, 0.0)
    return share / share.sum(dim=-1, keepdim=True)


def augment_crops(
    crops: UInt8[Tensor, "n c s s"],
    parameters: Parameters,
    hues: UInt8[Tensor, " hues"],
    scale: Float[Tensor, " c"],
    shift: Float[Tensor, " c"],
    can: Operations,
) -> Pixels:
    """Mirror and turn, color jitter in the drawn order, grayscale, blur, solarize and normalize.

    Args:
        crops: of N views.
        parameters: of each (``pack``).
        hues: the table of ``coterie.data.augmentation.color``.
        scale: of each channel; ``x * scale - shift`` normalizes.
        shift: of each channel.
        can: what any of these views may need.
    """
    with torch.autocast(crops.device.type, enabled=False):
        column = parameters[..., None, None, None].unbind(1)
        x = crops.float()
        x = torch.where(column[FLIP] > 0, x.flip(-1), x)
        if can.turn:
            x = _turn(torch.where(column[VERTICAL_FLIP] > 0, x.flip(-2), x), column[TURNS])
        if can.jitter:
            x = _jitter(x, parameters, hues)
        if can.gray:
            x = torch.where(column[GRAY] > 0, _luma(x), x)
        if can.margin:
            x = _blur(x, parameters, can.margin)
        if can.solarize:
            x = torch.where((column[SOLARIZE] > 0) & (x >= 128), 255 - x, x)
        return x * scale[:, None, None] - shift[:, None, None]


def _turn(x: Pixels, turns: Tensor) -> Pixels:
    """By quarters, counter-clockwise."""
    for quarters in (1, 2, 3):
        x = torch.where(turns == quarters, torch.rot90(x, quarters, (2, 3)), x)
        turns = torch.where(turns == quarters, 0, turns)
    return x


def _jitter(x: Pixels, parameters: Parameters, hues: Tensor) -> Pixels:
    """The four operations, in each view's own order: three stretch the distance from a middle, one turns the hue."""
    turn = parameters[:, TURN_HUE, None, None]
    for place in range(4):
        operation = parameters[:, ORDER + place]
        factor = parameters[:, FACTORS : FACTORS + 4].gather(1, operation[:, None].long())[..., None, None]
        operation = operation[:, None, None, None]
        gray = _luma(x)
        mean = (gray.mean(dim=(2, 3), keepdim=True) + 0.5).floor()
        middle = torch.where(operation == CONTRAST, mean, torch.where(operation == SATURATION, gray, 0.0))
        stretched = (middle + factor * (x - middle)).clamp(0, 255).floor()
        stretched = torch.where(factor == 1, x, stretched)
        turned = torch.where(factor > 0, _turn_hue(x, turn, hues), x)
        x = torch.where(operation == HUE, turned, stretched)
    return x


def _luma(x: Pixels) -> Float[Tensor, "n 1 h w"]:
    red, green, blue = x.unbind(1)
    return (red * _RED + green * _GREEN + blue * _BLUE + 0.5).floor()[:, None]


def _turn_hue(x: Pixels, turn: Tensor, hues: Tensor) -> Pixels:
    """As ``coterie.data.augmentation.color.turn_hue``: a channel is ``value - reach * share``, rounded."""
    red, green, blue = x.unbind(1)
    place = (red * 512 - green * 511 - blue + 255 * 513).to(torch.int32)
    turned = hues[place].float() + turn
    hue = torch.where(turned > 255, turned - 256, turned)
    value, least = x.amax(dim=1), x.amin(dim=1)
    reach = ((value - least) / value.clamp(min=1) * 255).floor() * value / (255 * 85)
    shares = [170 - (2 * hue - 255).abs(), (2 * hue - 170).abs() - 85, (2 * hue - 340).abs() - 85]
    return torch.stack([value - reach * share.clamp(0, 85) for share in shares], dim=1).round()


def _blur(x: Pixels, parameters: Parameters, margin: int) -> Pixels:
    """A blur is linear in the pixels, and the same along rows and columns: one matrix for a view."""
    size = x.shape[-1]
    reach, weight, edge = (parameters[:, column, None, None] for column in (REACH, WEIGHT, EDGE))
    places = torch.arange(-margin, size + margin, device=x.device)
    distance = (places - torch.arange(size, device=x.device)[:, None]).abs()
    share = torch.where(distance <= reach, weight, 0.0) + torch.where(distance == reach + 1, edge, 0.0)
    once = share[..., margin : margin + size].clone()  # what lies beyond the end falls to the outermost pixel
    once[..., 0] += share[..., :margin].sum(dim=-1)
    once[..., -1] += share[..., margin + size :].sum(dim=-1)
    whole = once
    for _ in range(PASSES - 1):
        whole = whole @ once
    blurred = (whole[:, None] @ x @ whole.mT[:, None]).round().clamp(0, 255)
    return torch.where(edge[..., None] + reach[..., None] > 0, blurred, x)


class GpuAugmenter:
    """The views of a batch from crops, or from images that live on the device, and packed parameters."""

    def __init__(self, plan: ViewPlan, device: torch.device | str) -> None:
        """Bring the constants to the device."""
        assert plan.mean is not None
        assert plan.std is not None
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (plan.mean, plan.std))
        self.plan = plan
        self.scale = (1 / (255 * std)).float().to(device)
        self.shift = (mean / std).float().to(device)
        self.hues = torch.from_numpy(colors.hue_table()).to(device)
        self.cut: Callable[..., Tensor] = crop_on_device
        self.finish: Callable[..., Tensor] = augment_crops

    def compile(self, count: int, views: Sequence[int], images: Tensor | None = None) -> str | None:
        """Have the work compiled, and try it on blank crops of these views of ``count`` images.

        Returns:
            None, or, where the compiler failed, why, in one line: then it is done as it is written.
        """
        self.cut, self.finish = (
            torch.compile(crop_on_device, dynamic=False),
            torch.compile(augment_crops, dynamic=False),
        )
        device, channels = self.hues.device, self.plan.channels
        parameters = torch.ones(len(views), count, COLUMNS, device=device)
        try:
            if images is not None:
                self.of_images(images[:1].expand(count, -1, -1, -1).contiguous(), parameters, views)
            else:
                blank = {
                    size: torch.zeros(len(places), count, channels, size, size, dtype=torch.uint8, device=device)
                    for size, places in sizes(self.plan, views).items()
                }
                self.of_crops(blank, parameters, views)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of any kind: a missing Triton, or a fault of the compiler
            self.cut, self.finish = crop_on_device, augment_crops
            return first_cause(error)
        return None

    def of_crops(
        self, crops: Mapping[int, Tensor], parameters: Float[Tensor, "v b columns"], views: Sequence[int]
    ) -> dict[int, Tensor]:
        """Finished views ``[B, C, side, side]``, by number, of the crops ``[n, B, C, side, side]`` of each size."""
        made: dict[int, Tensor] = {}
        for size, places in sizes(self.plan, views).items():
            numbers = [views[place] for place in places]
            rows = parameters[places].flatten(0, 1)
            done = self.finish(
                crops[size].flatten(0, 1), rows, self.hues, self.scale, self.shift, operations(self.plan, numbers)
            )
            made |= zip(numbers, done.chunk(len(numbers)), strict=True)
        return made

    def of_images(
        self, images: UInt8[Tensor, "b c h w"], parameters: Float[Tensor, "v b columns"], views: Sequence[int]
    ) -> dict[int, Tensor]:
        """Finished views, by number, cut here."""
        crops = {
            size: self.cut(images, parameters[places], size).view(len(places), len(images), -1, size, size)
            for size, places in sizes(self.plan, views).items()
        }
        return self.of_crops(crops, parameters, views)


def sizes(plan: ViewPlan, views: Sequence[int]) -> dict[int, list[int]]:
    """The places in ``views`` of those of each size."""
    found: dict[int, list[int]] = {}
    for place, view in enumerate(views):
        found.setdefault(plan.sizes[view], []).append(place)
    return found
