"""DICOM files as pydicom writes them."""

import io
from typing import Any

import numpy as np


def dicom(
    pixels: np.ndarray,
    photometric: str = "MONOCHROME2",
    *,
    bits: int = 0,
    frames: int = 0,
    rle: bool = False,
    **more: Any,
) -> bytes:
    """A file of pixels ``[H, W]`` or ``[H, W, 3]``, with an axis of frames before these if there are frames."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage, generate_uid

    file, first = Dataset(), pixels[0] if frames else pixels
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID, file.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid(entropy_srcs=["coterie"])
    file.Rows, file.Columns = first.shape[:2]
    file.SamplesPerPixel, file.PhotometricInterpretation = (3 if first.ndim == 3 else 1), photometric
    if first.ndim == 3:
        file.PlanarConfiguration = 0
    file.BitsAllocated = first.dtype.itemsize * 8
    file.BitsStored, file.PixelRepresentation = bits or file.BitsAllocated, int(first.dtype.kind == "i")
    file.HighBit = file.BitsStored - 1
    if frames:
        file.NumberOfFrames = frames
    for name, value in more.items():
        setattr(file, name, value)
    file.PixelData = pixels.tobytes()
    file["PixelData"].VR = "OW" if file.BitsAllocated > 8 else "OB"
    if rle:
        file.compress(RLELossless, generate_instance_uid=False)
    target = io.BytesIO()
    file.save_as(target, enforce_file_format=True)
    return target.getvalue()
