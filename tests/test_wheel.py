"""What `pip install` of a built Coterie would bring."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from coterie.version import __version__

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "coterie"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this tree, built from a copy, so that nothing is left behind in the checkout."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the wheel, is not installed")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignored)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (path,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


def test_it_holds_the_whole_package_and_nothing_else(wheel):
    ours = {str(path.relative_to(ROOT / "src")) for path in SOURCE.rglob("*") if path.suffix in {".py", ".html"}}
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == {*ours, "coterie/py.typed"}
    assert any(name.endswith("report.html") for name in inside)


def test_its_metadata_say_who_we_are(wheel):
    folder = f"coterie-{__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"].startswith(">=3.11")
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "coterie = coterie.cli.main:main" in wheel.read(f"{folder}/entry_points.txt").decode()
