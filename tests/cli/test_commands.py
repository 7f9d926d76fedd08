"""Each command has the parameters and the defaults of the function of its name."""

import inspect
from typing import get_args

import pytest

from coterie import answers, api
from coterie.cli import answer_commands, commands


@pytest.mark.parametrize(
    "verb",
    [
        "plan",
        "profile",
        "pretrain",
        "evaluate",
        "transfer",
        "select",
        "compare",
        "report",
        "embed",
        "train",
        "predict",
        "export",
        "structure",
    ],
)
def test_the_command_is_the_api(verb: str) -> None:
    """Same verbs, same parameters, same defaults; what only Python can hand in aside."""
    modules = (commands, api) if hasattr(commands, verb) else (answer_commands, answers)
    command, function = (inspect.signature(getattr(module, verb)).parameters for module in modules)
    # a module is given as backbone in Python alone
    of_python = {"logger", "quiet", "callbacks", "parts"} | ({"backbone"} if verb in ("report", "predict") else set())
    assert command.keys() == function.keys() - of_python
    for name, parameter in command.items():
        default = function[name].default
        if name == "options":
            flags, *_ = get_args(parameter.annotation)  # Annotated[kind, ...] | None
            assert get_args(flags)[0] is get_args(function[name].annotation)[0]  # Unpack[kind]
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            assert parameter.default in (default, ",".join(default) if isinstance(default, tuple) else default)


def test_every_command_is_documented_option_by_option() -> None:
    for name, command in [*vars(commands).items(), *vars(answer_commands).items()]:
        if inspect.isfunction(command) and command.__module__ in (commands.__name__, answer_commands.__name__):
            described = inspect.getdoc(command).partition("Parameters\n----------\n")[2].splitlines()
            parameters = inspect.signature(command).parameters
            texts = {each: get_args(parameters[each].annotation) for each in parameters}
            shared = {each for each, found in texts.items() if any(getattr(one, "help", None) for one in found)}
            own = parameters.keys() - shared - {"options"}
            assert {line for line in described if line and not line.startswith(" ")} == own, name
