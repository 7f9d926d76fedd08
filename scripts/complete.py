"""Exit with 0 if this Python has everything that pyproject.toml requires with the extras in argv[1], with 1 otherwise.

Prints what is missing. Looks at the packages themselves, not at a record of past installations: an environment made by
hand counts, and one that lost a package or was moved here from another folder does not.
"""

import sys
import tomllib
from importlib import metadata, util
from pathlib import Path

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ImportError:  # a bare environment: pip brings its own copy
    from pip._vendor.packaging.requirements import Requirement  # type: ignore[assignment]
    from pip._vendor.packaging.utils import canonicalize_name  # type: ignore[assignment]

ROOT = Path(__file__).resolve().parent.parent


def required(extras: list[str], project: dict) -> list[Requirement]:
    """List what the project and its extras require on this machine; an extra may refer to others (``coterie[demo]``).

    Raises:
        KeyError: The project has no such extra.
    """
    ours = canonicalize_name(project["name"])
    optional = {canonicalize_name(name): lines for name, lines in project.get("optional-dependencies", {}).items()}

    def expand(lines: list[str]) -> list[Requirement]:
        found = []
        for requirement in map(Requirement, lines):
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            if canonicalize_name(requirement.name) == ours:
                found += [each for extra in requirement.extras for each in expand(optional[canonicalize_name(extra)])]
            else:
                found.append(requirement)
        return found

    return expand(
        [*project["dependencies"], *(line for extra in extras for line in optional[canonicalize_name(extra)])]
    )


def is_installed(requirement: Requirement) -> bool:
    """Whether a version that satisfies the requirement is installed, along with the extras that it names."""
    try:
        package = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        return False
    if not requirement.specifier.contains(package.version, prereleases=True):
        return False
    parts = [Requirement(line) for line in package.requires or ()] if requirement.extras else []
    return all(
        is_installed(part)
        for part in parts
        if part.marker is not None and any(part.marker.evaluate({"extra": extra}) for extra in requirement.extras)
    )


def is_editable() -> bool:
    """Whether ``import coterie`` takes the sources from this folder."""
    found = util.find_spec("coterie")
    return found is not None and found.origin is not None and Path(found.origin).resolve().is_relative_to(ROOT / "src")


def missing(extras: list[str]) -> list[str]:
    """List what this environment lacks; empty when it is complete."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    try:
        lacking = [str(each) for each in required(extras, project) if not is_installed(each)]
    except KeyError as error:
        return [f"an extra named {error.args[0]} in pyproject.toml"]
    return lacking if is_editable() else [f"coterie from {ROOT / 'src'}", *lacking]


if __name__ == "__main__":
    lacking = missing([name.strip() for name in sys.argv[1].split(",") if name.strip()])
    sys.stdout.write(", ".join(lacking) + "\n" * bool(lacking))
    sys.exit(bool(lacking))
