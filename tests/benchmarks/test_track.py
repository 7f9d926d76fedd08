"""The table of all benchmarks at toy size; two of them for real."""

import json
import sys
from pathlib import Path

import pytest
import track

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run

VARIABLES = {"OMP_NUM_THREADS": "1"}


def commands() -> set[str]:
    """The scripts of the folder that can be started."""
    return {path.stem for path in BENCHMARKS.glob("*.py") if '__name__ == "__main__"' in path.read_text()}


def test_every_benchmark_is_in_the_table_or_excused() -> None:
    tracked = {each.command.split()[0].removesuffix(".py") for each in track.TABLE.values()}
    assert tracked | set(track.EXCEPTIONS) == commands(), "add a line to TABLE of benchmarks/track.py, or to EXCEPTIONS"
    assert not tracked & set(track.EXCEPTIONS)
    assert not [name for name, why in track.EXCEPTIONS.items() if not why]


@pytest.mark.parametrize("name", track.TABLE)
def test_the_toy_options_are_understood(name: str, tmp_path: Path) -> None:
    script, *options = track.TABLE[name].words()
    command = (str(BENCHMARKS / script), *options, "--out", str(tmp_path / "out.json"))
    status, said = run(command, tmp_path / "log", VARIABLES, parse_only=True)
    assert status == 0, said


def test_numbers_are_found() -> None:
    report = {"a, b": {"c": 3.0, "list": [1, 9, 2]}, "rows": [{"d": 4}]}
    assert track.found_at(report, "a, b/c") == 3
    assert track.found_at(report, "a, b/list") == 2
    assert track.found_at(report, "rows/0/d over a, b/list") == 2
    with pytest.raises(KeyError):
        track.found_at(report, "a, b/d")


@pytest.mark.parametrize(
    ("less", "now", "mark"),
    [(False, 1.3, "better"), (False, 0.7, "worse"), (True, 1.3, "worse"), (True, 0.7, "better"), (True, 1.1, "")],
)
def test_a_change_beyond_the_tolerance_is_marked(less: bool, now: float, mark: str) -> None:
    line = track.row(track.Tracked("x.py", {}, 20, less), "x", "ratio", now, 1.0)
    assert line.split()[-1] == (mark or "%")
    assert f"{100 * (now - 1):+.1f} %" in line


def test_the_last_ratio_is_the_newest_that_there_is() -> None:
    records = [{"ratios": {"step": {"swav": value}}} for value in (1.0, 2.0)] + [{"ratios": {"loader": {"cifar": 3.0}}}]
    assert track.last(records, "step", "swav") == 2
    assert track.last(records, "step", "smog") is None


def test_what_fails_is_a_row_and_the_next_run_compares_with_the_last_of_this_processor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "track.json"
    elsewhere = {"date": "2026-01-01", "ratios": {"opening": {"over a bare walk": 77.0}}}
    out.write_text(json.dumps({"another processor": [elsewhere]}))
    opening = "opening.py --files 200 --classes 2 --repeats 3"
    table = {
        "opening": track.Tracked(opening, {"over a bare walk": "rows/opening/times_as_long_cpu"}, less=True),
        "status": track.Tracked("opening.py --files many", {}),
        "no ratio": track.Tracked(opening, {"x": "rows/closing"}),
    }
    monkeypatch.setattr(track, "TABLE", table)
    monkeypatch.setattr(sys, "argv", ["track.py", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        track.main()
    assert ended.value.code == 1
    found, status, no_ratio = capsys.readouterr().out.splitlines()[1:]
    assert found.split()[-1] == "-"
    assert " ".join(status.split()) == (
        "status failed: status 2: opening.py: error: argument --files: invalid int value: 'many'"
    )
    assert " ".join(no_ratio.split()) == "no ratio failed: its result has no 'closing'"
    monkeypatch.setattr(sys, "argv", ["track.py", "--only", "opening", "--out", str(out)])
    track.main()
    known = json.loads(out.read_text())
    assert known["another processor"] == [elsewhere]
    first, second = (each["ratios"]["opening"]["over a bare walk"] for each in known[track.model()])
    assert min(first, second) > 0.5
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert f"{second:9.3f} {first:9.3f} {100 * (second / first - 1):+8.1f} %" in line
