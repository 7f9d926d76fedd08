import json

from coterie.training.records import read_records, write_facts


def write_log(folder, *lines):
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_an_empty_folder_says_nothing(tmp_path):
    found = read_records(tmp_path)
    assert (found.log, found.evaluation, found.facts, found.remarks) == ([], {}, {}, ())


def test_what_was_kept_is_read(tmp_path):
    write_facts(tmp_path, images=7, automatic=[("batch_size", "4", "few images")], environment={"device": "cpu"})
    (tmp_path / "evaluation.json").write_text(json.dumps({"knn": {"top1": 50.0}}))
    write_log(tmp_path, '{"step": 1, "loss": 2}', '{"step": 2, "loss": NaN}')
    found = read_records(tmp_path)
    assert found.facts == {
        "images": 7, "automatic": [["batch_size", "4", "few images"]], "environment": {"device": "cpu"},
    }  # fmt: skip
    assert found.evaluation == {"knn": {"top1": 50.0}}
    assert [line["step"] for line in found.log] == [1, 2]
    assert found.remarks == ()


def test_damaged_lines_are_counted_and_the_others_read(tmp_path):
    write_log(tmp_path, '{"step": 1}', '{"step": 2, "lo', "", "[3]", '{"step": 5}', '{"loss": 1}')
    found = read_records(tmp_path)
    assert [line["step"] for line in found.log] == [1, 5]
    (remark,) = found.remarks
    assert remark == f"4 lines, the first 2, are damaged in {tmp_path / 'metrics.jsonl'} and left out: 2 of 6 are read"


def test_a_last_line_that_was_cut_short_is_no_damage(tmp_path):
    write_log(tmp_path, '{"step": 1}', '{"step": 2, "lo')
    assert read_records(tmp_path).remarks == ()
    assert len(read_records(tmp_path).log) == 1


def test_damaged_files_are_told_and_cost_nothing_else(tmp_path):
    write_log(tmp_path, '{"step": 1}')
    (tmp_path / "evaluation.json").write_text('{"knn": {"k20')
    (tmp_path / "run.json").write_text("[]")
    found = read_records(tmp_path)
    assert len(found.log) == 1
    assert [remark.split(" is damaged")[0] for remark in found.remarks] == [
        str(tmp_path / "evaluation.json"), str(tmp_path / "run.json"),
    ]  # fmt: skip
