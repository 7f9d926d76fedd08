import importlib.util
import io

import numpy as np
import pytest
from PIL import Image

from coterie.data.decoding.decode import count_channels, decode
from coterie.data.decoding.heif import is_heif
from coterie.errors import BadImage
from tests.data.pictures import encoded, photo

INSTALLED = importlib.util.find_spec("pillow_heif") is not None
START = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def test_only_heif_is_taken_for_it():
    assert is_heif(START)
    assert is_heif(START.replace(b"ftypheic", b"ftypmif1"))
    assert not is_heif(encoded(photo(), "AVIF"))
    assert not any(
        map(
            is_heif,
            (
                b"",
                b"\0\0\0\x10ftyp",
                encoded(photo(), "JPEG"),
                START.replace(b"heic", b"isom").replace(b"mif1", b"mp42"),
            ),
        )
    )


@pytest.mark.skipif(INSTALLED, reason="pillow-heif is installed")
def test_without_pillow_heif_the_extra_is_named():
    with pytest.raises(BadImage, match=r"pip install 'coterie\[heif\]'"):
        decode(START)


@pytest.mark.skipif(not INSTALLED, reason="pillow-heif is not installed: pip install 'coterie[heif]'")
def test_heic_is_read_upright():
    from pillow_heif import from_pillow

    picture = photo(1, 64, 96)
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode, channels in (("RGB", 3), ("L", 1), ("RGBA", 3)):
        file = io.BytesIO()
        from_pillow(Image.fromarray(picture).convert(mode)).save(file, quality=95)
        found = decode(file.getvalue(), channels)
        expected = np.asarray(Image.fromarray(picture).convert({1: "L", 3: "RGB"}[channels])).reshape(64, 96, channels)
        assert np.abs(found.astype(int) - expected).mean() < 3
        assert count_channels(file.getvalue()) == channels
    file = io.BytesIO()
    from_pillow(Image.fromarray(picture)).save(file, quality=95, exif=exif.tobytes())
    turned = decode(file.getvalue())
    assert turned.shape == (96, 64, 3)
    assert np.abs(turned.astype(int) - np.rot90(picture, -1)).mean() < 3
    with pytest.raises(BadImage, match="truncated or damaged"):
        decode(file.getvalue()[:200])
