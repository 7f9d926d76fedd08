"""What two processes cost and say to each other, counted at toy size; and what is reckoned from notes."""

import json
from pathlib import Path
from typing import Any

import pytest
from collectives import BACKWARD, FORWARD, GRADIENTS, counts, on_gpus, waits

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run

GROUPS, WIDTH, FLOAT = 3000, 128, 4


def note(what: str, began: float, ended: float, sent: int = 8) -> dict[str, Any]:
    return {"what": what, "sent": sent, "began": began, "ended": ended}


def test_waiting_for_the_other_is_told_from_talking() -> None:
    early = [note("groups", 1.0, 5.0), note(GRADIENTS, 6.0, 6.5), note(GRADIENTS, 7.0, 10.0)]
    late = [note("groups", 4.0, 5.0), note(GRADIENTS, 6.5, 6.6), note(GRADIENTS, 9.0, 10.0)]
    found = waits([[early, []], [late, []]])  # the second step said nothing
    assert found["groups"] == pytest.approx({"for_the_other": (3 + 0) / 2 / 2, "talking": 1 / 2})
    assert found[GRADIENTS] == pytest.approx({"for_the_other": (2 + 0) / 2 / 2, "talking": 1 / 2}), "of the last part"


def test_counts_are_those_of_a_step_and_of_a_line_of_the_log() -> None:
    steps = [[note("Sinkhorn", 0, 1), note("log", 0, 1, 80), note("log", 0, 1, 40)], [note("Sinkhorn", 2, 3, 24)]]
    assert counts(steps) == {
        "Sinkhorn": {"collectives": 1, "bytes": 16},
        "log": {"collectives": 2, "bytes": 120},
    }


def test_sync_batch_norm_says_the_count_beside_the_statistics() -> None:
    """Two layers of 8 and 16 channels: forward 2C + 1, backward 2C."""
    there = {"collectives": 2, "bytes": 2 * (8 + 16) * 2 * FLOAT}
    back = {"collectives": 2, "bytes": 2 * (8 + 16) * FLOAT}
    found = on_gpus({FORWARD: there, BACKWARD: back})
    assert found[FORWARD] == {"collectives": 2, "bytes": (17 + 33) * FLOAT}
    assert found[BACKWARD] == {"collectives": 2, "bytes": (16 + 32) * FLOAT}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("processes")
    sizes = "--toy --batch 8 --steps 1 --noted 2 --repeats 1 --contestants".split()
    command = (str(BENCHMARKS / "processes.py"), *sizes, "two processes", "--out", str(folder / "out.json"))
    status, said = run(command, folder / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    return json.loads((folder / "out.json").read_text())


@pytest.mark.slow
def test_what_is_said_is_what_the_methods_must_say(report: dict[str, Any]) -> None:
    """Each step: SwAV's three rounds for two views, SMoG's sums and counts for three heads, all weights, one question."""
    swav, smog = (report["said"][method] for method in ("swav", "smog"))
    assert swav["said"]["Sinkhorn"] == {"collectives": 3, "bytes": 3 * 2 * GROUPS * FLOAT}
    assert smog["said"]["groups"] == {"collectives": 3, "bytes": 3 * GROUPS * (WIDTH + 1) * FLOAT}
    assert swav["said"][GRADIENTS]["bytes"] == swav["weights_bytes"]
    assert smog["said"][GRADIENTS]["bytes"] == smog["weights_bytes"] - 3 * GROUPS * WIDTH * FLOAT, (
        "no optimizer moves them"
    )
    backbone, resolutions, head = 20, 2, 1
    assert swav["said"][FORWARD]["collectives"] == backbone * resolutions + head
    assert swav["said"][BACKWARD]["collectives"] == swav["said"][FORWARD]["collectives"]
    assert 2 * swav["said"][BACKWARD]["bytes"] == swav["said"][FORWARD]["bytes"]
    for method in (swav, smog):
        assert method["said"]["save or stop"] == {"collectives": 1, "bytes": 8}
        assert method["said"]["log"]["collectives"] == 2


@pytest.mark.slow
def test_every_method_has_its_times(report: dict[str, Any]) -> None:
    for method, own in (("swav", "Sinkhorn"), ("smog", "groups")):
        row = report["speed"]["methods"][method]["two processes"]
        assert row["seconds"] > 0
        assert row["loader_seconds_a_batch"] > 0
        assert {own, GRADIENTS, FORWARD, BACKWARD} <= row["collectives_seconds_a_step"].keys()
        assert all(part >= 0 for each in row["collectives_seconds_a_step"].values() for part in each.values())
