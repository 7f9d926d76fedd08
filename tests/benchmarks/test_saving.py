"""What saving and resuming cost, at toy size."""

import json
from pathlib import Path

from tests.benchmarks.conftest import BENCHMARKS
from tests.benchmarks.forked import run

ROWS, SLOTS, WIDTH, HEADS, FLOAT = 4000, 2, 128, 3, 4
MIB = 2**20


def test_what_saving_and_resuming_cost(tmp_path: Path) -> None:
    sizes = f"--toy --rows {ROWS} --saves 2 --resumes 1 --device cpu --folder {tmp_path}".split()
    command = (str(BENCHMARKS / "saving.py"), *sizes, "--out", str(tmp_path / "out.json"))
    status, said = run(command, tmp_path / "log", {"OMP_NUM_THREADS": "1"})
    assert status == 0, said
    report = json.loads((tmp_path / "out.json").read_text())
    saving, resuming = report["saving"], report["resuming"][0]
    memory = ROWS * (SLOTS * WIDTH * FLOAT + 8)  # rows, and the numbers of their images
    assert saving["state_mib"] > (memory + ROWS * HEADS * 4) / MIB
    assert saving["checkpoint_mib"] >= saving["state_mib"]
    for name in ("a_step_waits", "the_thread_writes", "plain_write_and_flush", "of_it_checksum"):
        assert len(saving[name]["each"]) == 2
        assert min(saving[name]["each"]) > 0
    assert resuming["of_it_checksum"] + resuming["of_it_reading"] < resuming["resumed"]
    assert not list(tmp_path.glob("coterie-saving-*")), "what was written for the trial is left"
