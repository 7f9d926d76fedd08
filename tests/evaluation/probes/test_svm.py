import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import LinearSVC
from torch.nn import functional as F

from coterie.errors import UserError
from coterie.evaluation.probes.svm import PUBLISHED_COSTS, average_precisions, low_shot, svm
from coterie.logger import NullLogger


class Recorder(NullLogger):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


def images(count: int, seed: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that are sums of the directions of the classes they carry (none, one or several), and noise."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.rand(count, classes, generator=generator) < 0.3
    rows = torch.randn(count, 12, generator=generator) + matrix.float() @ torch.eye(classes, 12) * 2
    return rows * (1 + 5 * torch.rand(count, 1, generator=generator)), matrix


def test_agrees_with_a_grid_search_of_scikit_learn() -> None:
    (train, train_matrix), (test, test_matrix) = images(150, 0), images(90, 1)
    found = svm(train, train_matrix, test, test_matrix, costs=(0.001, 1.0, 50.0), seed=5)
    train_rows, test_rows = (F.normalize(rows.double(), dim=1).numpy() for rows in (train, test))
    precisions, chosen = [], set()
    for number in range(4):
        search = GridSearchCV(
            LinearSVC(class_weight={1: 2, -1: 1}, dual="auto", max_iter=2000, random_state=5),
            {"C": [0.001, 1.0, 50.0]},
            scoring="average_precision",
            cv=StratifiedKFold(3, shuffle=True, random_state=5),
        ).fit(train_rows, np.where(train_matrix[:, number], 1, -1))
        chosen.add(search.best_params_["C"])
        precisions.append(average_precision_score(test_matrix[:, number], search.decision_function(test_rows)))
    assert found["map"] == pytest.approx(100 * np.mean(precisions), abs=1e-9)
    assert len(chosen) > 1  # the choice matters
    assert (found["classes"], found["classes_left_out"]) == (4, 0)
    assert 40 < found["map"] < found["map_interpolated"] < 100
    assert found == svm(train, train_matrix, test, test_matrix, costs=(0.001, 1.0, 50.0), seed=5)


def test_positives_weigh_two(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, fit = [], LinearSVC.fit

    def watched(machine: LinearSVC, rows: np.ndarray, truth: np.ndarray) -> LinearSVC:
        seen.append((machine.get_params(), rows))
        return fit(machine, rows, truth)

    monkeypatch.setattr(LinearSVC, "fit", watched)
    (train, matrix), test = images(60, 2), images(30, 3)
    svm(train, matrix, *test, costs=(1.0, 2.0))
    assert len(seen) == 4 * (2 * 3 + 1)
    for settings, rows in seen:
        assert settings["class_weight"] == {True: 2, False: 1}
        assert (settings["loss"], settings["penalty"], settings["intercept_scaling"]) == ("squared_hinge", "l2", 1)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1)


def test_three_average_precisions_by_hand() -> None:
    truth = np.array([True, False, True, False, False, True, False, True])
    scores = np.array([8.0, 7, 6, 5, 4, 3, 2, 1])
    precision = {0.25: 1, 0.5: 2 / 3, 0.75: 3 / 6, 1: 4 / 8}  # at the places of the right answers
    average, eleven, interpolated = average_precisions(truth, scores)
    assert average == pytest.approx(sum(precision.values()) / 4)
    assert interpolated == pytest.approx(sum(precision.values()) / 4)  # precision falls all the way
    assert eleven == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 0.5 + 3 * 0.5) / 11)  # recall 0-.2, .3-.5, .6-.7, .8-1
    truth = np.array([False, False, True, True, False, True])
    average, eleven, interpolated = average_precisions(truth, scores[:6])
    assert average == pytest.approx((1 / 3 + 2 / 4 + 3 / 6) / 3)
    assert (eleven, interpolated) == pytest.approx((0.5, 0.5))  # the best precision at any recall


def test_a_recall_of_exactly_three_tenths_counts_for_three_tenths() -> None:
    truth = np.array([True] * 3 + [False] * 90 + [True] * 7)
    _, eleven, _ = average_precisions(truth, -np.arange(100.0))
    assert eleven == pytest.approx((4 * 1 + 7 * 10 / 100) / 11)


def test_classes_that_cannot_be_tested_are_left_out_and_counted() -> None:
    (train, train_matrix), (test, test_matrix) = images(80, 4), images(50, 5)
    alone = svm(train, train_matrix, test, test_matrix)
    none, every = torch.zeros(80, 1, dtype=torch.bool), torch.ones(80, 1, dtype=torch.bool)
    some = torch.arange(80)[:, None] % 2 == 0
    more = torch.cat([train_matrix, none, some, every], dim=1)
    test_more = torch.cat([test_matrix, some[:50], none[:50], some[:50]], dim=1)
    assert svm(train, more, test, test_more) == {**alone, "classes_left_out": 3}
    with pytest.raises(UserError, match="no class has images with it") as caught:
        svm(train, more[:, 4:], test, test_more[:, 4:])
    assert "\n" not in str(caught.value)


def test_a_class_with_one_image_takes_the_cost_in_the_middle() -> None:
    (rows, _), (test, test_matrix) = images(40, 6), images(60, 7)
    matrix = torch.zeros(40, 4, dtype=torch.bool)
    matrix[0, 0] = matrix[3, 1] = matrix[7, 1] = True
    assert svm(rows, matrix, test, test_matrix)["classes"] == 2
    train_rows, test_rows = (F.normalize(each.double(), dim=1).numpy() for each in (rows, test))
    expected = {}
    for cost in (0.001, 1000.0):
        machine = LinearSVC(C=cost, class_weight={True: 2, False: 1}, random_state=0, dual="auto", max_iter=2000)
        scores = machine.fit(train_rows, matrix[:, 0]).decision_function(test_rows)
        expected[cost] = 100 * average_precision_score(test_matrix[:, 0], scores)
    assert abs(expected[0.001] - expected[1000.0]) > 1
    for costs, chosen in (((1000.0, 0.001, 1000.0), 0.001), ((0.001, 1000.0, 0.001), 1000.0)):
        alone = svm(rows, matrix[:, :1], test, test_matrix[:, :1], costs=costs)
        assert alone["map"] == pytest.approx(expected[chosen])


def test_low_shot_takes_k_positives_and_as_many_others_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, fit = [], LinearSVC.fit

    def watched(machine: LinearSVC, rows: np.ndarray, truth: np.ndarray) -> LinearSVC:
        seen.append((machine.C, rows, truth))
        return fit(machine, rows, truth)

    monkeypatch.setattr(LinearSVC, "fit", watched)
    (train, train_matrix), (test, test_matrix) = images(200, 7), images(60, 8)
    found = low_shot(train, train_matrix, test, test_matrix, shots=(1, 16), samples=3, cost=2.0)
    assert [(int(truth.sum()), len(truth)) for _, _, truth in seen] == [(1, 4)] * 12 + [(16, 64)] * 12
    assert all(len(np.unique(rows, axis=0)) == len(rows) for _, rows, _ in seen)  # each image once
    assert len({rows.tobytes() for _, rows, _ in seen}) == 24  # and no sample twice
    precisions = np.zeros((2, 4, 3))
    test_rows = F.normalize(test.double(), dim=1).numpy()
    for place, (cost, rows, truth) in zip(np.ndindex(2, 4, 3), list(seen), strict=True):
        machine = LinearSVC(C=cost, class_weight={True: 2, False: 1}, random_state=0, dual="auto", max_iter=2000)
        scores = fit(machine, rows, truth).decision_function(test_rows)
        precisions[place] = average_precision_score(test_matrix[:, place[1]], scores)
    means = 100 * precisions.mean(axis=1)
    assert found == pytest.approx(
        {
            "k1_map": means[0].mean(),
            "k1_map_std": means[0].std(),
            "k1_classes": 4,
            "k16_map": means[1].mean(),
            "k16_map_std": means[1].std(),
            "k16_classes": 4,
        }
    )
    assert {cost for cost, *_ in seen} == {2.0}
    assert found["k16_map"] > found["k1_map"] + 5
    assert found == low_shot(train, train_matrix, test, test_matrix, shots=(1, 16), samples=3, cost=2.0)
    other = low_shot(train, train_matrix, test, test_matrix, shots=(1,), samples=3, cost=2.0, seed=1)
    assert other["k1_map"] != found["k1_map"]


def test_k_above_what_a_class_has() -> None:
    (train, train_matrix), (test, test_matrix) = images(60, 9), images(40, 10)
    train_matrix[:, 0] = torch.arange(60) < 3
    logger = Recorder()
    found = low_shot(train, train_matrix, test, test_matrix, shots=(2, 4, 59), samples=2, logger=logger)
    assert [found[f"k{k}_classes"] for k in (2, 4)] == [4, 3]
    assert not any(name.startswith("k59") for name in found)
    assert logger.lines == [
        "k = 4: 1 of 4 classes have fewer images and are left out",
        "k = 59: 4 of 4 classes have fewer images and are left out",
    ]
    rest = low_shot(train, train_matrix[:, 1:], test, test_matrix[:, 1:], shots=(4,), samples=2)
    assert rest["k4_classes"] == 3


@pytest.mark.parametrize("probe", [svm, low_shot])
def test_nan_is_refused(probe) -> None:
    rows, matrix = images(30, 11)
    broken = rows.clone()
    broken[3, 2] = torch.nan
    with pytest.raises(UserError, match="NaN or infinity in 1 of 30 embeddings of TEST"):
        probe(rows, matrix, broken, matrix)


def test_the_published_costs() -> None:
    assert len(PUBLISHED_COSTS) == 26
    assert (min(PUBLISHED_COSTS), max(PUBLISHED_COSTS)) == (1e-7, 100)
    assert {2.0**-4, 2.0**-19, 1.0} <= set(PUBLISHED_COSTS)
