"""The views of the published presets: SwAV's crops, and SMoG's two families."""

from dataclasses import replace

from coterie.config.facts import Facts
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan

IMAGENET_MEAN = (0.485, 0.456, 0.406)
SWAV_STD = (0.228, 0.224, 0.225)
"""As in the releases, in training and evaluation; 0.228 is a slip for 0.229, kept so that results are comparable."""


def imagenet_views(
    facts: Facts,
    *,
    large: int = 224,
    small: int = 6,
    large_scale: tuple[float, float] = (0.14, 1.0),
    small_scale: tuple[float, float] = (0.05, 0.14),
) -> ViewPlan:
    """Two large crops and ``small`` ones of 96 pixels (SwAV, section 3.2), augmented alike (release, multicropdataset.py)."""
    augmentation = swav_augmentation(facts)
    crops = [Crops(count=2, size=large, scale=large_scale, augmentation=augmentation)]
    if small:
        crops.append(Crops(count=small, size=96, scale=small_scale, augmentation=augmentation))
    return ViewPlan(
        crops=tuple(crops),
        channels=facts.channels,
        mean=IMAGENET_MEAN if facts.color else facts.mean,
        std=SWAV_STD if facts.color else facts.std,
    )


def family_views(
    facts: Facts,
    *,
    sizes: tuple[int, int],
    small: int,
    scales: tuple[tuple[float, float], tuple[float, float]],
    deciding: int = 2,
    blur: bool = True,
) -> ViewPlan:
    """SMoG's two families of views: one always blurred, one rarely blurred but sometimes solarized; they alternate by batch.

    Of the family that goes to the teacher, the first ``deciding`` large views are targets; of the family that goes to the
    student, the next two and the small ones predict (release, multicropdataset.py and two_stream_network.py).
    """
    own = Augmentation(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)
    own = own if facts.color else swav_augmentation(facts)
    families = (
        replace(own, blur=1.0 if blur else 0.0),
        replace(own, blur=0.1 if blur else 0.0, solarize=0.2 if facts.color else 0.0),
    )
    crops = []
    for augmentation in families:
        crops.append(Crops(deciding + 2, sizes[0], scales[0], augmentation=augmentation))
        if small:
            crops.append(Crops(small, sizes[1], scales[1], augmentation=augmentation))
    half = deciding + 2 + small
    return ViewPlan(
        crops=tuple(crops),
        channels=facts.channels,
        mean=IMAGENET_MEAN if facts.color and not facts.small else facts.mean,
        std=SWAV_STD if facts.color and not facts.small else facts.std,
        student_views=tuple(range(deciding, half)),
        target_views=tuple(range(half, half + deciding)),
        grouped_views=(deciding, deciding + 1),
        bn_only_views=tuple(range(half + deciding + 2, 2 * half)),
        swap=True,
    )


def swav_augmentation(facts: Facts) -> Augmentation:
    """SwAV's augmentation; without color operations where images have no color."""
    return Augmentation() if facts.color else Augmentation(jitter=0.0, grayscale=0.0)
