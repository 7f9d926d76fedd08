"""Dictionaries that print as a headline and a table."""

import json

from coterie.evaluation.results import ProbeResults, TransferResults, format_metric


def figures(knn: float, linear: float) -> dict[str, dict[str, float]]:
    return {"knn": {"k20_t0.07_top1": knn, "k1_t0.07_top1": 1.0}, "linear": {"top1": linear, "penalty": 1000.0}}


BASELINES = {"raw pixels": figures(49.44, 42.8), "untrained network": figures(78.33, 85.6), "other": figures(99, 98)}


def test_a_headline_and_a_row_for_each_model() -> None:
    results = ProbeResults(figures(98.61, 99.44), BASELINES)
    assert results == figures(98.61, 99.44)
    assert json.loads(json.dumps(results)) == results
    assert results["knn"]["k20_t0.07_top1"] == 98.61
    assert results.baselines["other"]["linear"]["top1"] == 98
    assert str(results).splitlines() == [
        "this model: 98.6 % by 20-NN, 99.4 % by a linear probe; by 20-NN +49.2 over raw pixels, +20.3 over the untrained "
        "network, 0.4 below other",
        "",
        "top-1, %            kNN  linear",
        "raw pixels         49.4    42.8",
        "untrained network  78.3    85.6",
        "other              99.0    98.0",
        "this model         98.6    99.4",
    ]
    assert results._repr_html_().count("<tr>") == 5


def test_details_are_every_metric() -> None:
    results = ProbeResults(figures(98.61, 99.44), BASELINES)
    results.details = True
    assert str(results).splitlines()[8:] == [
        "knn     k20_t0.07_top1  98.6",
        "knn     k1_t0.07_top1    1.0",
        "linear  top1            99.4",
        "linear  penalty         1000",
    ]


def test_probes_without_baselines_have_a_line_per_metric() -> None:
    results = ProbeResults(
        {**figures(98.61, 99.44), "clusters": {"kmeans_nmi": 0.61234, "kmeans_purity": 70}}, BASELINES
    )
    assert str(results).splitlines()[-2:] == ["clusters  kmeans_nmi     0.6123", "clusters  kmeans_purity    70.0"]
    alone = ProbeResults({"clusters": {"kmeans_purity": 70}})
    assert str(alone) == "clusters  kmeans_purity  70.0"


def test_sets_are_blocks_and_their_mean_is_a_sentence() -> None:
    results = TransferResults()
    results.add("voc", ProbeResults(figures(50, 60), {"raw pixels": figures(20, 30)}))
    results.add("places", ProbeResults(figures(70, 80), {"raw pixels": figures(30, 10)}))
    assert results["voc"]["linear_top1"] == 60
    assert results.baselines["places"]["raw pixels"]["knn_k20_t0.07_top1"] == 30
    assert str(results).splitlines() == [
        "mean of 2 sets: this model: 60.0 % by 20-NN, 70.0 % by a linear probe; by 20-NN +35.0 over raw pixels",
        "",
        "top-1, %       kNN  linear",
        "voc",
        "  raw pixels  20.0    30.0",
        "  this model  50.0    60.0",
        "places",
        "  raw pixels  30.0    10.0",
        "  this model  70.0    80.0",
    ]


def test_sets_without_baselines_are_rows() -> None:
    results = TransferResults()
    results.add("voc", ProbeResults({"svm": {"map": 81.26}, "low_shot": {"k1_map": 40.04}}))
    assert str(results).splitlines() == ["top-1, %  SVM mAP", "voc          81.3", "", "voc  low_shot  k1_map  40.0"]


def test_a_table_of_transfers_stays_within_100_columns() -> None:
    results, name = TransferResults(), "a/very/long/path/to/some/other/model/of/which/the/end/tells/most.safetensors"
    everything = {**figures(50, 60)} | {
        name: {"top1": 50.0} for name in ("linear_published", "linear_images", "finetune")
    }
    everything |= {"svm": {"map": 3.0}, "retrieval": {"map": 3.0}, "clusters": {"kmeans_hungarian_accuracy": 3.0}}
    results.add("set", ProbeResults(everything, {name: figures(20, 30)}))
    lines = str(results).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("tensors  " in line for line in lines)


def test_percent_has_one_decimal() -> None:
    written = {name: format_metric(name, 12.3456) for name in ("top1", "map", "penalty", "kmeans_nmi", "learning_rate")}
    assert written == {
        "top1": "12.3", "map": "12.3", "penalty": "12.35", "kmeans_nmi": "12.35", "learning_rate": "12.35",
    }  # fmt: skip
