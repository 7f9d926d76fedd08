"""Whatever the bytes are: they are read, or refused in one plain line; no traceback, no hang, no flood of memory."""

import os

import pytest

from tests.fuzz.trial import tried

INPUTS = int(os.environ.get("COTERIE_FUZZ", "40"))
"""So many of each kind. With $COTERIE_FUZZ_SEED they are others each time; without, always the same."""
KINDS = [("images", kind) for kind in ("jpeg", "png", "tiff", "webp", "gif", "bmp", "ppm", "jpeg2000", "avif")]
KINDS += [("archives", "tar"), ("archives", "parquet"), ("archives", "list"), ("settings", "settings")]
KINDS += [("settings", "assignments"), *(("weights", kind) for kind in ("safetensors", "checkpoint", "weights", "log"))]


@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_untrusted_input(module: str, kind: str) -> None:
    seed = os.environ.get("COTERIE_FUZZ_SEED")
    found = tried(module, kind, INPUTS, int(seed) if seed else None)
    print(f"{kind}: {found}")
    assert found["tried"] >= INPUTS // 2
    assert found.get("refused"), "not one was refused: nothing was tried"
