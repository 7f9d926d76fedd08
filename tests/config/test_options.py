"""Options that commands share: the keywords that are refused, and one text for each on the command line."""

import re

import pytest

from coterie import api
from coterie.cli import main as cli
from coterie.config.options import EvaluationOptions, MachineOptions, RunOptions, check_options


def test_an_unknown_keyword_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'epoch'; did you mean epochs"):
        api.plan("swav", "nowhere", epoch=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'divice'; did you mean device"):
        api.evaluate("run", "nowhere", divice="cpu")  # type: ignore[call-arg]


def test_every_shared_option_has_its_text_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, kind in (
        ("plan", RunOptions),
        ("pretrain", RunOptions),
        ("evaluate", EvaluationOptions),
        ("embed", MachineOptions),
    ):
        cli.app([verb, "--help"], exit_on_error=False)
        shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for name in kind.__annotations__:
            text = re.search(rf"^ +{name}: (\S+ \S+)", kind.__doc__ or "", re.MULTILINE)
            assert text is not None
            assert text[1] in shown


def test_inherited_options_are_known() -> None:
    check_options({"labels": "1%", "device": "cpu"}, EvaluationOptions)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'$"):
        check_options({"zzz": 1}, EvaluationOptions)
