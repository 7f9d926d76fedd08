"""What a view may look like: the settings of its crop and of what happens to it after."""

from dataclasses import dataclass, field

from coterie.errors import BadConfig


@dataclass(frozen=True)
class Augmentation:
    """How far a view may differ from its crop; the defaults are SwAV's (arXiv 2006.09882 and its released code).

    The operations come in the order of the fields. Those of color (jitter, grayscale, solarize) are for images of
    three 8-bit channels; other images go without them.

    Attributes:
        flip: probability of a mirror image, left to right.
        vertical_flip: probability of one upside down (microscopes and satellites know no up).
        rotation: probability of a quarter, half or three-quarter turn, each as likely.
        jitter: probability that brightness, contrast, saturation and hue change, in random order.
        brightness: the factor lies between ``max(0, 1 - brightness)`` and ``1 + brightness``.
        contrast: the same, around the image's mean gray.
        saturation: the same, around each pixel's gray.
        hue: the turn of the color circle lies between ``-hue`` and ``hue``; 0.5 is half way round.
        grayscale: probability of gray.
        blur: probability of a Gaussian blur.
        blur_radius: least and greatest standard deviation of that Gaussian, in pixels of the view.
        solarize: probability that the values from 128 up are inverted.
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
        """Refuse what cannot be meant.

        Raises:
            BadConfig: names the field, its value and the rule.
        """
        for name in ("flip", "vertical_flip", "rotation", "jitter", "grayscale", "blur", "solarize"):
            _check(0 <= getattr(self, name) <= 1, self, name, "a probability: give a number from 0 to 1")
        for name in ("brightness", "contrast", "saturation"):
            _check(0 <= getattr(self, name) <= 100, self, name, "a strength: give a number from 0 (off) to 100")
        _check(0 <= self.hue <= 0.5, self, "hue", "a share of the color circle: give a number from 0 (off) to 0.5")
        _check_range(self, "blur_radius", most=100)


@dataclass(frozen=True)
class Crops:
    """A group of views that are cut alike: random resized crops.

    Attributes:
        count: how many such views an image gives.
        size: their side, in pixels.
        scale: least and greatest share of the image's area that a crop covers.
        ratio: least and greatest width / height of a crop, before it is resized to a square.
        augmentation: what happens to them after.
    """

    count: int
    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            BadConfig: names the field, its value and the rule.
        """
        _check(self.count >= 1, self, "count", "views an image: give 1 or more")
        _check(1 <= self.size <= 4096, self, "size", "pixels: give a number from 1 to 4096")
        _check_range(self, "scale", most=1)
        _check_range(self, "ratio", most=100)


def _check_range(settings: Augmentation | Crops, name: str, most: float) -> None:
    values = getattr(settings, name)
    holds = len(values) == 2 and 0 < values[0] <= values[1] <= most
    _check(holds, settings, name, f"a range: give two numbers, 0 < least <= greatest <= {most}")


def _check(holds: bool, settings: Augmentation | Crops, name: str, rule: str) -> None:
    if not holds:
        where = type(settings).__name__.lower()
        raise BadConfig(f"{where}.{name} cannot be {getattr(settings, name)}; it is {rule}")
