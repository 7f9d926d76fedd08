"""Options that commands share: the keywords that are refused, and one text for each on the command line."""

import re
from pathlib import Path
from typing import get_type_hints

import pytest

from coterie import api
from coterie.cli import main as cli
from coterie.config.options import EmbedOptions, EvaluationOptions, RunOptions, check_options, label_columns
from coterie.data.sources.columns import Columns
from coterie.errors import UserError


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
        ("embed", EmbedOptions),
    ):
        cli.app([verb, "--help"], exit_on_error=False)
        shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
        for name, annotation in get_type_hints(kind, include_extras=True).items():
            text = re.search(rf"^ +{name}: (\S+ \S+)", kind.__doc__ or "", re.MULTILINE)
            helps = [each.help for each in getattr(annotation, "__metadata__", ()) if getattr(each, "help", None)]
            assert (text is None) == bool(helps), name
            assert (helps[0] if text is None else text[1]) in shown


def test_whole_numbers_between_commas_take_no_image() -> None:
    words = ["train", "m", "one", "--blocks", "2,3", "two", "--masks", "d", "--out", "o"]
    bound = cli.app.parse_args(words, exit_on_error=False, print_error=False)[1].arguments
    assert (bound["labelled"], bound["options"]["blocks"]) == (("one", "two"), (2, 3))
    with pytest.raises(UserError, match="--blocks is x: give whole numbers, such as --blocks 2,3"):
        cli.app.parse_args([*words[:4], "x", "--out", "o"], exit_on_error=False, print_error=False)


def test_inherited_options_are_known() -> None:
    check_options({"labels": "classes.csv", "device": "cpu"}, EvaluationOptions)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'$"):
        check_options({"zzz": 1}, EvaluationOptions)


@pytest.mark.parametrize(
    ("earlier", "now"),
    [("10%", "--label-fraction 10%"), ("0.5%", "--label-fraction 0.5%"), ("5", "--labels-per-class 5")],
)
def test_the_earlier_meaning_of_labels_is_explained(earlier: str, now: str) -> None:
    with pytest.raises(UserError, match=f"--labels {earlier}: this option names a table of labels; write {now}$"):
        api.evaluate("run", "nowhere", labels=earlier)


def test_where_images_and_labels_are() -> None:
    options = {"labels": Path("classes.csv"), "image_column": "a", "label_column": "b", "label_key": "c", "seed": 3}
    assert label_columns(options) == Columns("a", "b", "c", "classes.csv")
    assert label_columns({}) == Columns()


@pytest.mark.parametrize("words", [["--mean", ".1,.2,.3"], ["--mean", ".1", ".2", ".3"], ["--mean=.1,.2,.3"]])
def test_numbers_are_written_with_commas_or_spaces(words: list[str]) -> None:
    _, bound, _ = cli.app.parse_args(["embed", "run", "images", "--out", "x", *words], exit_on_error=False)
    assert bound.arguments["options"]["mean"] == (0.1, 0.2, 0.3)


def test_words_for_numbers_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"--mean is imagenet: give numbers, such as --mean \.5,\.5,\.5"):
        cli.app.parse_args(["embed", "run", "images", "--out", "x", "--mean", "imagenet"], exit_on_error=False)
