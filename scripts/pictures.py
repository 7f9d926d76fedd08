"""Make the picture of the README from the page of a real demonstration, without its curves: what today's code writes.

Usage: scripts/demo && .venv/bin/python scripts/pictures.py [demo/report.html]      (wants Chromium)
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

OUT = Path(__file__).parent.parent / "docs" / "assets" / "report.png"
WIDTH, HEIGHT, SHOWN = 1200, 5000, 1300
LARGEST = 300_000
"""Bytes."""


def main() -> int:
    """Take the picture; returns the exit status."""
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "demo/report.html").resolve()
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None or not page.exists():
        why = f"{page} is not there: run scripts/demo first" if browser else "Chromium is not installed"
        sys.stderr.write(f"{why}\n")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        shot, short = Path(folder) / "shot.png", Path(folder) / "report.html"
        short.write_text(
            re.sub(r'<section id="curves">.*?</section>', "", page.read_text("utf-8"), flags=re.DOTALL), "utf-8"
        )
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--window-size={WIDTH},{HEIGHT}",
        ]
        subprocess.run([browser, *options, f"--screenshot={shot}", short.as_uri()], check=True, capture_output=True)
        with Image.open(shot) as picture:
            top = picture.convert("RGB").crop((0, 0, WIDTH, SHOWN))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    for colors in (256, 128, 64):  # a page has few, and its pictures are gray
        top.quantize(colors, dither=Image.Dither.NONE).save(OUT, optimize=True)
        if OUT.stat().st_size < LARGEST:
            break
    sys.stdout.write(f"{OUT}: {OUT.stat().st_size:,} bytes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
