import subprocess
import sys
from pathlib import Path

import pytest

from coterie.errors import BadRun
from coterie.training.run_folder import RunFolder, read_log


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    code = f"from coterie.training.run_folder import RunFolder; RunFolder({str(tmp_path / 'run')!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "in use by another process" in other.stderr
    folder.close()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(BadRun, match="is a file"):
        RunFolder(tmp_path / "run")


def test_the_log_is_rewound_and_a_line_cut_short_left_out(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for step in range(5):
        folder.append({"step": step})
    with folder.log.open("a") as file:
        file.write('{"step": 5, "lo')
    assert [record["step"] for record in folder.records()] == [0, 1, 2, 3, 4]
    folder.truncate_log(3)
    folder.append({"step": 3})
    assert [record["step"] for record in read_log(tmp_path)] == [0, 1, 2, 3]
    folder.close()


def test_bad_images_are_listed_in_one_order(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_bad_images([("b.jpg", "truncated"), ("a.jpg", "empty")])
    assert (tmp_path / "bad_images.txt").read_text() == "a.jpg\tempty\nb.jpg\ttruncated\n"
    folder.close()
