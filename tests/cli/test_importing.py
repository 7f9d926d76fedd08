"""What a command does before its real work imports only what it needs."""

import gc
import subprocess
import sys
from pathlib import Path

from PIL import Image

from coterie.cli.importing import importing

NOT_NEEDED = ("pandas", "scipy", "sklearn", "matplotlib", "pyarrow.dataset", "PIL.PdfImagePlugin")
START = """
import sys
from pathlib import Path
from coterie import api
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.open import open_source
from coterie.data.statistics import measure

source, kept = open_source(sys.argv[1]), Path(sys.argv[1], "kept.parquet")
measure(source)
Fingerprint.of(source).write(kept)
assert Fingerprint.read(kept).same_images(Fingerprint.of(source))
print([name for name in sys.argv[2:] if name in sys.modules])
"""


def test_until_its_first_step_a_run_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
    command = [sys.executable, "-c", START, str(tmp_path), *NOT_NEEDED]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_garbage_is_looked_for_again_after_the_imports() -> None:
    frozen = gc.get_freeze_count()
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
