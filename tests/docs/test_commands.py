"""Every ``coterie ...`` line and every setting of README, docs and docstrings names what there is."""

from cyclopts import CycloptsError, MissingArgumentError

from coterie.cli.main import VERBS, app
from coterie.config.facts import Facts
from coterie.errors import BadConfig, UserError
from coterie.methods.names import METHOD_NAMES
from tests.config.presets import changed
from tests.docs.texts import commands, settings

PLANNED = ("plan", "profile", "pretrain")
ANY = (Facts(images=50_000, side=32), Facts(images=50_000, side=224))


def test_there_are_commands_and_settings():
    assert len(commands()) > 100
    assert len(settings()) > 30


def resolved(words):
    """What is wrong with the words after ``coterie``; None if nothing is."""
    verb = words[0]
    if verb.startswith("--"):
        return None if verb in {"--help", "--version", "--install-completion"} else f"there is no option {verb}"
    if verb not in VERBS:
        return f"there is no verb {verb}"
    try:
        _, bound, *_ = app.parse_args(words, print_error=False, exit_on_error=False)
    except MissingArgumentError as error:  # a line in prose may leave out what is plain
        bound = None if "--out" in str(error) or len(words) <= 4 else error
        if bound is not None:
            return str(error)
    except (CycloptsError, UserError) as error:
        return str(error)
    if verb in PLANNED and len(words) > 1:
        first, then = words[1], words[2] if len(words) > 2 else "-"
        method = "_" in first or (first.islower() and first[0] != "-" and then[0] != "-")
        if method and first not in METHOD_NAMES:
            return f"there is no method {first}"
    return None


def test_documented_commands_resolve():
    wrong = [f"{where}: coterie {' '.join(words)}: {why}" for where, words in commands() if (why := resolved(words))]
    assert not wrong, "\n".join(wrong)


def accepted(setting, method):
    """What is wrong with a setting of ``--set`` of a method, for small images and for large ones; None if nothing is."""
    for facts in ANY:
        try:
            changed(*setting, method=method, facts=facts)
        except BadConfig as error:
            why = str(error)
        else:
            return None
    return why


def test_documented_settings_can_be_set():
    wrong = []
    for where, setting in settings():
        whys = {accepted((setting,), method) for method in METHOD_NAMES}
        if None not in whys and setting != "views.range=auto":  # two numbers take its place once the images are there
            wrong.append(f"{where}: --set {setting}: {min(map(str, whys))}")
    assert not wrong, "\n".join(wrong)
