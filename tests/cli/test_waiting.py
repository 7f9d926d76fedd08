"""The command lets threads wait as this machine was found to train fastest; what the user sets stays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.training.profiling import wait_policy
from coterie.training.profiling.wait_policy import (
    DEFAULT,
    PASSIVE,
    VARIABLE,
    faster_policy,
    known_policy,
    measured_policy,
    policy_line,
    save_policy,
)

CHILD = """
import os, sys
from coterie.cli import waiting
from coterie.training.profiling import cores, wait_policy
cores.cores_of_others = lambda: {busy}
for busy in range(9):
    if {answer!r} is not None:
        wait_policy.save_policy(busy, {answer!r})
wait_policy.measured_policy = lambda: print("tried") or {found!r}
waiting.GPU = waiting.Path({gpu!r})
waiting.wait_asleep()
waiting.wait_as_is_fastest({options!r})
assert "torch" not in sys.modules
print(os.environ.get("OMP_WAIT_POLICY", "default"))
"""


def waits(
    cache: Path,
    answer: str | None,
    *,
    found: str | None = None,
    options: dict[str, object] | None = None,
    gpu: str = "/nowhere",
    busy: int = 0,
    **variables: str,
) -> list[str]:
    """What a fresh process, which has not imported torch, prints: whether it tried, and how it waits."""
    own = {name: value for name, value in os.environ.items() if name != VARIABLE}
    code = CHILD.format(answer=answer, found=found, options=options, gpu=gpu, busy=busy)
    environment = own | {"COTERIE_CACHE": str(cache), "OMP_NUM_THREADS": "2"} | variables
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_answer_of_the_machine_is_taken(tmp_path: Path) -> None:
    assert waits(tmp_path, DEFAULT) == ["default"]
    assert waits(tmp_path, PASSIVE) == ["PASSIVE"]
    assert waits(tmp_path, None, busy=len(os.sched_getaffinity(0))) == ["PASSIVE"]  # no core is free


def test_what_is_not_known_is_tried_once(tmp_path: Path) -> None:
    assert waits(tmp_path, None, found=DEFAULT) == ["tried", "default"]
    assert list(json.loads((tmp_path / "wait_policy.json").read_text()).values()) == [DEFAULT]
    assert waits(tmp_path / "failed", None) == ["tried", "PASSIVE"]
    assert not (tmp_path / "failed").exists()


@pytest.mark.parametrize(
    "given",
    [
        {"OMP_WAIT_POLICY": "ACTIVE"},
        {"OMP_WAIT_POLICY": "PASSIVE"},
        {"OMP_NUM_THREADS": "1"},
        {"WORLD_SIZE": "2"},
        {"options": {"settings": ("run.threads = 1",)}},
        {"gpu": "/dev/null", "CUDA_VISIBLE_DEVICES": "0"},
    ],
    ids=str,
)
def test_nothing_changes_for_a_user_who_has_decided_nor_where_it_does_not_matter(
    tmp_path: Path, given: dict[str, object]
) -> None:
    expected = str(given.get("OMP_WAIT_POLICY", "PASSIVE"))
    assert waits(tmp_path, DEFAULT, **given) == [expected]  # type: ignore[arg-type]


def test_a_gpu_that_is_not_used_does_not_matter(tmp_path: Path) -> None:
    assert waits(tmp_path, DEFAULT, gpu="/dev/null", options={"settings": ["run.device=cpu"]}) == ["default"]
    assert waits(tmp_path, DEFAULT, gpu="/dev/null", CUDA_VISIBLE_DEVICES="") == ["default"]


TRAINS = """
import sys
from coterie.cli import commands, main
def wait(options):
    print("torch" in sys.modules)
    sys.exit(0)
commands.wait_as_is_fastest = wait
sys.argv = ["coterie", *{words!r}]
main.main()
"""


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "swav", "images"],
        ["profile", "swav", "images"],
        ["pretrain", "swav", "images", "--out", "run"],
        ["demo"],
    ],
    ids=" ".join,
)
def test_what_trains_sets_it_before_torch_is_imported(words: list[str]) -> None:
    code = TRAINS.format(words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}', "\x00"])
def test_a_damaged_file_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path))
    (tmp_path / "wait_policy.json").write_text(content)
    assert known_policy(0) is None
    save_policy(0, DEFAULT)
    assert (known_policy(0), known_policy(1)) == (DEFAULT, None)


def test_an_answer_that_is_none_is_ignored_and_a_folder_that_cannot_be_made_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path))
    save_policy(0, "SOMETIMES")
    assert known_policy(0) is None
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "file"))
    save_policy(0, PASSIVE)
    assert known_policy(0) is None


def test_answers_are_of_a_machine_with_its_threads_and_the_oldest_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path))
    monkeypatch.setattr(wait_policy, "MOST_ANSWERS", 3)
    for busy in (0, 1, 2, 0, 3):
        save_policy(busy, PASSIVE)
    assert [known_policy(busy) for busy in range(4)] == [PASSIVE, None, PASSIVE, PASSIVE]
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert known_policy(0) is None


def test_spinning_must_gain_something() -> None:
    assert faster_policy([3.1, 3.1, 9.9], [2.7, 2.7, 9.0]) == DEFAULT
    assert faster_policy([2.7, 2.7, 2.8], [2.65, 2.7, 2.7]) == PASSIVE
    assert faster_policy([1.0], [5.0]) == PASSIVE


def test_what_to_set_is_said_where_another_way_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "passive")
    assert policy_line(PASSIVE) is None
    assert "without OMP_WAIT_POLICY" in str(policy_line(DEFAULT))
    monkeypatch.setenv(VARIABLE, "ACTIVE")
    assert policy_line(DEFAULT) is None
    monkeypatch.delenv(VARIABLE)
    assert policy_line(DEFAULT) is None
    assert "OMP_WAIT_POLICY=PASSIVE" in str(policy_line(PASSIVE))


ECHO = """
import os, sys
print(0, flush=True)
for _ in sys.stdin:
    print({"PASSIVE": %s, "": 1.0}[os.environ.get("OMP_WAIT_POLICY", "")], flush=True)
"""


@pytest.mark.parametrize(("asleep", "policy"), [("2.0", DEFAULT), ("0.5", PASSIVE)])
def test_each_child_has_its_own_way(monkeypatch: pytest.MonkeyPatch, asleep: str, policy: str) -> None:
    monkeypatch.setattr(wait_policy, "TRIAL", (sys.executable, "-c", ECHO % asleep))
    monkeypatch.setenv(VARIABLE, "ACTIVE")  # theirs, not this one's
    assert measured_policy() == policy


@pytest.mark.parametrize("child", ["", "print(0, flush=True); import sys; next(sys.stdin); print('what', flush=True)"])
def test_a_child_that_fails_gives_no_answer(monkeypatch: pytest.MonkeyPatch, child: str) -> None:
    monkeypatch.setattr(wait_policy, "TRIAL", (sys.executable, "-c", child))
    assert measured_policy() is None


@pytest.mark.slow
def test_the_real_trial_gives_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert measured_policy() in (PASSIVE, DEFAULT)
