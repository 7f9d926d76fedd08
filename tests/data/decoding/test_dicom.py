import importlib.util

import numpy as np
import pytest

from coterie.data.decoding.decode import count_channels, decode
from coterie.data.decoding.dicom import count_frames, is_dicom
from coterie.errors import BadImage
from tests.data.dicoms import dicom
from tests.data.pictures import photo

installed = pytest.mark.skipif(
    importlib.util.find_spec("pydicom") is None, reason="pydicom is not installed: pip install 'coterie[dicom]'"
)
GRAY = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
CT = {"RescaleSlope": 1, "RescaleIntercept": -1024}


def gray(pixels: np.ndarray, photometric: str = "MONOCHROME2", **options: object) -> np.ndarray:
    return decode(dicom(pixels, photometric, **options), 1)[..., 0]


@pytest.mark.skipif(importlib.util.find_spec("pydicom") is not None, reason="pydicom is installed")
def test_without_pydicom_the_extra_is_named():
    data = bytes(128) + b"DICM"
    for read in (decode, count_channels):
        with pytest.raises(BadImage, match=r"pip install 'coterie\[dicom\]'"):
            read(data)


@installed
def test_the_first_window_is_shown_with_8_bits():
    """DICOM PS3.3, C.11.2.1.2: LINEAR goes from center - 0.5 - (width - 1) / 2 over width - 1 values."""
    values = GRAY.astype(float) - 1024
    windows = {"WindowCenter": [40, 300], "WindowWidth": [400, 1500]}
    expected = np.clip((values - 39.5) / 399 + 0.5, 0, 1) * 255
    found = gray(GRAY, bits=12, **CT, **windows)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(gray(GRAY, "MONOCHROME1", bits=12, **CT, **windows), 255 - found)
    exact = np.clip((values - 40) / 400 + 0.5, 0, 1) * 255
    assert np.abs(gray(GRAY, bits=12, **CT, **windows, VOILUTFunction="LINEAR_EXACT") - exact).max() <= 0.5 + 1e-9
    sigmoid = 255 / (1 + np.exp(-4 * (values - 40) / 400))
    assert np.abs(gray(GRAY, bits=12, **CT, **windows, VOILUTFunction="SIGMOID") - sigmoid).max() <= 0.5 + 1e-9
    step = gray(GRAY, bits=12, WindowCenter=1000, WindowWidth=1)
    np.testing.assert_array_equal(step, np.where(GRAY > 999.5, 255, 0))
    with pytest.raises(BadImage, match="a window of width 0"):
        gray(GRAY, bits=12, WindowCenter=40, WindowWidth=0)


@installed
@pytest.mark.parametrize(("bits", "signed"), [(12, False), (12, True), (16, False), (16, True), (10, False)])
def test_without_a_window_the_range_is_what_can_be_stored(bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    stored = (
        np.linspace(low, low + 2**bits - 1, 64 * 64).round().reshape(64, 64).astype(np.int16 if signed else np.uint16)
    )
    expected = (stored.astype(float) - low) / (2**bits - 1) * 65535
    for more in ({}, CT):
        found = gray(stored, bits=bits, **more)
        assert found.dtype == np.uint16
        assert np.abs(found - expected).max() <= 0.5 + 1e-6
    assert np.abs(gray(stored, bits=bits, RescaleSlope=-2, RescaleIntercept=7) - (65535 - expected)).max() <= 1
    if bits < 16 and not signed:  # old files keep an overlay in the bits above
        np.testing.assert_array_equal(gray(stored | np.uint16(1 << bits), bits=bits), gray(stored, bits=bits))


@installed
def test_8_bits_and_colors_stay_as_they_are():
    picture = photo()
    np.testing.assert_array_equal(gray(picture[..., 0]), picture[..., 0])
    for rle in (False, True):
        np.testing.assert_array_equal(decode(dicom(picture, "RGB", rle=rle)), picture)
    index, colors = picture[..., 0] % 4, np.array([[0, 0, 0], [255, 0, 0], [0, 128, 0], [9, 8, 7]], np.uint8)
    table = {f"{name}PaletteColorLookupTableDescriptor": [4, 0, 8] for name in ("Red", "Green", "Blue")}
    for place, name in enumerate(("Red", "Green", "Blue")):
        table[f"{name}PaletteColorLookupTableData"] = colors[:, place].tobytes()
    np.testing.assert_array_equal(decode(dicom(index, "PALETTE COLOR", **table)), colors[index])
    assert [count_channels(dicom(*each)) for each in ((picture, "RGB"), (picture[..., 0],))] == [3, 1]
    assert count_channels(dicom(index, "PALETTE COLOR", **table)) == 3


@installed
def test_a_lookup_table_goes_before_a_window():
    from pydicom.dataset import Dataset

    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], list(range(255, -1, -1))
    table["LUTData"].VR = "US"
    stored = photo()[..., 0]
    found = gray(stored, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)
    np.testing.assert_array_equal(found, 255 - stored)


@installed
def test_the_first_frame_is_read_and_settings_of_frames_are_found(tmp_path):
    from pydicom.dataset import Dataset

    stack = np.stack([GRAY, GRAY * 0, GRAY // 2])
    data = dicom(stack, bits=12, frames=3)
    np.testing.assert_array_equal(decode(data, 1), decode(dicom(GRAY, bits=12), 1))
    (tmp_path / "x.dcm").write_bytes(data)
    assert [count_frames(bytes(tmp_path / name)) for name in ("x.dcm", "missing.dcm")] == [3, 1]
    window, shared = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 40, 400
    shared.FrameVOILUTSequence = [window]
    enhanced = gray(stack, bits=12, frames=3, SharedFunctionalGroupsSequence=[shared])
    np.testing.assert_array_equal(enhanced, gray(GRAY, bits=12, WindowCenter=40, WindowWidth=400))


@installed
def test_what_is_no_picture_is_refused_in_one_line():
    whole = dicom(GRAY, bits=12)
    assert is_dicom(whole)
    np.testing.assert_array_equal(
        decode(b"II*\0" + whole[4:], 1), decode(whole, 1)
    )  # as in files that are TIFF as well
    assert count_channels(b"II*\0" + whole[4:]) == 1
    cases = {
        "without pixels": bytes(128) + b"DICM",
        "truncated or damaged": whole[: len(whole) // 2],
        "more than the limit": dicom(np.zeros((1, 1), np.uint8), Rows=60_000, Columns=60_000),
        "32-bit values without a window": dicom(GRAY.astype(np.uint32)),
    }
    for reason, data in cases.items():
        with pytest.raises(BadImage, match=reason) as found:
            decode(data, 1)
        assert len(str(found.value).splitlines()) == 1
