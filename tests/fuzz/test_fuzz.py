"""Any bytes are either read or refused in one plain line: no traceback, no hang, no runaway memory."""

import os

import pytest

from tests.fuzz.trial import run_trials

INPUTS = int(os.environ.get("COTERIE_FUZZ", "40"))
"""Inputs of each kind: always the same ones, or those of the seed in $COTERIE_FUZZ_SEED."""
KINDS = [("images", kind) for kind in ("jpeg", "png", "tiff", "webp", "gif", "bmp", "ppm", "jpeg2000", "avif")]
KINDS += [
    ("images", "dicom"),
    ("images", "heif"),
    *(("archives", kind) for kind in ("tar", "parquet", "list", "arrow", "state")),
]
KINDS += [
    ("settings", "settings"),
    ("settings", "assignments"),
    *(("weights", kind) for kind in ("safetensors", "checkpoint", "weights", "log")),
]


@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_untrusted_input(module: str, kind: str) -> None:
    needed = {"dicom": "pydicom", "heif": "pillow_heif"}.get(kind)
    if needed is not None:
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install 'coterie[{kind}]'")
    seed = os.environ.get("COTERIE_FUZZ_SEED")
    found = run_trials(module, kind, INPUTS, int(seed) if seed else None)
    print(f"{kind}: {found}")
    assert found["inputs"] >= INPUTS // 2
    assert found.get("refused"), "no input was refused, so nothing was tested"
