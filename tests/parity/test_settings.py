"""No setting that a golden file states is ignored: with any one of them changed, the file no longer passes its test."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.parity import test_functions, test_grouping_functions
from tests.parity.checks import check, same_losses
from tests.parity.golden_files import OTHER_FOLDER, Golden, by_case, golden
from tests.parity.trajectory import run

pytestmark = pytest.mark.skipif(OTHER_FOLDER, reason="this is about the tests, which have golden files of their own")

NOTES = {
    *("case", "description", "log_domain_minus_exact", "provenance", "seed", "smallest_argmax_margin"),
    *("smallest_gap_at_the_edge_of_the_neighbours", "smallest_margin", "smallest_margin_converged"),
    *("smallest_relative_margin", "tolerance", "visits_to_empty_groups", "why"),
}
"""Where the numbers come from and how clear they are: no run depends on these."""

IN_WORDS = {
    "batch_norm_scope": [
        ("conv_bn: one pass per resolution", "conv_bn: one set of statistics"),
        ("one set", "two sets"),
    ],
    "network_layers": [
        ("stride 2", "stride 1"),
        ("eps 1e-5", "eps 1e-3"),
        ("average momentum 0.1", "average momentum 0.2"),
    ],
}
"""Settings that are stated in a text, and what to put in its place."""

FUNCTIONS: list[tuple[Callable, tuple[str, ...], str]] = [
    (test_functions.test_sinkhorn, ("codes_all",), "cases"),
    (test_functions.test_sinkhorn_where_a_plain_exponential_overflows, ("codes_all",), "overflow_cases"),
    (test_functions.test_larc, ("zero_gradient",), "cases"),
    (test_grouping_functions.test_spherical_kmeans, ("starts", "rows"), "cases"),
    (test_grouping_functions.test_group_move, ("moved", "grad_rows"), "cases"),
    (test_grouping_functions.test_sela_labels, ("labels_converged",), "cases"),
    (test_grouping_functions.test_msn_loss, ("prototypes", "anchors"), "cases"),
    (test_grouping_functions.test_simclr_with_many_crops, ("embeddings", "terms"), "cases"),
]


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 1 if value > 1 else value + 1
    if isinstance(value, float):
        return 2 * value + 1
    return [another(each) for each in value] if isinstance(value, list) else f"not {value}"


def with_one_changed(settings: dict) -> Iterator[tuple[str, dict]]:
    """The name of each setting, and all settings with another value of this one."""
    for name, value in settings.items():
        if name in NOTES:
            continue
        if name in IN_WORDS:
            text = json.dumps(value)
            for here, there in IN_WORDS[name]:
                if here in text:
                    yield f"{name}: {here}", settings | {name: json.loads(text.replace(here, there))}
        elif isinstance(value, dict):
            for inner, changed in with_one_changed(value):
                yield f"{name}.{inner}", settings | {name: changed}
        elif isinstance(value, list) and isinstance(value[0], dict):
            for place, each in enumerate(value):
                for inner, changed in with_one_changed(each):
                    yield f"{name}.{inner}", settings | {name: [*value[:place], changed, *value[place + 1 :]]}
        else:
            yield name, settings | {name: another(value)}


def ignored(test: Callable[[dict], None], all_settings: list[dict]) -> set[str]:
    """The settings without any influence on a test, which passes with each of these dictionaries as they are."""
    names, noticed = set(), set()
    for settings in all_settings:
        test(settings)
        for name, changed in with_one_changed(settings):
            names.add(name)
            if name not in noticed:
                try:
                    test(changed)
                except Exception:
                    noticed.add(name)
    assert names
    return names - noticed


def richest(files: list[Golden]) -> list[Golden]:
    """Of the files that state the same settings, the one with most layers."""
    return list(
        {frozenset(file.meta): file for file in sorted(files, key=lambda f: len(f.meta["network_layers"]))}.values()
    )


@pytest.mark.parametrize("file", by_case(richest(golden("lr", "loss"))))
def test_every_setting_of_a_trajectory_matters(file: Golden) -> None:
    def test(meta: dict) -> None:
        changed = replace(file, meta=meta)
        check(changed, run(changed, watch=[same_losses(changed)]))

    assert not ignored(test, [file.meta])


@pytest.mark.parametrize(("function", "keys", "cases"), FUNCTIONS, ids=[each[0].__name__ for each in FUNCTIONS])
def test_every_setting_of_a_function_matters(function: Callable, keys: tuple[str, ...], cases: str) -> None:
    for file in golden(*keys):

        def test(case: dict, file: Golden = file) -> None:
            with pytest.MonkeyPatch.context() as patch:
                function(
                    file, case, **{"monkeypatch": patch} if function is test_grouping_functions.test_sela_labels else {}
                )

        assert not ignored(test, file.meta[cases])


def test_every_setting_of_knn_matters() -> None:
    for file in golden("train_features", "test_features"):
        assert not ignored(lambda meta, file=file: test_functions.test_knn(replace(file, meta=meta)), [file.meta])
