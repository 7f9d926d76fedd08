"""The Python of the pages compiles, and what it takes from Coterie is there."""

import ast
import importlib
import inspect

import pytest

import coterie
from tests.docs.texts import python

BLOCKS = python()


def test_there_are_blocks():
    assert len(BLOCKS) > 10


def lacking(code):
    """Names and keywords of Coterie that a piece of code uses and that are not there."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "coterie":
            module = importlib.import_module(node.module)
            yield from (f"{node.module}.{each.name}" for each in node.names if not hasattr(module, each.name))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "coterie" and not hasattr(coterie, node.attr):
            yield f"coterie.{node.attr}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("coterie."):
            yield from unknown_keywords(node, getattr(coterie, ast.unparse(node.func).removeprefix("coterie."), None))


def unknown_keywords(call, function):
    """Keywords of a call that the function does not take."""
    if not callable(function):
        return
    known = inspect.signature(function).parameters
    options = {
        name
        for parameter in known.values()
        if parameter.kind is parameter.VAR_KEYWORD
        for name in getattr(parameter.annotation, "__args__", [parameter.annotation])[0].__annotations__
    }
    for keyword in call.keywords:
        if keyword.arg is not None and keyword.arg not in known and keyword.arg not in options:
            yield f"{ast.unparse(call.func)}({keyword.arg}=)"


@pytest.mark.parametrize(("where", "code"), BLOCKS, ids=[where for where, _ in BLOCKS])
def test_a_block_compiles_and_its_names_exist(where, code):
    missing = list(lacking(code))
    assert not missing, f"{where}: {missing}"
