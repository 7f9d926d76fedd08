"""What an image of a source consists of, as a short text: tells whether two are the same without keeping either."""

import hashlib

import numpy as np
from PIL import Image

from coterie.data.decoding.decode import StoredImage


def content_key(image: StoredImage) -> str:
    """Identify an image by its bytes, or by its pixels with their type and shape.

    Args:
        image: as a source gives it.
    """
    digest = hashlib.sha256()
    if isinstance(image, Image.Image) and image.mode in ("L", "RGB"):
        image = np.asarray(image)
    if isinstance(image, Image.Image):
        digest.update(f"{image.mode} {image.size} {image.getpalette()}".encode())
        digest.update(image.tobytes())
    elif isinstance(image, np.ndarray):
        digest.update(f"{image.dtype} {image.shape}".encode())
        digest.update(np.ascontiguousarray(image).data)
    else:
        digest.update(image)
    return digest.hexdigest()[:16]
