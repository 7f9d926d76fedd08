"""How well each figure without labels follows kNN accuracy: rank correlations over the runs of ``run.py``.

    python benchmarks/labelfree/correlate.py

Prints markdown and writes ``results/labelfree/correlations.json``. For each figure Spearman's rank correlation with kNN
accuracy

* within each run, over its looks (median, least and greatest over the runs), with and without the untrained network;
* across presets: the last looks of the runs without a tag;
* across runs: the last looks of all runs, those with a tag (made worse on purpose) among them;
* pooled: all looks of all runs but the untrained networks.

A second table says which snapshot ``select_snapshot`` (``coterie.evaluation.model_selection``) would have taken: its kNN
accuracy beside the best and the last.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from scipy.stats import spearmanr

from coterie.evaluation.model_selection import RANKED, select_snapshot

RESULTS = Path(__file__).parent.parent / "results" / "labelfree"
FAMILIES = ("features", "unit", "embeddings")
OF_GROUPS = ("agreement", "agreement_above_chance", "perplexity", "perplexity_share")

Run = tuple[dict[str, Any], list[dict[str, Any]]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    results = parser.parse_args().results
    runs = {path.stem: read(path) for path in sorted(results.glob("*.jsonl"))}
    if not runs:
        sys.exit(f"no runs in {results}: make some with run.py")
    found = {name: correlations(name, runs) for name in names(runs)}
    choices = {f"by {family}": chosen(runs, family) for family in FAMILIES}
    report = {"ranked": RANKED, "runs": {name: run[0] for name, run in runs.items()}}
    report |= {"correlations": found, "selection": choices}
    (results / "correlations.json").write_text(json.dumps(report, indent=2) + "\n")
    sys.stdout.write(correlation_table(found, len(runs)) + "\n" + selection_table(choices))


def read(path: Path) -> Run:
    about, *looks = map(json.loads, path.read_text().splitlines())
    return about, [look for look in looks if "knn" in look]


def names(runs: dict[str, Run]) -> list[str]:
    """``family figure``, those of groups (which have no family) once; and the loss."""
    found = {
        figure if figure in OF_GROUPS else f"{family} {figure}"
        for _, looks in runs.values()
        for family in FAMILIES
        for figure in looks[-1][family]
    }
    near = {f"{name} near 1" for name in found if name.endswith("alpha_req")}
    return [*sorted(found | near), "loss"]


def value(look: dict[str, Any], name: str) -> float | None:
    """A figure of a look; ``... near 1`` is minus its distance from 1."""
    if name == "loss":
        return look.get("loss")
    if name.endswith(" near 1"):
        own = value(look, name.removesuffix(" near 1"))
        return None if own is None else -abs(own - 1)
    family, _, figure = name.rpartition(" ")
    return look[family or "features"].get(figure)


def accuracy(look: dict[str, Any]) -> float:
    return look["knn"]["k20_t0.07_top1"]


def correlation(looks: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Spearman's, and of how many; None where there are fewer than 4 or one of the two does not vary."""
    pairs = [(value(look, name), accuracy(look)) for look in looks if value(look, name) is not None]
    if len(pairs) < 4 or any(len(set(each)) < 2 for each in zip(*pairs, strict=True)):
        return {"rho": None, "looks": len(pairs)}
    return {"rho": round(float(spearmanr(*zip(*pairs, strict=True)).statistic), 3), "looks": len(pairs)}


def correlations(name: str, runs: dict[str, Run]) -> dict[str, Any]:
    trained = {run: [look for look in looks if look["step"]] for run, (_, looks) in runs.items()}
    within = {run: correlation(looks, name)["rho"] for run, looks in trained.items()}
    result: dict[str, Any] = {
        "within": within,
        "within_and_untrained": {run: correlation(looks, name)["rho"] for run, (_, looks) in runs.items()},
    }
    if name != "loss":  # the losses of two methods cannot be compared
        result["across_presets"] = correlation([trained[run][-1] for run in runs if not runs[run][0]["tag"]], name)
        result["across_runs"] = correlation([looks[-1] for looks in trained.values()], name)
        result["pooled"] = correlation([look for looks in trained.values() for look in looks], name)
    return result


def chosen(runs: dict[str, Run], family: str) -> dict[str, Any]:
    """For each run kNN accuracy of the look that ``select_snapshot`` takes, of the best and of the last."""
    result = {}
    for name, (_, looks) in runs.items():
        trained = [look for look in looks if look["step"]]
        lines = [look | {"label_free": look[family], "snapshot": str(look["step"])} for look in trained]
        taken = next(look for look in trained if str(look["step"]) == select_snapshot(lines).snapshot)
        best = max(map(accuracy, trained))
        result[name] = {"taken": accuracy(taken), "step": taken["step"], "best": best, "last": accuracy(trained[-1])}
    return result


def correlation_table(found: dict[str, Any], runs: int) -> str:
    columns = ("within_and_untrained", "across_presets", "across_runs", "pooled")
    head = ("figure", f"within {runs} runs: median (least, greatest)", "with the untrained network", *columns[1:])
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name in sorted(found, key=lambda each: -(middle(found[each]["within"]) or 0)):
        own = found[name]
        rhos = [rho for rho in own["within"].values() if rho is not None]
        within = f"{said(middle(own['within']))} ({said(min(rhos))}, {said(max(rhos))})" if rhos else "-"
        across = [said(own.get(each, {}).get("rho")) for each in columns[1:]]
        lines.append(f"| {' | '.join((name, within, said(middle(own[columns[0]])), *across))} |")
    return "\n".join(lines) + "\n"


def selection_table(choices: dict[str, Any]) -> str:
    head = ("run", "best", "last", *choices)
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, first in next(iter(choices.values())).items():
        taken = [f"{choices[family][name]['taken']:.1f} (step {choices[family][name]['step']})" for family in choices]
        best_and_last = [f"{first[each]:.1f}" for each in ("best", "last")]
        lines.append(f"| {' | '.join((name, *best_and_last, *taken))} |")
    return "\n".join(lines) + "\n"


def middle(rhos: dict[str, float | None]) -> float | None:
    known = [rho for rho in rhos.values() if rho is not None]
    return median(known) if known else None


def said(rho: float | None) -> str:
    return "-" if rho is None else f"{rho:+.2f}"


if __name__ == "__main__":
    main()
