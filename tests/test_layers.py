"""The house has floors: a module imports only from the lines below its own (CONTRIBUTING.md says why)."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "coterie"

# From top to bottom; what stands on one line does not import each other. A new module gets its place here first.
LINES = (
    ("__init__", "__main__"),
    ("cli",),
    ("api", "answers"),
    ("session",),
    ("methods", "display", "transferring"),
    ("reporting", "classifier", "detection", "segmentation", "collection", "exploring"),  # the last two: rooms to come
    ("evaluation",),
    ("embedding",),
    ("training",),
    ("config",),
    ("grouping", "exporting"),
    ("data", "models", "optim"),
    ("distributed",),
    ("atomic", "logger"),
    ("signals", "paths", "formatting", "table", "global_state", "usable_cores"),
    ("types", "errors", "version"),
)
HEIGHT = {name: -number for number, line in enumerate(LINES) for name in line}


def module_name(path: Path) -> str:
    """``data.views`` for src/coterie/data/views.py, ``data`` for a package's __init__, ``__init__`` for our own."""
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


PATHS = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def imported(tree: ast.AST, package: str) -> set[str]:
    """Every dotted name that a module imports, anywhere in it; ``from a import b`` counts as ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            names.update(f"{start}.{alias.name}" for alias in node.names)
    return names


def package_of(module: str) -> str:
    if module == "__init__":
        return "coterie"
    inside = PATHS[module].name == "__init__.py"
    return ".".join(["coterie", *module.split(".")][: None if inside else -1])


def own_imports(module: str) -> set[str]:
    """The modules of coterie that ``module`` imports, named as in PATHS; a public name of the face is ``__init__``."""
    found = set()
    for name in imported(ast.parse(PATHS[module].read_text("utf-8")), package_of(module)):
        if name.split(".")[0] != "coterie":
            continue
        inner = name.removeprefix("coterie").removeprefix(".")
        while inner and inner not in PATHS:
            inner = inner.rpartition(".")[0]
        found.add(inner or "__init__")
    return found - {module}


def floor(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", PATHS)
def test_a_module_imports_only_from_below(module):
    homeless = {floor(name) for name in (module, *own_imports(module))} - HEIGHT.keys()
    assert not homeless, f"without a place yet: {homeless}; give each one in LINES"
    above = {
        other
        for other in own_imports(module)
        if floor(other) != floor(module) and HEIGHT[floor(other)] >= HEIGHT[floor(module)]
    }
    assert not above, f"{module} imports {sorted(above)}, which do not stand below it"


@pytest.mark.parametrize("module", [module for module in PATHS if floor(module) == "grouping"])
def test_grouping_works_in_anyones_training_loop(module):
    """It sees tensors, and neither data, networks nor configs."""
    seen = {floor(name) for name in own_imports(module)}
    assert seen <= {"grouping", "optim", "distributed", "errors", "types"}, seen


def test_no_module_imports_itself_in_a_circle():
    try:
        list(TopologicalSorter({module: own_imports(module) for module in PATHS}).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", [module for module in PATHS if floor(module) != "distributed"])
def test_only_one_room_knows_torch_distributed(module):
    tree = ast.parse(PATHS[module].read_text("utf-8"))
    used = {
        "torch.distributed"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == "distributed"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
    }
    used |= {name for name in imported(tree, package_of(module)) if name.startswith("torch.distributed")}
    assert not used, f"{module} reaches for {sorted(used)}; coterie.distributed does that"


@pytest.mark.parametrize("module", [module for module in PATHS if module != "__init__"])
def test_nothing_is_imported_by_a_computed_name(module):
    names = imported(ast.parse(PATHS[module].read_text("utf-8")), package_of(module))
    assert not names & {"importlib", "importlib.import_module"}, f"{module} imports by name: these layers cannot see it"


@pytest.mark.parametrize(
    "code",
    [
        "import coterie",
        "import coterie.cli.main",
        "import coterie.cli.main\nsys.argv = ['coterie', '--help']\ntry: coterie.cli.main.main()\nexcept SystemExit: pass",
    ],
    ids=["package", "cli", "help"],
)
def test_no_torch_until_there_is_work(code):
    code = f"import sys\n{code}\nsys.exit(','.join({{'torch', 'numpy', 'PIL'}} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
