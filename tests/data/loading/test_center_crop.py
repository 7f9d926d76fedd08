import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as T

from coterie.data.decoding.decode import decode
from coterie.data.loading.center_crop import Preprocessing, center_crop, center_crop_batches
from coterie.data.sources.arrays import Arrays
from tests.data.pictures import encoded, photo

SETTINGS = {"size": 16, "channels": 3, "mean": (0.5,) * 3, "std": (0.2,) * 3}


def images(count: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 20, 3), dtype=np.uint8)


class SomeBad(Arrays):
    """Images 3 and 4 cannot be decoded."""

    def __getitem__(self, index: int):
        return b"not an image" if index in (3, 4) else super().__getitem__(index)


@pytest.mark.parametrize(("channels", "dtype"), [(3, np.uint8), (1, np.uint8), (5, np.uint16), (1, np.uint16)])
def test_the_center_is_cropped(channels: int, dtype: type) -> None:
    image = np.zeros((20, 40, channels), dtype)
    image[5:15, 15:25] = np.iinfo(dtype).max
    crop = center_crop(image, 20)
    assert crop.shape == (channels, 20, 20)
    white = 255 if dtype == np.uint8 else 1.0
    assert crop[:, 10, 10].min() == white
    assert crop[:, 1, 1].max() == 0
    assert center_crop(np.zeros((300, 200, channels), dtype), 224).shape == (channels, 224, 224)


def usual(image: np.ndarray, size: int, short_side: int) -> np.ndarray:
    """What the releases' evaluations make of an image."""
    return np.asarray(T.Compose([T.Resize(short_side), T.CenterCrop(size)])(Image.fromarray(image)))


def odd_shapes() -> list[tuple[int, int]]:
    """Heights and widths whose resized long side and whose margins are no whole numbers."""
    generator = np.random.default_rng(3)
    drawn = [tuple(map(int, each)) for each in generator.integers(33, 700, (24, 2))]
    return [(300, 300), (333, 500), (500, 333), (301, 300), (257, 499), (40, 611), (224, 225), (256, 257), *drawn]


@pytest.mark.parametrize(("size", "short_side"), [(224, 256), (160, 183), (96, 110), (64, 64), (95, 95)])
def test_it_is_torchvisions_resize_and_center_crop_to_the_pixel(size: int, short_side: int) -> None:
    """Both round: the long side to whole pixels, then the margins. Pillow takes edges as float32, so last bits may differ."""
    for place, (height, width) in enumerate(odd_shapes()):
        image = photo(place, height, width)
        difference = np.abs(center_crop(image, size).transpose(1, 2, 0).astype(int) - usual(image, size, short_side))
        assert difference.max() <= 2, (height, width)
        assert (difference > 1).mean() < 1e-3, (height, width)
        assert difference.mean() < 0.1, (height, width)


def test_one_pixel_of_a_margin_would_be_seen() -> None:
    """The width 499 becomes 497 of 497.05, and the margin 136 of 136.5: halves are rounded to even numbers."""
    image = photo(1, 257, 499)
    picture = T.Resize(256)(Image.fromarray(image))
    assert picture.size == (497, 256)
    assert np.array_equal(center_crop(image, 224).transpose(1, 2, 0), np.asarray(picture.crop((136, 16, 360, 240))))
    beside = np.abs(center_crop(image, 224).transpose(1, 2, 0) - np.asarray(picture.crop((137, 16, 361, 240)), int))
    assert beside.mean() > 0.5


def test_an_image_decoded_at_a_smaller_scale_is_cropped_where_the_full_one_is() -> None:
    """Of 759 x 768 pixels, 380 x 384 are decoded: by these, the long side would be 258, not 259, the margin 17, not 18."""
    height, width = 759, 768
    ramp = np.linspace(0, 255, width)[None, :, None].repeat(height, 0).repeat(3, 2).astype(np.uint8)
    data = encoded(ramp, "JPEG", quality=100)

    class Encoded(Arrays):
        def __getitem__(self, index: int):
            return data

    plain = {"channels": 3, "mean": (0.0,) * 3, "std": (1 / 255,) * 3}
    (batch,) = center_crop_batches(Encoded([ramp]), size=224, **plain)
    found = batch.views[0][0].permute(1, 2, 0).numpy()
    assert np.abs(found - usual(ramp, 224, 256)).mean() < 0.3  # a pixel of the margin would be 1


def test_each_image_comes_once_in_order_and_bad_ones_are_left_out() -> None:
    for workers in (0, 1):
        batches = list(center_crop_batches(SomeBad(images()), **SETTINGS, batch_size=5, workers=workers))
        assert [len(batch.index) for batch in batches] == [3, 5, 5, 5]
        assert torch.cat([batch.index for batch in batches]).tolist() == [i for i in range(20) if i not in (3, 4)]
        assert [index for batch in batches for index, _ in batch.bad] == [3, 4]


def test_a_batch_of_only_bad_images_has_no_views() -> None:
    batches = list(center_crop_batches(SomeBad(images(5)), **SETTINGS, batch_size=1))
    assert [len(batch.views) for batch in batches] == [1, 1, 1, 0, 0]


def test_crops_are_normalized() -> None:
    source = Arrays(images(3))
    (batch,) = center_crop_batches(source, **SETTINGS)
    expected = np.stack([center_crop(source[index], 16) for index in range(3)]).astype(np.float32) / 255
    torch.testing.assert_close(batch.views[0], torch.from_numpy((expected - 0.5) / 0.2), atol=1e-5, rtol=0)


def test_images_of_8_and_16_bits_are_on_one_scale() -> None:
    pictures = [np.full((16, 16, 1), 200, np.uint8), np.full((16, 16, 1), 200 * 257, np.uint16)] * 3
    (batch,) = center_crop_batches(Arrays(pictures), size=8, channels=1, mean=(0.0,), std=(1.0,))
    torch.testing.assert_close(batch.views[0], torch.full((6, 1, 8, 8), 200 / 255), atol=2e-3, rtol=0)


def test_large_jpeg_files_are_downscaled_in_decoding() -> None:
    data = encoded(photo(0, 200, 300), "JPEG", quality=95)

    class Encoded(Arrays):
        def __getitem__(self, index: int):
            return data

    (downscaled,) = center_crop_batches(Encoded([photo()]), **SETTINGS)
    (full,) = center_crop_batches(Arrays([decode(data)]), **SETTINGS)
    difference = (downscaled.views[0] - full.views[0]).abs() * 0.2 * 255
    assert 0 < difference.mean() < 3


def test_batches_are_on_the_given_device() -> None:
    """On torch's meta device, which stores no values."""
    for batch in center_crop_batches(Arrays(images()), **SETTINGS, batch_size=8, device="meta"):
        assert batch.views[0].device.type == "meta"


@pytest.mark.parametrize(("crop", "short_side"), [(0.95, 235), (1.0, 224), (0.875, 256)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize(("height", "width"), [(400, 400), (333, 500), (301, 300)])
def test_crop_and_interpolation_are_timms(
    crop: float, short_side: int, interpolation: str, height: int, width: int
) -> None:
    """They resize to whole pixels and crop with whole margins; borders are interpolated differently."""
    image = photo(0, height, width)
    mode = T.InterpolationMode(interpolation)
    usual = T.Compose([T.Resize(short_side, mode), T.CenterCrop(224)])(Image.fromarray(image))
    found = center_crop(image, 224, crop, interpolation).transpose(1, 2, 0).astype(int)
    difference = np.abs(found - np.asarray(usual))[2:-2, 2:-2]
    assert difference.mean() < (0.1 if interpolation != "nearest" else 1.5)
    assert np.abs(found - center_crop(image, 224, 0.7).transpose(1, 2, 0)).mean() > 3


def test_what_is_not_said_is_the_usual_protocol() -> None:
    for shape in ((300, 300), (333, 500), (501, 300)):
        image = photo(0, *shape)
        assert np.array_equal(center_crop(image, 224), center_crop(image, 224, 0.875, "bilinear"))
        assert np.array_equal(center_crop(image, 64), center_crop(image, 64, 1.0, "bilinear"))


def test_other_interpolations_do_not_leave_the_range() -> None:
    image = np.zeros((40, 40, 1), np.uint16)
    image[:, 20:] = 65535
    found = center_crop(image, 60, 1.0, "bicubic")
    assert (found.min(), found.max()) == (0.0, 1.0)


def test_preprocessing_in_words_and_as_plain_values() -> None:
    plain, cropped = Preprocessing(8, 1, (0.5,), (0.25,)), Preprocessing(224, 1, (0.5,), (0.25,), 0.9, "bicubic")
    assert plain.facts() == {"size": 8, "channels": 1, "mean": (0.5,), "std": (0.25,)}
    assert cropped.facts() == {**plain.facts(), "size": 224, "crop": 0.9, "interpolation": "bicubic"}
    assert str(cropped) == "224 pixels, crop .9, bicubic, mean .5, std .25"
    assert str(plain) == "8 pixels, crop 1, bilinear, mean .5, std .25"
