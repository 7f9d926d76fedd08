"""The rows of the papers: every command resolves, and to the epochs, batch, crops and network of its row."""

import shlex
import sys
from typing import Any, get_args

import numpy as np
import pytest

from coterie.cli.main import VERBS, app
from coterie.config.facts import Facts
from coterie.config.overrides import parse_settings, set_path
from coterie.config.schema import PretrainConfig
from coterie.detection.detector import DetectorKind
from coterie.detection.schedules import SCHEDULES
from coterie.evaluation.evaluator import PROBES
from coterie.methods.resolve import open_request
from tests.benchmarks.conftest import BENCHMARKS

sys.path.append(str(BENCHMARKS / "papers"))
from page import PAGE, Row, page, read_rows

ROWS = read_rows()
IMAGES = 1_281_167
SHOWN = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


class ImageNet:
    """As many images as ImageNet has."""

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((375, 500, 3), 90, dtype=np.uint8)


def bound(command: str) -> tuple[str, dict[str, Any]]:
    """Verb and arguments of a command, as the command line reads them; options of a shared kind are among them."""
    program, verb, *words = shlex.split(command)
    assert program == "coterie"
    assert verb in VERBS
    _, arguments, *_ = app.parse_args([verb, *words], print_error=False, exit_on_error=False)
    given = dict(arguments.arguments)
    return verb, given | (given.pop("options", None) or {})


@pytest.fixture(scope="module")
def resolve():
    """Settings from the arguments of ``pretrain``; that images are measured before is left out."""
    known: dict[str, PretrainConfig] = {}

    def resolved(given: dict[str, Any]) -> PretrainConfig:
        options = {name: given[name] for name in ("epochs", "batch_size", "settings") if name in given}
        key = repr((given["method"], options))
        if key not in known:
            request = open_request(given["method"], ImageNet(), options)
            request.facts = Facts(IMAGES, 375)
            known[key] = request.resolved().config
        return known[key]

    return resolved


def crops(config: PretrainConfig) -> str:
    """The crops that predict, as papers write them."""
    sizes = [each.size for each in config.views.crops for _ in range(each.count)]
    shown = [sizes[place] for place in config.views.roles.student_views]
    return "+".join(f"{shown.count(size)}x{size}" for size in sorted(set(shown), reverse=True))


@SHOWN
def test_pretraining_is_that_of_the_row(row: Row, resolve) -> None:
    verb, given = bound(row.commands[0])
    assert (verb, given["data"]) == ("pretrain", ("IMAGENET/train",))
    config = resolve(given)
    assert (config.epochs, config.batch_size) == (row.epochs, row.batch)
    assert (config.backbone.name, config.backbone.width, crops(config)) == (row.network, row.width, row.crops)
    assert str(given["out"]) == "RUN"
    assert config.method.startswith(row.method.lower().replace("-", "_"))


@SHOWN
def test_what_follows_is_understood(row: Row) -> None:
    assert len(row.commands) >= 2
    made = {"RUN"}
    for command in [*row.commands[1:], *([row.check] if row.check else [])]:
        verb, given = bound(command)
        assert verb in ("train", "evaluate")
        assert given["model"] in ({row.weights} if command == row.check else made)
        if verb == "train":
            assert given.get("detector", "faster_rcnn") in get_args(DetectorKind)
            assert SCHEDULES[given["schedule"]].batch_size == 16
            made.add(str(given["out"]))
        elif "boxes" not in given:
            assert set(given["probes"].split(",")) <= set(PROBES)
            assert given["precision"] == "float32"
    assert bool(row.weights) == bool(row.check)


def test_the_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == page(ROWS), "run python benchmarks/papers/page.py"


def test_no_row_of_imagenet_is_said_to_be_run_by_us() -> None:
    assert not any(row.run_by_us for row in ROWS)
    assert len({row.name for row in ROWS}) >= 30
    for row in ROWS:
        assert row.figure_certain or "not checked" in row.figure_from
        assert (row.hours is None) == (row.hours_from is None)


def test_a_row_with_another_figure_of_speech_would_be_seen(resolve) -> None:
    """The comparison itself: another number of epochs, and a setting that does not exist."""
    row = next(each for each in ROWS if each.name == "swav_100")
    _, given = bound(row.commands[0].replace("100", "200"))
    assert resolve(given).epochs != row.epochs
    with pytest.raises(Exception, match="there is no such setting"):
        set_path({"method": "swav"}, *parse_settings(["backbone.breadth=2"])[0])
