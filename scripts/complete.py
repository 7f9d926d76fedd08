"""Exit with 0 when this Python holds all that pyproject.toml asks for with the extras in argv[1], with 1 otherwise.

It looks at what is installed, not at a note of what was once installed: an environment that somebody made by hand
counts, and one that lost a package, or was moved here from another folder, does not.
"""

import sys
import tomllib
from importlib import metadata, util
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ImportError:  # a bare environment: pip brings its own copy
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent


def wanted(extras: list[str]) -> list[Requirement]:
    """Everything that the project itself and the named extras require on this machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    requirements = [Requirement(line) for line in lines]
    return [each for each in requirements if each.marker is None or each.marker.evaluate()]


def installed(requirement: Requirement) -> bool:
    """Whether a version that satisfies this requirement is here."""
    try:
        return requirement.specifier.contains(metadata.version(requirement.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False


def editable() -> bool:
    """Whether ``import coterie`` takes the sources of this very folder."""
    found = util.find_spec("coterie")
    return found is not None and found.origin is not None and Path(found.origin).resolve().is_relative_to(ROOT / "src")


if __name__ == "__main__":
    names = [name.strip() for name in sys.argv[1].split(",") if name.strip()]
    sys.exit(not (editable() and all(map(installed, wanted(names)))))
