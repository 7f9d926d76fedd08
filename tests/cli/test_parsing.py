"""What the command line reads in a form of its own."""

import pytest

from coterie.cli import parsing as options
from coterie.cli.parsing import comma_separated, named_set, show
from coterie.errors import UserError


def test_words_between_commas() -> None:
    assert comma_separated("knn, linear,,svm ") == ("knn", "linear", "svm")
    assert comma_separated("") == ()


def test_named_sets() -> None:
    assert named_set("voc=images") == ("voc", "images")
    assert named_set("voc=train,test") == ("voc", ("train", "test"))
    assert named_set("voc=a=b") == ("voc", "a=b")


@pytest.mark.parametrize("text", ["images", "=images", "voc=", "voc=,", "voc=a,b,c"])
def test_a_set_that_is_not_named(text: str) -> None:
    with pytest.raises(UserError, match="write each set as NAME=TRAIN or NAME=TRAIN,TEST"):
        named_set(text)


def test_only_the_first_process_writes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "PROCESS", "1")
    show("a")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(options, "PROCESS", "0")
    show("a", "b")
    assert capsys.readouterr().out == "a\nb\n"
