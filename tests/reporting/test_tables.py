from coterie.reporting.tables import probe_tables


def test_each_probe_has_a_table() -> None:
    knn = {f"k{k}_t{t}_top{top}": k + top + float(t) for k in (20, 1) for t in ("0.1", "0.07") for top in (1, 5)}
    tables = probe_tables(
        {
            "knn": knn,
            "linear": {"top1": 61.5, "mean_per_class": 60},
            "transfer": {"birds": {"top1": 3.5}, "cars": {"map": 2}},
        }
    )
    assert [table.title for table in tables] == ["kNN, %", "Linear", "Transfer"]
    assert tables[0].header == ("k", "temperature", "top 1", "top 5")
    assert tables[0].rows[:2] == ((1, "0.07", 2.07, 6.07), (1, "0.1", 2.1, 6.1))
    assert tables[1].rows == (("top 1", 61.5), ("mean per class", 60))
    assert tables[2].header == ("", "top 1", "mAP")
    assert tables[2].rows == (("birds", 3.5, None), ("cars", None, 2))


def test_a_knn_figure_that_is_missing_leaves_a_gap() -> None:
    (table,) = probe_tables({"knn": {"k1_t0.07_top1": 3.0, "k20_t0.07_top5": 4.0}})
    assert table.rows == ((1, "0.07", 3.0, None), (20, "0.07", None, 4.0))


def test_what_is_not_a_result_is_left_out() -> None:
    assert probe_tables({"knn": {}, "note": "hand-written", "linear": {"top1": "high"}, "list": [1]}) == ()
