"""What evaluation.json keeps, in its present form and in that of earlier versions."""

import json
from pathlib import Path

import pytest

from coterie.evaluation.evaluation_file import evaluations, note_evaluation
from coterie.evaluation.results import ProbeResults
from coterie.logger import NullLogger


class Recorder(NullLogger):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)


def note(folder: Path, value: float, probe: str = "finetune", **asked: object) -> None:
    note_evaluation(folder, asked, ProbeResults({probe: {"top1": value}}), NullLogger())


def kept(folder: Path) -> dict:
    return json.loads((folder / "evaluation.json").read_text())


def test_ten_percent_does_not_overwrite_one_percent(tmp_path: Path) -> None:
    note(tmp_path, 40.0, label_fraction="1%", train=("a",))
    note(tmp_path, 60.0, label_fraction="10%", train=("a",))
    found = evaluations(kept(tmp_path))
    assert [(each.asked["label_fraction"], each.figures["finetune"]["top1"]) for each in found] == [
        ("1%", 40),
        ("10%", 60),
    ]
    assert all(each.date.startswith("20") for each in found)
    assert kept(tmp_path)["finetune"] == {"top1": 60.0}


def test_the_same_question_replaces_its_own_answer(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        note(tmp_path, value, train=("a",), seed=0)
    note(tmp_path, 3.0, train=("b",), seed=0)
    assert [each.figures["finetune"]["top1"] for each in evaluations(kept(tmp_path))] == [2.0, 3.0]


def test_baselines_are_kept(tmp_path: Path) -> None:
    found = ProbeResults({"linear": {"top1": 9.0}}, {"raw pixels": {"linear": {"top1": 3.0}}})
    note_evaluation(tmp_path, {"seed": 0}, found, NullLogger())
    (entry,) = evaluations(kept(tmp_path))
    assert entry.baselines == {"raw pixels": {"linear": {"top1": 3.0}}}
    assert entry.set is None


def test_a_transfer_is_an_entry_per_set(tmp_path: Path) -> None:
    note(tmp_path, 5.0, "linear", set="voc", train=("a",))
    note(tmp_path, 6.0, "linear_images", set="voc", train=("a",), seed=1)
    note(tmp_path, 7.0, "linear", set="birds", train=("b",))
    assert [each.set for each in evaluations(kept(tmp_path))] == ["voc", "voc", "birds"]
    assert kept(tmp_path)["transfer"] == {
        "voc": {"linear_top1": 5, "linear_images_top1": 6},
        "birds": {"linear_top1": 7},
    }


def test_files_of_earlier_versions_are_read_and_kept(tmp_path: Path) -> None:
    earlier = {
        "linear": {"top1": 61.5},
        "transfer": {"voc": {"linear_published_top1": 50.0, "knn_k20_t0.07_top1": 40.0}},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(earlier))
    note(tmp_path, 2.0, seed=0)
    first, second, third = evaluations(kept(tmp_path))
    assert (first.asked, first.figures) == ({}, {"linear": {"top1": 61.5}})
    assert second.figures == {"linear_published": {"top1": 50.0}, "knn": {"k20_t0.07_top1": 40.0}}
    assert third.figures == {"finetune": {"top1": 2.0}}
    assert kept(tmp_path).items() >= earlier.items()


@pytest.mark.parametrize("text", ['{"knn": {"k20', "[1, 2]"])
def test_a_damaged_file_is_replaced_with_a_word(tmp_path: Path, text: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    logger = Recorder()
    note_evaluation(tmp_path, {"seed": 0}, ProbeResults({"linear": {"top1": 1.0}}), logger)
    assert len(logger.warnings) == 1
    assert len(evaluations(kept(tmp_path))) == 1


@pytest.mark.parametrize(
    "content", [{"entries": ["x", {"figures": 3, "asked": [], "baselines": {"raw": 4}}]}, {"entries": 3, "knn": 5}, {}]
)
def test_whatever_a_file_holds_it_is_read(content: dict) -> None:
    assert all(not each.figures for each in evaluations(content))
