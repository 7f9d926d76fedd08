"""What `pip install` of a built Coterie installs."""

import importlib.util
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from coterie.version import __version__

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "coterie"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """A folder with a wheel and an sdist of this tree, built from a copy so that the checkout stays clean."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools, which builds the wheel, is not installed: scripts/install test")
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "golden", "results")
    for name in ("src", "tests", "docs", "examples", "scripts", "benchmarks", ".ci"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    command = [sys.executable, "-m", "build", "--wheel", "--sdist", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(distributions):
    (path,) = distributions.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


def test_the_sdist_holds_what_a_packager_needs(distributions):
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as file:
        inside = {name.partition("/")[2] for name in file.getnames()}
    assert {
        "CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "SECURITY.md", "mkdocs.yml", "pyproject.toml",
        "docs/methods.md", "examples/own_loop.py", "scripts/test", "tests/conftest.py", "benchmarks/README.md", ".ci/run",
        "src/coterie/reporting/report.html",
    } <= inside  # fmt: skip
    assert not [name for name in inside if name.endswith(".pyc")]


def test_the_citation_names_the_version_and_nobody_invented():
    text = (ROOT / "CITATION.cff").read_text("utf-8")
    assert f"\nversion: {__version__}\n" in text
    assert "2006.09882" in text
    assert "2207.06167" in text


def test_it_holds_the_whole_package_and_nothing_else(wheel):
    ours = {str(path.relative_to(ROOT / "src")) for path in SOURCE.rglob("*") if path.suffix in {".py", ".html", ".js"}}
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == {*ours, "coterie/py.typed"}
    assert any(name.endswith("report.html") for name in inside)


def metadata_of(wheel):
    return Parser().parsestr(wheel.read(f"coterie-{__version__}.dist-info/METADATA").decode())


def test_its_metadata(wheel):
    folder = f"coterie-{__version__}.dist-info"
    metadata = metadata_of(wheel)
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"].startswith(">=3.11")
    assert wheel.read(f"{folder}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "coterie = coterie.cli.main:main" in wheel.read(f"{folder}/entry_points.txt").decode()


def test_its_extras_and_what_they_require(wheel):
    metadata = metadata_of(wheel)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(metadata.get_all("Provides-Extra")) == set(extras)
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]

    def required(extra):
        return {each.name for each in requirements if each.marker is None or each.marker.evaluate({"extra": extra})}

    assert "torch" in required("")
    assert required("demo") - required("") == {"scikit-image"}
    for extra, lines in extras.items():
        assert required(extra) - required("") == {Requirement(line).name for line in lines}
