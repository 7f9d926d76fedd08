"""HEIC and HEIF files, which Pillow opens through pillow-heif (the extra ``heif``)."""

from PIL import Image

from coterie.errors import BadImage

_HEIF = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2"))
_AVIF = frozenset((b"avif", b"avis"))
_MOST_BRANDS = 32
_FORMAT = "HEIF"


def is_heif(data: bytes) -> bool:
    """Whether a file starts like HEIC or HEIF, but not like AVIF, which Pillow reads itself."""
    if data[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(data[:4], "big"), len(data), 16 + 4 * _MOST_BRANDS)
    brands = {data[8:12], *(data[start : start + 4] for start in range(16, end - 3, 4))}
    return not brands.isdisjoint(_HEIF) and brands.isdisjoint(_AVIF)


def heif_format() -> str:
    """The name under which Pillow opens such files, once pillow-heif is loaded.

    Raises:
        BadImage: pillow-heif is not installed.
    """
    if _FORMAT not in Image.OPEN:
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            raise BadImage("a HEIC image, which needs one more package: pip install 'coterie[heif]'") from error
        register_heif_opener(decode_threads=1)  # loader workers are as many as there are cores
    return _FORMAT
