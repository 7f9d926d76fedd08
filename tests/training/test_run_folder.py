import json
import subprocess
import sys
from pathlib import Path

import pytest

from coterie.errors import BadRun
from coterie.training.run_folder import RunFolder, read_log, read_records, write_facts


def test_one_process_at_a_time(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    code = f"from coterie.training.run_folder import RunFolder; RunFolder({str(tmp_path / 'run')!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "in use by another process" in other.stderr
    folder.close()
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_one_run_at_a_time_in_a_process(tmp_path: Path) -> None:
    """A record lock excludes other processes only, and closing a second descriptor would release it."""
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(BadRun, match="in use by this process"):
        RunFolder(tmp_path / "." / "run")
    code = f"from coterie.training.run_folder import RunFolder; RunFolder({str(tmp_path / 'run')!r})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "in use by another process" in other.stderr
    folder.close()
    RunFolder(tmp_path / "run").close()


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


def write_log(folder, *lines):
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_an_empty_folder_says_nothing(tmp_path):
    records = read_records(tmp_path)
    assert (records.log, records.evaluation, records.facts, records.remarks) == ([], {}, {}, ())


def test_what_was_kept_is_read(tmp_path):
    write_facts(tmp_path, images=7, automatic=[("batch_size", "4", "few images")], environment={"device": "cpu"})
    (tmp_path / "evaluation.json").write_text(json.dumps({"knn": {"top1": 50.0}}))
    write_log(tmp_path, '{"step": 1, "loss": 2}', '{"step": 2, "loss": NaN}')
    records = read_records(tmp_path)
    assert records.facts == {
        "images": 7, "automatic": [["batch_size", "4", "few images"]], "environment": {"device": "cpu"},
    }  # fmt: skip
    assert records.evaluation == {"knn": {"top1": 50.0}}
    assert [line["step"] for line in records.log] == [1, 2]
    assert records.remarks == ()


def test_damaged_lines_are_counted_and_the_others_read(tmp_path):
    write_log(tmp_path, '{"step": 1}', '{"step": 2, "lo', "", "[3]", '{"step": 5}', '{"loss": 1}')
    records = read_records(tmp_path)
    assert [line["step"] for line in records.log] == [1, 5]
    (remark,) = records.remarks
    assert remark == f"4 lines, the first 2, are damaged in {tmp_path / 'metrics.jsonl'} and ignored: 2 of 6 are intact"


def test_a_last_line_that_was_cut_short_is_no_damage(tmp_path):
    write_log(tmp_path, '{"step": 1}', '{"step": 2, "lo')
    assert read_records(tmp_path).remarks == ()
    assert len(read_records(tmp_path).log) == 1


def test_damaged_files_are_told_and_cost_nothing_else(tmp_path):
    write_log(tmp_path, '{"step": 1}')
    (tmp_path / "evaluation.json").write_text('{"knn": {"k20')
    (tmp_path / "run.json").write_text("[]")
    records = read_records(tmp_path)
    assert len(records.log) == 1
    assert [remark.split(" is damaged")[0] for remark in records.remarks] == [
        str(tmp_path / "evaluation.json"), str(tmp_path / "run.json"),
    ]  # fmt: skip
