"""Settings of crops and augmentations: what a view may look like."""

from dataclasses import dataclass, field

from coterie.errors import BadConfig


@dataclass(frozen=True)
class Augmentation:
    """How much a view may differ from its crop; the defaults are SwAV's (arXiv 2006.09882 and its released code).

    Operations are applied in the order of the fields. Color operations (jitter, grayscale, solarize) apply to images of
    three 8-bit channels; other images skip them.

    Attributes:
        flip: Probability of a horizontal flip.
        vertical_flip: Probability of a vertical flip, for images without an up (microscopy, satellites).
        rotation: Probability of a rotation by 90, 180 or 270 degrees, each equally likely.
        jitter: Probability of color jitter: brightness, contrast, saturation and hue, in random order.
        brightness: The factor is uniform in ``[max(0, 1 - brightness), 1 + brightness]``.
        contrast: Likewise, relative to the mean gray of the view.
        saturation: Likewise, relative to the gray of each pixel.
        hue: The hue shift is uniform in ``[-hue, hue]``; 0.5 is half the color circle.
        grayscale: Probability of conversion to gray.
        blur: Probability of a Gaussian blur.
        blur_radius: Smallest and largest standard deviation of the blur, in pixels of the view.
        solarize: Probability of inverting all values of 128 and above.
    """

    flip: float = 0.5
    vertical_flip: float = 0.0
    rotation: float = 0.0
    jitter: float = 0.8
    brightness: float = 0.8
    contrast: float = 0.8
    saturation: float = 0.8
    hue: float = 0.2
    grayscale: float = 0.2
    blur: float = 0.5
    blur_radius: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            BadConfig: A value is out of range; the message names the field, its value and the rule.
        """
        for name in ("flip", "vertical_flip", "rotation", "jitter", "grayscale", "blur", "solarize"):
            _check(0 <= getattr(self, name) <= 1, self, name, "a probability: give a number from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            _check(0 <= getattr(self, name) <= 100, self, name, "a strength: give a number from 0 (off) to 100")
        _check(0 <= self.hue <= 0.5, self, "hue", "a share of the color circle: give a number from 0 (off) to 0.5")
        _check_range(self, "blur_radius", upper=100)


@dataclass(frozen=True)
class Crops:
    """A group of random resized crops with the same settings.

    Attributes:
        count: Number of views per image.
        size: Height and width of a view, in pixels.
        scale: Smallest and largest share of the image area that a crop covers.
        ratio: Smallest and largest width / height of a crop, before it is resized to a square.
        augmentation: What is done to the crops.
    """

    count: int
    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Check all values.

        Raises:
            BadConfig: A value is out of range; the message names the field, its value and the rule.
        """
        _check(self.count >= 1, self, "count", "the number of views per image: give 1 or more")
        _check(1 <= self.size <= 4096, self, "size", "a size in pixels: give a number from 1 to 4096")
        _check_range(self, "scale", upper=1)
        _check_range(self, "ratio", upper=100)


def _check_range(settings: Augmentation | Crops, name: str, upper: float) -> None:
    values = getattr(settings, name)
    valid = len(values) == 2 and 0 < values[0] <= values[1] <= upper
    _check(valid, settings, name, f"a range: give two numbers, 0 < smallest <= largest <= {upper}")


def _check(valid: bool, settings: Augmentation | Crops, name: str, rule: str) -> None:
    if not valid:
        where = type(settings).__name__.lower()
        raise BadConfig(f"{where}.{name} cannot be {getattr(settings, name)}; it is {rule}")
