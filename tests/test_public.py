"""The public face: sorted, complete, documented, typed; and the three places that list it say the same."""

import ast
import importlib
import inspect
from pathlib import Path
from typing import Protocol

import pytest

import coterie

SOURCE = Path(coterie.__file__).parent
MODULES = sorted(
    ".".join(["coterie", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if path.name != "__main__.py"
)


def test_all_is_sorted_and_without_repetition():
    assert coterie.__all__ == sorted(set(coterie.__all__))


def test_the_lists_of_public_names_agree():
    tree = ast.parse((SOURCE / "__init__.py").read_text("utf-8"))
    for_type_checkers = {
        (alias.asname or alias.name, node.module)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert for_type_checkers == {(name, f"coterie.{home}") for name, home in coterie._HOMES.items()}
    assert set(coterie.__all__) == {*coterie._HOMES, "__version__"}
    assert set(coterie.__all__) <= set(dir(coterie))


def test_no_public_name_is_also_a_module():
    """``coterie.demo`` would be the function or the module, whichever was imported last."""
    modules = {path.stem for path in SOURCE.iterdir()}
    assert not modules & set(coterie._HOMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"coterie.*swaw"):
        _ = coterie.swaw


@pytest.mark.parametrize("name", sorted(set(coterie.__all__) - {"__version__"}))
def test_public_names_can_be_imported_and_are_documented(name):
    public = getattr(coterie, name)
    assert inspect.getdoc(public)
    assert public.__module__.startswith("coterie."), f"{name} is not ours"


def public_definitions(module):
    """Every function, class and method that this very module defines and that has no underscore in front."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            yield name, thing
            for method, value in vars(thing).items():
                function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
                own = not method.startswith("_") or (method == "__init__" and Protocol not in thing.__bases__)
                if inspect.isfunction(function) and own:
                    yield f"{name}.{method}", function


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_documented_and_typed(name):
    module = importlib.import_module(name)
    assert inspect.getdoc(module), f"{name} does not say what it is for"
    for inner, thing in public_definitions(module):
        if not inner.endswith("__init__"):
            assert (thing.__doc__ or "").strip(), f"{name}.{inner} has no docstring"
        if inspect.isfunction(thing):
            parameters = inspect.signature(thing).parameters
            untyped = [each for each in parameters if each not in thing.__annotations__ and each not in {"self", "cls"}]
            assert not untyped, f"{name}.{inner} does not say the type of {untyped}"
            assert "return" in thing.__annotations__, f"{name}.{inner} does not say what it returns"
