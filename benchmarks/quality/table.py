"""The rows of the benchmark in tables: means over seeds, paired differences, and the curve over the budget.

No table mixes processors, images, splits, budgets or clocks.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Report = dict[str, Any]
Name = tuple[str, str]
"""Contestant and tag."""
BySeed = dict[int, Report]
METRICS = {"knn20": "kNN 20", "knn200": "kNN 200", "linear": "linear"}
UNTRAINED = ("raw-pixels", "untrained", "public-weights")
"""The rows that train nothing."""
BEFORE = "before"
"""The tag of rows of the presets as they were before a search; rows of the final recipes have no tag."""
SIMCLR = "coterie-simclr"
PAIRS = (("coterie-swav", SIMCLR), ("coterie-smog", "coterie-swav"), ("coterie-swav", "coterie-alignment"))
MOST_GMACS = 0.02
HEAD = (
    "row", "seeds", *METRICS.values(), "rank", "groups used", "epochs", "images/s", "share of budget", "commit", "remarks",
)  # fmt: skip


def command(words: list[str]) -> str:
    """What was typed, without the folder of the script."""
    return " ".join(["python", "benchmarks/quality/" + Path(words[0]).name, *words[1:]])


def read(folder: Path) -> list[Report]:
    """All rows of a folder; those of earlier versions knew CIFAR-10 only."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return [{"data": "cifar10", "commit": "-", "epochs_given": None} | each for each in found]


def tables(reports: list[Report], data: str, split: str) -> str:
    """All that is known of a set of images and a split, in Markdown, processor by processor."""
    by_processor = defaultdict(list)
    for each in reports:
        if (each["data"], each["split"]) == (data, split):
            by_processor[each["processor"]].append(each)
    parts = [f"There are no rows of {data}, {split} split.\n"] if not by_processor else []
    for processor, rows in by_processor.items():
        free = [each for each in rows if each["contestant"] in UNTRAINED]
        budgets = defaultdict(list)
        for each in rows:
            if each["contestant"] not in UNTRAINED:
                budgets[each["minutes"], each["cores"], each["clock"]].append(each)
        for (minutes, cores, clock), trained in sorted(budgets.items()) or [((0, 1, "cpu"), [])]:
            parts.append(f"### {data}, {split}: {minutes:g} minutes of {cores} core, {clock} time; {processor}\n")
            named = by_name([*trained, *free])
            parts += [main_table(named), differences(named)]
        parts.append(curve(budgets))
    return "\n".join(part for part in parts if part)


def by_name(reports: Iterable[Report]) -> dict[Name, BySeed]:
    """The rows of each contestant by seed, the best first.

    Raises:
        ValueError: two rows claim to be the same.
    """
    named: dict[Name, BySeed] = defaultdict(dict)
    for each in reports:
        seeds = named[each["contestant"], each["tag"]]
        if each["seed"] in seeds and each["contestant"] not in UNTRAINED:
            raise ValueError(f"two rows of {each['contestant']} {each['tag']} with seed {each['seed']}: remove one")
        seeds[each["seed"]] = each
    return dict(sorted(named.items(), key=lambda item: -statistics.mean(values(item[1], "knn20"))))


def main_table(named: Mapping[Name, BySeed]) -> str:
    """One line per contestant."""
    gap = all((each, "") in named for each in ("untrained", "public-weights"))
    lines = []
    for name, seeds in named.items():
        rows = list(seeds.values())
        trained = [each["training"] for each in rows if "training" in each]
        figures = [each["figures"] for each in rows]
        cells = [
            " ".join(filter(None, name)),
            " ".join(map(str, seeds)),
            *(spread(values(seeds, metric)) for metric in METRICS),
            f"{statistics.mean(each['effective_rank'] for each in figures):.1f}",
            number(each.get("groups_used") for each in figures),
            number(each["epochs"] for each in trained),
            number(images_per_second(each) for each in rows if "training" in each),
            " ".join(f"{each['share_of_budget']:.2f}" for each in trained) or "-",
            " ".join(dict.fromkeys(str(each["commit"]) for each in rows)),
            remarks(rows),
        ]
        lines.append(cells + ([share_of_gap(named, seeds, each) for each in ("knn20", "linear")] if gap else []))
    return markdown((*HEAD, *(("gap closed, kNN 20", "gap closed, linear") if gap else ())), lines)


def remarks(rows: Iterable[Report]) -> str:
    """What a reader should know of these rows."""
    found = []
    for row in rows:
        training = row.get("training", {})
        failed = training.get("failed", "")
        outside = training and not failed and not row["epochs_given"] and not training["within_budget"]
        large = row["data"] == "cifar10" and row.get("network", {}).get("gmacs", 0) > MOST_GMACS
        found += [failed, "outside the budget" if outside else ""]
        found += ["epochs given" if row["epochs_given"] else "", "a larger network" if large and training else ""]
    return "; ".join(dict.fromkeys(filter(None, found)))


def differences(named: Mapping[Name, BySeed]) -> str:
    """Differences of rows with the same seed: the aims' pairs, and what was gained over the rows before a search."""
    lines = []
    for (contestant, tag), seeds in named.items():
        for first, second in PAIRS:
            other = best(named, first, seeds) if second == SIMCLR else (second, tag)
            if contestant == first and other in named and (not tag or len(seeds) > 1):
                lines.append(difference(named, (contestant, tag), other))
        if not tag and (contestant, BEFORE) in named:
            lines.append(difference(named, (contestant, tag), (contestant, BEFORE)))
    return markdown(("paired difference", "seeds", *METRICS.values()), filter(None, lines))


def best(named: Mapping[Name, BySeed], contestant: str, seeds: BySeed) -> Name | None:
    """The best SimCLR that there is, whatever its tag, on the seeds that it shares; those with most seeds come first."""
    shared = {name: sorted(seeds.keys() & other.keys()) for name, other in named.items() if name[0].startswith(SIMCLR)}
    most = max(map(len, shared.values()), default=0)
    means = {
        name: statistics.mean(named[name][seed]["figures"]["knn20"] for seed in both)
        for name, both in shared.items()
        if both and len(both) == most
    }
    return max(means, key=lambda name: means[name], default=None)


def difference(named: Mapping[Name, BySeed], first: Name, second: Name) -> list[str]:
    """A line: the mean over the seeds that both have, and the standard deviation of the differences."""
    seeds = sorted(named[first].keys() & named[second].keys())
    if not seeds:
        return []
    cells = []
    for metric in METRICS:
        pairs = [[named[name][seed]["figures"].get(metric) for name in (first, second)] for seed in seeds]
        cells.append(spread([a - b for a, b in pairs if a is not None and b is not None], signed=True))
    return [" - ".join(" ".join(filter(None, each)) for each in (first, second)), " ".join(map(str, seeds)), *cells]


def curve(budgets: Mapping[tuple[float, int, str], list[Report]]) -> str:
    """kNN 20 over minutes, for the contestants with more than one budget."""
    parts = []
    for cores, clock in sorted({key[1:] for key in budgets}):
        columns = {key[0]: by_name(rows) for key, rows in sorted(budgets.items()) if key[1:] == (cores, clock)}
        names = dict.fromkeys(name for named in columns.values() for name in named)
        lines = [
            [
                " ".join(filter(None, name)),
                *(spread(values(named.get(name, {}), "knn20")) for named in columns.values()),
            ]
            for name in names
            if sum(name in named for named in columns.values()) > 1
        ]
        parts.append(markdown((f"kNN 20, {cores} core, {clock} time", *(f"{each:g} min" for each in columns)), lines))
    return "\n".join(filter(None, parts))


def share_of_gap(named: Mapping[Name, BySeed], seeds: BySeed, metric: str) -> str:
    """How much of the way from the untrained network to the public weights, in percent."""
    low, high = (statistics.mean(values(named[each, ""], metric)) for each in ("untrained", "public-weights"))
    return f"{100 * (statistics.mean(values(seeds, metric)) - low) / (high - low):.0f} %"


def values(seeds: BySeed, metric: str) -> list[float]:
    """A figure of each row that has it."""
    return [each["figures"][metric] for each in seeds.values() if metric in each["figures"]]


def images_per_second(row: Report) -> float:
    """By the row's own clock; rows of earlier versions say it by the wall's."""
    training = row["training"]
    spent = training["seconds_wall"] if row["clock"] == "wall" else training["seconds_cpu"] / row["cores"]
    return training["images_seen"] / spent if "images_seen" in training else training["images_per_second"]


def spread(found: list[float], signed: bool = False) -> str:
    """The mean, and the standard deviation if there are several."""
    if not found:
        return "-"
    mean = f"{statistics.mean(found):{'+' if signed else ''}.1f}"
    return f"{mean} ± {statistics.stdev(found):.1f}" if len(found) > 1 else mean


def number(found: Iterable[float | None]) -> str:
    """The mean of what is known, as a whole number."""
    known = [each for each in found if each is not None]
    return f"{statistics.mean(known):.0f}" if known else "-"


def markdown(head: tuple[str, ...], lines: Iterable[list[str]]) -> str:
    """A table, or nothing if it has no line."""
    rows = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}", *rows, ""]) if rows else ""
