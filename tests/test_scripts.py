"""The scripts: what a new user runs first, on a machine where nothing is installed.

The real scripts/install runs, with the real pip and venv, on a tiny project that needs nothing from the network.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SCRIPTS = ("install", "demo", "test", "check", "docs", "format")
TOOLS = ("bash", "dirname", "env", "flock", "mkdir", "sed")
QUIET = {"PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "coterie"
version = "1"
dependencies = []
[project.optional-dependencies]
stone = ["pebble>=1"]
test = ["coterie[stone]"]
test-more = ["pebble[polish]"]
"""

# A build backend of a few lines, so that pip needs nothing from the network. It counts how often it is called.
BACKEND = """
import pathlib, tomllib, zipfile
def wheel(folder, name, files, requires=""):
    info = f"{name}-1.dist-info"
    files = dict(files)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n{requires}"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: us\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[f"{info}/RECORD"] = "".join(f"{path},,\\n" for path in [*files, f"{info}/RECORD"])
    path = pathlib.Path(folder, f"{name}-1-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as file:
        for inside, text in files.items():
            file.writestr(inside, text)
    return path.name
def build_editable(folder, config_settings=None, metadata_directory=None):
    pathlib.Path("builds").open("a").write("one\\n")
    if pathlib.Path("broken").exists():
        raise SystemExit("the backend is broken")
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    requires = "".join(f"Requires-Dist: {each}\\n" for each in project["dependencies"])
    for extra, lines in project["optional-dependencies"].items():
        requires += f"Provides-Extra: {extra}\\n"
        requires += "".join(f"Requires-Dist: {each}; extra == '{extra}'\\n" for each in lines)
    return wheel(folder, "coterie", {"coterie.pth": str(pathlib.Path("src").resolve())}, requires)
"""


def run(folder, *command, **environment):
    """Run a command in a folder, without environment variables that could change which Python or package is found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "VIRTUAL"))}
    environment = {**kept, **QUIET, "PYTHON": sys.executable, **environment}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


@pytest.fixture
def project(tmp_path):
    """A tiny project with our scripts, in a folder whose name has a space."""
    folder = tmp_path / "a project"
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "src" / "coterie").mkdir(parents=True)
    (folder / "src" / "coterie" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "wheels").mkdir()
    polish = "Provides-Extra: polish\\nRequires-Dist: sand; extra == 'polish'\\n"
    for name, requires in (("pebble", polish), ("sand", "")):
        write = f"import backend; backend.wheel('wheels', '{name}', {{'{name}.py': ''}}, \"{requires}\")"
        assert run(folder, sys.executable, "-c", write).returncode == 0
    return folder


def builds(project):
    path = project / "builds"
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.parametrize("name", [f"scripts/{name}" for name in SCRIPTS] + [".ci/run"])
def test_scripts_can_be_run(name):
    assert os.access(ROOT / name, os.X_OK)
    assert run(ROOT, "bash", "-n", name).returncode == 0


@pytest.mark.parametrize("name", [f"scripts/{name}" for name in SCRIPTS] + [".ci/run"])
def test_shellcheck_finds_nothing(name):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = run(ROOT, "shellcheck", name)
    assert done.returncode == 0, done.stdout


def test_install_makes_an_environment_and_then_has_nothing_to_do(project, tmp_path):
    first = run(tmp_path, "a project/scripts/install")  # from another folder
    assert first.returncode == 0, first.stderr
    assert "coterie: installed." in first.stderr
    again = run(project, "scripts/install")
    assert (again.returncode, again.stdout, again.stderr, builds(project)) == (0, "", "", 1)
    imported = run(tmp_path, "a project/.venv/bin/python", "-c", "import coterie; print(coterie.__file__)")
    assert imported.stdout.strip() == str(project / "src" / "coterie" / "__init__.py")

    extra = run(project, "scripts/install", "test", PIP_FIND_LINKS="wheels")
    assert (extra.returncode, builds(project)) == (0, 2), extra.stderr
    assert run(project, ".venv/bin/python", "-c", "import pebble").returncode == 0
    # pebble is there now, but not what its extra requires
    more = run(project, "scripts/install", "test", "test-more", PIP_FIND_LINKS="wheels")
    assert (more.returncode, builds(project)) == (0, 3), more.stderr
    # An environment with more than what is required is left alone.
    for extras in ([], [""], ["test"], ["stone", "test-more"], ["test,test-more"]):
        assert (run(project, "scripts/install", *extras).stderr, builds(project)) == ("", 3)
    assert run(project, ".venv/bin/python", "-c", "import pebble, sand").returncode == 0

    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("dependencies = []", 'dependencies = ["granite"]', 1))
    lacking = run(project, "scripts/install")
    assert lacking.returncode == 1
    assert "granite" in lacking.stderr
    assert "trying once more" in lacking.stderr
    assert "installation failed" in lacking.stderr.splitlines()[-1]


@pytest.mark.slow
def test_an_unknown_extra_is_named(project):
    done = run(project, "scripts/install", "tset")
    assert done.returncode == 1
    assert "an extra named tset" in done.stderr.splitlines()[-1]
    assert "coterie: installed." not in done.stderr


@pytest.mark.slow
def test_a_moved_checkout_is_installed_again(project):
    assert run(project, "scripts/install").returncode == 0
    moved = project.rename(project.parent / "moved")
    assert run(moved, "scripts/install").returncode == 0
    imported = run(moved, ".venv/bin/python", "-c", "import coterie; print(coterie.__file__)")
    assert imported.stdout.startswith(str(moved))


@pytest.mark.slow
def test_two_installations_at_once_do_the_work_once(project):
    command = ["bash", "-c", "scripts/install & first=$!; scripts/install & wait $! && wait $first"]
    done = run(project, *command)
    assert (done.returncode, builds(project)) == (0, 1), done.stderr


@pytest.mark.slow
def test_an_interrupted_installation_can_be_resumed(project):
    assert run(project, sys.executable, "-m", "venv", "--without-pip", ".venv").returncode == 0
    (project / "broken").touch()
    failed = run(project, "scripts/install")
    assert (failed.returncode, builds(project)) == (1, 2), "it tries twice"
    assert "the backend is broken" in (project / ".venv" / "install.log").read_text()
    assert "installation failed" in failed.stderr.splitlines()[-1]
    (project / "broken").unlink()
    assert run(project, "scripts/install").returncode == 0
    assert run(project, ".venv/bin/python", "-c", "import coterie").returncode == 0


def test_an_environment_made_by_hand_is_used_as_it_is(project):
    assert run(project, sys.executable, "-m", "venv", ".venv").returncode == 0
    (packages,) = (project / ".venv" / "lib").glob("python*/site-packages")
    (packages / "ours.pth").write_text(str(project / "src"))
    done = run(project, "scripts/install")
    assert (done.returncode, done.stderr, builds(project)) == (0, "", 0)


@pytest.fixture
def bare_machine(tmp_path):
    """A PATH with a few tools and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.parametrize("broken_one", [True, False])
def test_no_suitable_python_is_one_plain_line(project, bare_machine, broken_one):
    if broken_one:  # present, but it does not run, like the shims of a version manager
        executable(bare_machine / "python3.12", "#!/bin/sh\necho no such version >&2\nexit 127\n")
    done = run(project, "scripts/install", PATH=str(bare_machine), PYTHON="")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert not (project / ".venv").exists()


def test_a_python_without_venv_is_one_plain_line_with_the_name_of_the_package(project, bare_machine):
    lame = bare_machine.parent / "lame"
    lame.mkdir()
    (lame / "ensurepip.py").write_text("raise ImportError\n")
    executable(bare_machine / "python3", f'#!/bin/sh\nPYTHONPATH="{lame}" exec "{sys.executable}" "$@"\n')
    done = run(project, "scripts/install", PATH=str(bare_machine), PYTHON="")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"python3.{sys.version_info.minor}-venv" in done.stderr
    assert not (project / ".venv").exists()


def test_an_environment_whose_python_is_gone_is_one_plain_line(project):
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    done = run(project, "scripts/install")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "remove .venv" in done.stderr


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LISTS = {"dependencies": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


def packages(*extras):
    """The names of the packages that scripts/complete.py looks for: those of the core and of the extras."""
    spec = importlib.util.spec_from_file_location("complete", ROOT / "scripts" / "complete.py")
    complete = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(complete)
    return {canonicalize_name(each.name) for each in complete.required(list(extras), PROJECT)}


@pytest.mark.parametrize("extra", PROJECT["optional-dependencies"])
def test_every_extra_resolves_to_packages(extra):
    found = packages(extra)
    assert found > packages()
    assert "coterie" not in found, "an extra that refers to another is replaced by what it stands for"


@pytest.mark.parametrize("name", LISTS)
def test_no_dependency_stands_twice(name):
    names = [canonicalize_name(Requirement(line).name) for line in LISTS[name]]
    assert sorted(names) == sorted(set(names))


def test_what_only_some_need_is_in_an_extra_of_its_own():
    ray, remote = {"ray"}, {"moto", "s3fs"}
    assert "scikit-image" not in packages()
    assert "scikit-image" in packages("demo") & packages("test")
    assert not (ray | remote) & packages("test")
    assert packages("test-ray") & (ray | remote) == ray
    assert packages("test-remote") & (ray | remote) == remote


@pytest.mark.parametrize(
    ("script", "needs"),
    [
        ("scripts/demo", {"demo"}),
        ("scripts/test", {"test"}),
        (".ci/run", set(PROJECT["optional-dependencies"]) - {"benchmark", "hf"}),  # whatever a test could need
    ],
)
def test_scripts_install_what_they_need(script, needs):
    (extras,) = re.findall(r"^\S*scripts/install\"? (\S+)$", (ROOT / script).read_text("utf-8"), re.MULTILINE)
    assert packages(*extras.split(",")) >= packages(*needs)


def test_the_readme_begins_with_the_two_commands():
    lines = [line.split("#")[0].strip() for line in (ROOT / "README.md").read_text("utf-8").splitlines()]
    assert [line for line in lines if line.startswith("scripts/")][:2] == ["scripts/demo", "scripts/test"]
