"""Augmentation on the CPU against torchvision's functional on PIL images, given the same parameters."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter
from skimage import data
from sklearn.datasets import load_sample_image
from torch.nn.functional import interpolate
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

from coterie.data.augmentation.cpu import augment, augment_batch, normalize, resized_crop
from coterie.data.augmentation.parameters import BRIGHTNESS, CONTRAST, SATURATION, CropBox, ViewParameters
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan

IMAGES = {
    "astronaut": data.astronaut(),
    "china": load_sample_image("china.jpg").copy(),  # the original is read-only
    "noise": np.random.default_rng(0).integers(0, 256, size=(300, 400, 3), dtype=np.uint8),
}
OFF = dict.fromkeys(("flip", "jitter", "grayscale", "blur"), 0.0)
EVERYTHING = Augmentation(vertical_flip=0.3, rotation=0.3, solarize=0.3)
PLAN = ViewPlan(
    (Crops(2, 224, (0.14, 1.0), augmentation=EVERYTHING), Crops(6, 96, (0.05, 0.14), augmentation=EVERYTHING))
)


def theirs(image: Image.Image, box: CropBox, size: int, parameters: ViewParameters, row: int, view: int) -> np.ndarray:
    """The whole chain with torchvision and Pillow."""
    image = F.resized_crop(image, *box, [size, size], InterpolationMode.BILINEAR)
    return theirs_after_crop(image, parameters, row, view)


def theirs_after_crop(image: Image.Image, parameters: ViewParameters, row: int, view: int) -> np.ndarray:
    def parameter(name: str) -> float:
        return float(getattr(parameters, name)[row, view])

    image = F.hflip(image) if parameter("flip") else image
    image = F.vflip(image) if parameter("vertical_flip") else image
    image = F.rotate(image, 90 * parameter("quarter_turns"))
    for operation in parameters.order[row, view] if parameter("jitter") else ():
        if operation == BRIGHTNESS:
            image = F.adjust_brightness(image, parameter("brightness"))
        elif operation == CONTRAST:
            image = F.adjust_contrast(image, parameter("contrast"))
        elif operation == SATURATION:
            image = F.adjust_saturation(image, parameter("saturation"))
        elif parameter("hue"):  # at strength 0, ColorJitter skips the hue, and so do we
            image = F.adjust_hue(image, parameter("hue"))
    image = F.to_grayscale(image, 3) if parameter("grayscale") else image
    image = image.filter(ImageFilter.GaussianBlur(parameter("blur"))) if parameter("blur") else image
    image = F.solarize(image, 128) if parameter("solarize") else image
    return np.asarray(image).transpose(2, 0, 1)


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(np.int64) - other.astype(np.int64))


@pytest.fixture(params=IMAGES, scope="module")
def image(request) -> np.ndarray:
    return IMAGES[request.param]


def test_crops_match_torchvision(image):
    parameters = PLAN.sample_parameters(0, 0, np.arange(10))
    differences = []
    for row in range(10):
        for box, size in zip(parameters.boxes(row, *image.shape[:2]), PLAN.sizes, strict=True):
            ours = resized_crop(torch.from_numpy(image).permute(2, 0, 1), box, size).numpy()
            resized = F.resized_crop(Image.fromarray(image), *box, [size, size], InterpolationMode.BILINEAR)
            differences.append(difference(ours, np.asarray(resized).transpose(2, 0, 1)).ravel())
    assert np.concatenate(differences).max() <= 2
    assert np.concatenate(differences).mean() <= 0.1


def test_a_crop_does_not_depend_on_the_order_in_memory(image):
    planar = torch.from_numpy(image).permute(2, 0, 1).contiguous()
    for size in (50, 224):
        for box in ((10, 20, 200, 150), (3, 0, 90, 400), (0, 0, *image.shape[:2])):
            top, left, height, width = box
            part = planar[None, :, top : top + height, left : left + width].contiguous()
            expected = interpolate(part, (size, size), mode="bilinear", antialias=True)[0]
            assert torch.equal(resized_crop(torch.from_numpy(image).permute(2, 0, 1), box, size), expected)
            assert torch.equal(resized_crop(planar, box, size), expected)


@pytest.mark.parametrize(
    "augmentation",
    [
        {"flip": 1.0},
        {"vertical_flip": 1.0},
        {"rotation": 1.0},
        {"jitter": 1.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
        {"jitter": 1.0, "brightness": 0.0, "saturation": 0.0, "hue": 0.0},
        {"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "hue": 0.0},
        {"jitter": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0},
        {"jitter": 1.0},
        {"grayscale": 1.0},
        {"blur": 1.0},
        {"solarize": 1.0},
        {"flip": 0.5, "jitter": 0.8, "grayscale": 0.2, "blur": 0.5},
        {"flip": 0.5, "vertical_flip": 0.5, "rotation": 0.5, "jitter": 1.0, "blur": 1.0, "solarize": 0.5},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_each_operation_matches_torchvision(image, augmentation):
    plan = ViewPlan((Crops(3, 100, (0.1, 1.0), augmentation=Augmentation(**(OFF | augmentation))),))
    parameters = plan.sample_parameters(0, 0, np.arange(6))
    differences = []
    for row in range(6):
        views = augment(image, plan, parameters, row)
        for view, box in enumerate(parameters.boxes(row, *image.shape[:2])):
            crop = resized_crop(torch.from_numpy(image).permute(2, 0, 1), box, 100).permute(1, 2, 0).numpy()
            expected = theirs_after_crop(Image.fromarray(crop), parameters, row, view)
            differences.append(difference(views[view], expected).ravel())
    assert np.concatenate(differences).max() <= 2
    assert np.concatenate(differences).mean() <= 0.5


def test_the_whole_chain_matches_torchvision(image):
    parameters = PLAN.sample_parameters(0, 0, np.arange(10))
    differences = []
    for row in range(10):
        views = augment(image, PLAN, parameters, row)
        for view, box in enumerate(parameters.boxes(row, *image.shape[:2])):
            expected = theirs(Image.fromarray(image), box, PLAN.sizes[view], parameters, row, view)
            differences.append(difference(views[view], expected).ravel())
    errors = np.concatenate(differences)
    assert errors.mean() <= 0.1
    assert (errors > 2).mean() <= 5e-3  # where the crop is off by one, contrast and hue may amplify it


def test_an_image_gets_the_same_views_in_any_batch(image):
    together = PLAN.sample_parameters(7, 2, np.array([4, 11, 8]))
    alone = PLAN.sample_parameters(7, 2, np.array([11]))
    for one, other in zip(augment(image, PLAN, together, 1), augment(image, PLAN, alone, 0), strict=True):
        assert (one == other).all()


def mixed_images() -> list[np.ndarray]:
    """Noise of 8 and 16 bits, all different."""
    generator = np.random.default_rng(3)
    kinds = (np.uint8, np.uint8, np.uint16)
    return [generator.integers(0, np.iinfo(kinds[i % 3]).max + 1, (30, 40, 3), kinds[i % 3]) for i in range(60)]


PLAINER = Augmentation(hue=0.0, brightness=0.4, solarize=0.5)  # no hue shift, next to views with one, of the same size


@pytest.mark.parametrize("sizes", [(12, 12), (30, 8)])
def test_many_images_at_once_give_the_same_as_each_alone(sizes):
    crops = (
        Crops(2, sizes[0], (0.3, 1.0), augmentation=EVERYTHING),
        Crops(2, sizes[1], (0.1, 0.4), augmentation=PLAINER),
    )
    plan, pictures = ViewPlan(crops), mixed_images()
    parameters = plan.sample_parameters(0, 0, np.arange(len(pictures)))
    together = augment_batch(iter(pictures), plan, parameters, (3, 0, 1))
    assert [len(view) for view in together] == [60, 60, 60]
    for row, image in enumerate(pictures):
        alone = augment(image, plan, parameters, row)
        for number, view in enumerate((3, 0, 1)):
            assert together[number][row].dtype == alone[view].dtype
            assert (together[number][row] == alone[view]).all()
        assert all(
            (one == alone[view]).all()
            for view, one in zip((2, 0), augment(image, plan, parameters, row, (2, 0)), strict=True)
        )


def test_threads_do_not_change_a_bit(image):
    parameters = PLAN.sample_parameters(0, 0, np.arange(4))
    one = [view for row in range(4) for view in augment(image, PLAN, parameters, row)]
    torch.set_num_threads(2)
    two = [view for row in range(4) for view in augment(image, PLAN, parameters, row)]
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_the_image_is_not_changed_and_may_be_read_only():
    image = IMAGES["noise"].copy()
    image.flags.writeable = False
    views = augment(image, PLAN, PLAN.sample_parameters(0, 0, np.arange(1)), 0)
    assert (image == IMAGES["noise"]).all()
    assert [view.shape for view in views] == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 6
    assert {view.dtype for view in views} == {np.dtype(np.uint8)}
    assert all(view.flags.c_contiguous for view in views)


@settings(max_examples=60)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.sampled_from([1, 2, 3, 5]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    size=st.integers(1, 40),
    index=st.integers(0, 1000),
)
def test_images_of_any_size_depth_and_number_of_channels(height, width, channels, dtype, size, index):
    image = np.random.default_rng(index).integers(0, np.iinfo(dtype).max + 1, (height, width, channels), dtype=dtype)
    plan = ViewPlan(
        (Crops(2, size, (0.05, 1.0), augmentation=EVERYTHING), Crops(1, 7, (0.05, 0.14))), channels=channels
    )
    views = augment(image, plan, plan.sample_parameters(0, 0, np.array([index])), 0)
    assert [view.shape for view in views] == [(channels, size, size)] * 2 + [(channels, 7, 7)]
    for view in views:
        assert view.dtype == (np.uint8 if dtype == np.uint8 else np.float32)
        assert view.min() >= 0
        assert view.max() <= (255 if dtype == np.uint8 else 1 + 1e-5)


def check_colors_are_left_alone(
    plan: ViewPlan, image: np.ndarray, resize: Callable[[np.ndarray, CropBox, int], np.ndarray]
) -> None:
    """Each channel is cropped, flipped and rotated, and nothing else."""
    parameters = plan.sample_parameters(0, 0, np.arange(8))
    assert parameters.jitter.any()
    assert parameters.grayscale.any()
    assert parameters.solarize.any()
    for row in range(8):
        boxes = parameters.boxes(row, *image.shape[:2])
        for view, ours in enumerate(augment(image, plan, parameters, row)):
            for channel, plane in enumerate(ours):
                expected = resize(image[:, :, channel], boxes[view], plan.sizes[view])
                expected = expected[:, ::-1] if parameters.flip[row, view] else expected
                expected = expected[::-1] if parameters.vertical_flip[row, view] else expected
                expected = np.rot90(expected, parameters.quarter_turns[row, view])
                assert np.abs(plane - expected.astype(np.float64)).max() <= (1 if image.dtype == np.uint8 else 1e-5)


def test_16_bit_images_of_five_channels_have_no_color_operations():
    image = np.random.default_rng(0).integers(0, 2**16, size=(90, 120, 5), dtype=np.uint16)
    sharp = Augmentation(vertical_flip=0.5, rotation=0.5, blur=0.0, solarize=0.5)
    plan = ViewPlan(
        (Crops(2, 64, (0.2, 1.0), augmentation=sharp), Crops(2, 32, (0.05, 0.2), augmentation=sharp)), channels=5
    )

    def resize(plane: np.ndarray, box: CropBox, size: int) -> np.ndarray:
        top, left, height, width = box
        part = Image.fromarray(plane[top : top + height, left : left + width].astype(np.float32) / 65535)
        return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))

    check_colors_are_left_alone(plan, image, resize)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_8_bit_images_of_other_than_three_channels_have_no_color_operations(channels):
    image = np.random.default_rng(0).integers(0, 256, size=(90, 120, channels), dtype=np.uint8)
    sharp = Augmentation(vertical_flip=0.5, rotation=0.5, blur=0.0, solarize=0.5)
    plan = ViewPlan((Crops(4, 48, (0.1, 1.0), augmentation=sharp),), channels=channels)

    def resize(plane: np.ndarray, box: CropBox, size: int) -> np.ndarray:
        return np.asarray(F.resized_crop(Image.fromarray(plane), *box, [size, size], InterpolationMode.BILINEAR))

    check_colors_are_left_alone(plan, image, resize)


def test_16_bit_images_of_three_channels_have_no_color_operations():
    image = np.random.default_rng(0).integers(0, 2**16, size=(60, 60, 3), dtype=np.uint16)
    full = Augmentation(**(OFF | {"jitter": 1.0, "grayscale": 1.0, "solarize": 1.0}))
    none = Augmentation(**OFF)
    views = []
    for augmentation in (full, none):
        plan = ViewPlan((Crops(3, 32, (0.2, 1.0), augmentation=augmentation),))
        views.append(np.stack(augment(image, plan, plan.sample_parameters(0, 0, np.arange(1)), 0)))
    assert (views[0] == views[1]).all()


def test_16_bit_images_are_blurred():
    image = np.random.default_rng(0).integers(0, 2**16, size=(60, 60, 5), dtype=np.uint16)
    views = []
    for probability in (0.0, 1.0):
        blurred = Augmentation(**(OFF | {"blur": probability, "blur_radius": (1.5, 1.5)}))
        plan = ViewPlan((Crops(1, 60, (1.0, 1.0), (1.0, 1.0), blurred),), channels=5)
        views.append(augment(image, plan, plan.sample_parameters(0, 0, np.arange(1)), 0)[0])
    assert views[1].std() < 0.4 * views[0].std()
    assert abs(views[1].mean() - views[0].mean()) < 0.01


def test_normalize_matches_torchvision(image):
    mean, std = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
    batch = torch.from_numpy(np.ascontiguousarray(image[None, :64, :64].transpose(0, 3, 1, 2)))
    expected = T.Normalize(mean, std)(T.ToTensor()(np.ascontiguousarray(image[:64, :64])))
    before = batch.clone()
    assert torch.allclose(normalize(batch, mean, std)[0], expected, atol=1e-5)
    assert (batch == before).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalize_uses_floats_as_they_are_and_returns_the_given_type(dtype):
    views = torch.rand(2, 5, 8, 8)
    before = views.clone()
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (1.0, 2.0, 3.0, 4.0, 5.0)
    result = normalize(views, mean, std, dtype)
    expected = (views - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert result.dtype == dtype
    assert torch.allclose(result.float(), expected, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert (views == before).all()
