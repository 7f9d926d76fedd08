"""The CPU's applier against torchvision's functional on PIL images, given the same parameters."""

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
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode

from coterie.data.augmentation.cpu import augment, augment_batch, crop, normalize
from coterie.data.augmentation.parameters import BRIGHTNESS, CONTRAST, SATURATION, Box, ViewParameters
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


def theirs(image: Image.Image, box: Box, size: int, draws: ViewParameters, row: int, view: int) -> np.ndarray:
    """The whole chain, by torchvision and Pillow."""
    image = F.resized_crop(image, *box, [size, size], InterpolationMode.BILINEAR)
    return theirs_after_the_crop(image, draws, row, view)


def theirs_after_the_crop(image: Image.Image, draws: ViewParameters, row: int, view: int) -> np.ndarray:
    def drawn(name: str) -> float:
        return float(getattr(draws, name)[row, view])

    image = F.hflip(image) if drawn("flip") else image
    image = F.vflip(image) if drawn("vertical_flip") else image
    image = F.rotate(image, 90 * drawn("quarter_turns"))
    for operation in draws.order[row, view] if drawn("jitter") else ():
        if operation == BRIGHTNESS:
            image = F.adjust_brightness(image, drawn("brightness"))
        elif operation == CONTRAST:
            image = F.adjust_contrast(image, drawn("contrast"))
        elif operation == SATURATION:
            image = F.adjust_saturation(image, drawn("saturation"))
        elif drawn("hue"):  # with a strength of 0 ColorJitter leaves the hue out, as we do
            image = F.adjust_hue(image, drawn("hue"))
    image = F.to_grayscale(image, 3) if drawn("grayscale") else image
    image = image.filter(ImageFilter.GaussianBlur(drawn("blur"))) if drawn("blur") else image
    image = F.solarize(image, 128) if drawn("solarize") else image
    return np.asarray(image).transpose(2, 0, 1)


def apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.abs(one.astype(np.int64) - other.astype(np.int64))


@pytest.fixture(params=IMAGES, scope="module")
def image(request) -> np.ndarray:
    return IMAGES[request.param]


def test_crops_are_torchvisions(image):
    draws = PLAN.sample_parameters(0, 0, np.arange(10))
    differences = []
    for row in range(10):
        for box, size in zip(draws.boxes(row, *image.shape[:2]), PLAN.sizes, strict=True):
            ours = crop(torch.from_numpy(image).permute(2, 0, 1), box, size).numpy()
            resized = F.resized_crop(Image.fromarray(image), *box, [size, size], InterpolationMode.BILINEAR)
            differences.append(apart(ours, np.asarray(resized).transpose(2, 0, 1)).ravel())
    assert np.concatenate(differences).max() <= 2
    assert np.concatenate(differences).mean() <= 0.1


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
def test_each_operation_is_torchvisions(image, augmentation):
    plan = ViewPlan((Crops(3, 100, (0.1, 1.0), augmentation=Augmentation(**(OFF | augmentation))),))
    draws = plan.sample_parameters(0, 0, np.arange(6))
    differences = []
    for row in range(6):
        views = augment(image, plan, draws, row)
        for view, box in enumerate(draws.boxes(row, *image.shape[:2])):
            cut = crop(torch.from_numpy(image).permute(2, 0, 1), box, 100).permute(1, 2, 0).numpy()
            expected = theirs_after_the_crop(Image.fromarray(cut), draws, row, view)
            differences.append(apart(views[view], expected).ravel())
    assert np.concatenate(differences).max() <= 2
    assert np.concatenate(differences).mean() <= 0.5


def test_the_whole_chain_is_torchvisions(image):
    draws = PLAN.sample_parameters(0, 0, np.arange(10))
    differences = []
    for row in range(10):
        views = augment(image, PLAN, draws, row)
        for view, box in enumerate(draws.boxes(row, *image.shape[:2])):
            expected = theirs(Image.fromarray(image), box, PLAN.sizes[view], draws, row, view)
            differences.append(apart(views[view], expected).ravel())
    found = np.concatenate(differences)
    assert found.mean() <= 0.1
    assert (found > 2).mean() <= 5e-3  # where the crop is off by one, contrast and hue may stretch that


def test_an_image_gets_the_same_views_in_any_batch(image):
    together = PLAN.sample_parameters(7, 2, np.array([4, 11, 8]))
    alone = PLAN.sample_parameters(7, 2, np.array([11]))
    for one, other in zip(augment(image, PLAN, together, 1), augment(image, PLAN, alone, 0), strict=True):
        assert (one == other).all()


def mixed_images() -> list[np.ndarray]:
    """Noise of 8 and of 16 bits; no two images are alike."""
    generator = np.random.default_rng(3)
    kinds = (np.uint8, np.uint8, np.uint16)
    return [generator.integers(0, np.iinfo(kinds[i % 3]).max + 1, (30, 40, 3), kinds[i % 3]) for i in range(60)]


PLAINER = Augmentation(hue=0.0, brightness=0.4, solarize=0.5)  # a hue of nothing beside a real one, at one size


@pytest.mark.parametrize("sizes", [(12, 12), (30, 8)])
def test_together_the_views_of_many_images_are_those_of_each(sizes):
    crops = (
        Crops(2, sizes[0], (0.3, 1.0), augmentation=EVERYTHING),
        Crops(2, sizes[1], (0.1, 0.4), augmentation=PLAINER),
    )
    plan, pictures = ViewPlan(crops), mixed_images()
    draws = plan.sample_parameters(0, 0, np.arange(len(pictures)))
    together = augment_batch(iter(pictures), plan, draws, (3, 0, 1))
    assert [len(view) for view in together] == [60, 60, 60]
    for row, image in enumerate(pictures):
        alone = augment(image, plan, draws, row)
        for number, view in enumerate((3, 0, 1)):
            assert together[number][row].dtype == alone[view].dtype
            assert (together[number][row] == alone[view]).all()
        assert all(
            (one == alone[view]).all()
            for view, one in zip((2, 0), augment(image, plan, draws, row, (2, 0)), strict=True)
        )


def test_threads_do_not_change_a_bit(image):
    draws = PLAN.sample_parameters(0, 0, np.arange(4))
    one = [view for row in range(4) for view in augment(image, PLAN, draws, row)]
    torch.set_num_threads(2)
    two = [view for row in range(4) for view in augment(image, PLAN, draws, row)]
    assert all((a == b).all() for a, b in zip(one, two, strict=True))


def test_the_image_stays_as_it_is_and_may_be_read_only():
    image = IMAGES["noise"].copy()
    image.flags.writeable = False
    views = augment(image, PLAN, PLAN.sample_parameters(0, 0, np.arange(1)), 0)
    assert (image == IMAGES["noise"]).all()
    assert [view.shape for view in views] == [(3, 224, 224)] * 2 + [(3, 96, 96)] * 6
    assert {view.dtype for view in views} == {np.dtype(np.uint8)}


@settings(max_examples=60)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.sampled_from([1, 2, 3, 5]),
    dtype=st.sampled_from([np.uint8, np.uint16]),
    size=st.integers(1, 40),
    index=st.integers(0, 1000),
)
def test_an_image_of_any_size_depth_and_number_of_channels_gives_its_views(height, width, channels, dtype, size, index):
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


def colorless(plan: ViewPlan, image: np.ndarray, resize: Callable[[np.ndarray, Box, int], np.ndarray]) -> None:
    """Views of an image whose colors are left alone: each channel cropped, mirrored and turned, and nothing else."""
    draws = plan.sample_parameters(0, 0, np.arange(8))
    assert draws.jitter.any()
    assert draws.grayscale.any()
    assert draws.solarize.any()
    for row in range(8):
        boxes = draws.boxes(row, *image.shape[:2])
        for view, ours in enumerate(augment(image, plan, draws, row)):
            for channel, plane in enumerate(ours):
                expected = resize(image[:, :, channel], boxes[view], plan.sizes[view])
                expected = expected[:, ::-1] if draws.flip[row, view] else expected
                expected = expected[::-1] if draws.vertical_flip[row, view] else expected
                expected = np.rot90(expected, draws.quarter_turns[row, view])
                assert np.abs(plane - expected.astype(np.float64)).max() <= (1 if image.dtype == np.uint8 else 1e-5)


def test_five_channels_of_16_bits_are_cropped_and_turned_and_their_colors_left_alone():
    image = np.random.default_rng(0).integers(0, 2**16, size=(90, 120, 5), dtype=np.uint16)
    sharp = Augmentation(vertical_flip=0.5, rotation=0.5, blur=0.0, solarize=0.5)
    plan = ViewPlan(
        (Crops(2, 64, (0.2, 1.0), augmentation=sharp), Crops(2, 32, (0.05, 0.2), augmentation=sharp)), channels=5
    )

    def resize(plane: np.ndarray, box: Box, size: int) -> np.ndarray:
        top, left, height, width = box
        part = Image.fromarray(plane[top : top + height, left : left + width].astype(np.float32) / 65535)
        return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))

    colorless(plan, image, resize)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_gray_and_other_8_bit_images_are_cropped_and_turned_and_their_colors_left_alone(channels):
    image = np.random.default_rng(0).integers(0, 256, size=(90, 120, channels), dtype=np.uint8)
    sharp = Augmentation(vertical_flip=0.5, rotation=0.5, blur=0.0, solarize=0.5)
    plan = ViewPlan((Crops(4, 48, (0.1, 1.0), augmentation=sharp),), channels=channels)

    def resize(plane: np.ndarray, box: Box, size: int) -> np.ndarray:
        return np.asarray(F.resized_crop(Image.fromarray(plane), *box, [size, size], InterpolationMode.BILINEAR))

    colorless(plan, image, resize)


def test_sixteen_bits_in_three_channels_have_no_color_operations_either():
    image = np.random.default_rng(0).integers(0, 2**16, size=(60, 60, 3), dtype=np.uint16)
    loud = Augmentation(**(OFF | {"jitter": 1.0, "grayscale": 1.0, "solarize": 1.0}))
    quiet = Augmentation(**OFF)
    views = []
    for augmentation in (loud, quiet):
        plan = ViewPlan((Crops(3, 32, (0.2, 1.0), augmentation=augmentation),))
        views.append(np.stack(augment(image, plan, plan.sample_parameters(0, 0, np.arange(1)), 0)))
    assert (views[0] == views[1]).all()


def test_sixteen_bits_are_blurred():
    image = np.random.default_rng(0).integers(0, 2**16, size=(60, 60, 5), dtype=np.uint16)
    views = []
    for probability in (0.0, 1.0):
        blurred = Augmentation(**(OFF | {"blur": probability, "blur_radius": (1.5, 1.5)}))
        plan = ViewPlan((Crops(1, 60, (1.0, 1.0), (1.0, 1.0), blurred),), channels=5)
        views.append(augment(image, plan, plan.sample_parameters(0, 0, np.arange(1)), 0)[0])
    assert views[1].std() < 0.4 * views[0].std()
    assert abs(views[1].mean() - views[0].mean()) < 0.01


def test_normalize_is_torchvisions(image):
    mean, std = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
    batch = torch.from_numpy(np.ascontiguousarray(image[None, :64, :64].transpose(0, 3, 1, 2)))
    expected = T.Normalize(mean, std)(T.ToTensor()(np.ascontiguousarray(image[:64, :64])))
    before = batch.clone()
    assert torch.allclose(normalize(batch, mean, std)[0], expected, atol=1e-5)
    assert (batch == before).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalize_takes_floats_as_they_are_and_gives_the_type_that_is_wanted(dtype):
    views = torch.rand(2, 5, 8, 8)
    before = views.clone()
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (1.0, 2.0, 3.0, 4.0, 5.0)
    result = normalize(views, mean, std, dtype)
    expected = (views - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert result.dtype == dtype
    assert torch.allclose(result.float(), expected, atol=1e-2 if dtype == torch.bfloat16 else 1e-6)
    assert (views == before).all()
