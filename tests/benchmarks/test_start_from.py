"""Going on from weights, at toy size: a row before and one after, judged alike, and the table of both."""

import json
from pathlib import Path

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run


def test_before_and_after(tmp_path: Path) -> None:
    command = (str(BENCHMARKS / "start_from.py"), "--out", str(tmp_path / "rows"))
    sizes = "--toy --data cells --recipe own --seed 0 --epochs 1 --size 64".split()
    status, said = run((*command, *sizes), tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "rows").glob("*.json")}
    assert found.keys() == {"cells_before", "cells_before-bilinear", "cells_swav_own_seed0"}
    for row in found.values():
        assert row["asked"] == 12
        assert row["figures"].keys() == {"knn20", "linear"}
        assert row["processor"]
    assert found["cells_swav_own_seed0"]["config"]["backbone"]["frozen_statistics"]
    status, said = run((*command, "--table"), tmp_path / "table", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    assert "| cells_swav_own | 1 |" in said
