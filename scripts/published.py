"""Write the decision table of docs/methods.md: paper, release and ours, for every value of every published preset.

``ours`` comes from the presets, the rest from docs/published.toml, which was written from papers and released scripts. Run it
after a change of either; a test fails if the page is older.
"""

import json
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from coterie.config.facts import Facts
from coterie.config.schema import PretrainConfig
from coterie.config.toml import to_dict
from coterie.data.loading.center_crop import Preprocessing
from coterie.grouping.kmeans import ITERATIONS
from coterie.methods.imagenet import PUBLISHED
from coterie.methods.presets import plan_method

ROOT = Path(__file__).resolve().parent.parent
PAGE, SAID = ROOT / "docs" / "methods.md", ROOT / "docs" / "published.toml"
START, END = "<!-- made by scripts/published.py -->\n", "<!-- end of what is made by scripts/published.py -->\n"
IMAGENET = Facts(1_281_167, 375)
OPTIONAL = ("predictor", "memory", "refresh", "regularizer", "clip_grad_norm", "backbone.weights")
FAMILIES = {"swav_": "SwAV", "deepcluster_v2_": "DeepCluster-v2", "sela_v2_": "SeLa-v2", "smog_": "SMoG"}
Values = dict[str, Any]


def our_values(config: PretrainConfig) -> Values:
    """Each value of a preset by its path; what all crops share has a star in place of their numbers."""
    values = dict(_flat(to_dict(config)))
    for name in OPTIONAL:
        if not any(f"{path}.".startswith(f"{name}.") for path in values):
            values[name] = "none"
    roles, size = config.views.roles, config.views.center_crop_size
    for name in ("student_views", "target_views", "grouped_views", "bn_only_views"):
        values[f"views.{name}"] = list(getattr(roles, name))
    values.pop("views.image_size", None)
    preprocessing = Preprocessing(size, 3, config.views.mean or (), config.views.std or ())
    values |= {
        "evaluation.size": size,
        "evaluation.short_side": preprocessing.resized,
        "precision": config.run.precision,
    }
    if config.backbone.name.startswith("resnet"):
        values["backbone.mlp_norm"] = "none"
    if values["groups.kind"] != "learned":
        values["groups.kmeans_rounds"] = ITERATIONS
    return _starred(values, len(config.views.crops))


@cache
def written_down() -> dict[str, Any]:
    """The content of docs/published.toml."""
    return tomllib.loads(SAID.read_text("utf-8"))


def said(kind: str, preset: str) -> Values:
    """What papers (``paper``) or releases (``release``) say of a preset; empty if that is nothing."""
    table = dict(written_down()[kind].get(preset, {}))
    like, without = table.pop("like", None), table.pop("without", [])
    inherited = {} if like is None else said(kind, like)
    kept = {path: each for path, each in inherited.items() if not any(_below(path, part) for part in without)}
    parts = {path.partition(".")[0] for path in table}
    return {path: each for path, each in kept.items() if each != "none" or path not in parts} | table


def is_ours_alone(path: str) -> bool:
    """Whether a setting has no counterpart in any release."""
    return any(_below(path, part) for part in written_down()["ours_alone"]["settings"])


def reason(preset: str, path: str) -> str | None:
    """Why our value is another than the release's, where that is known."""
    differs = written_down()["differs"]
    why: str | None = differs.get(preset, {}).get(path, differs.get(path))
    return why


def table() -> str:
    """The table, in Markdown: a row for each value, and the presets that have it."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for make in PUBLISHED:
        for path, value in compared(make.__name__).items():
            rows.setdefault((path, *_cells(make.__name__, path, value)), []).append(make.__name__)
    lines = ["| setting | paper | release | ours | presets |", "| --- | --- | --- | --- | --- |"]
    for path, *cells in sorted(rows, key=lambda row: _place(row[0])):
        lines.append(f"| `{path}` | {' | '.join(cells)} | {_names(rows[path, *cells])} |")
    return "\n".join(lines) + "\n"


@cache
def compared(preset: str) -> Values:
    """The values of a preset that a release could have."""
    ours = our_values(plan_method(preset, IMAGENET)[0])
    return {path: value for path, value in ours.items() if not is_ours_alone(path)}


def _cells(preset: str, path: str, value: Any) -> tuple[str, str, str]:
    """Paper, release and ours; what was never released stands beside the preset that it shares a value with."""
    brother = written_down()["never_released"].get(preset)
    if brother is not None and compared(brother).get(path) == value:
        return _cells(brother, path, value)
    paper, release = said("paper", preset), said("release", preset)
    before = _text(paper[path]) if path in paper else ""
    if brother is not None:
        return before, "never released", _text(value)
    if release.get(path) == value:
        return before, _text(value), _text(value)
    return before, _text(release.get(path, "none")), f"**{_text(value)}**: {reason(preset, path)}"


def page() -> str:
    """The page with the present table in it."""
    before, start, rest = PAGE.read_text("utf-8").partition(START)
    _, end, after = rest.partition(END)
    return f"{before}{start}\n{table()}\n{end}{after}"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{path}.{number}")
    else:
        yield path, value


def _starred(values: Values, crops: int) -> Values:
    """Values with one path for what all groups of crops share, apart from what tells them apart."""
    found: Values = {}
    for path, value in values.items():
        head, _, rest = path.removeprefix("views.crops.").partition(".")
        if not path.startswith("views.crops.") or rest in ("count", "size", "scale"):
            found[path] = value
        elif all(values[f"views.crops.{number}.{rest}"] == value for number in range(crops)):
            found[f"views.crops.*.{rest}"] = value
        else:
            found[f"views.crops.{head}.{rest}"] = value
    return found


def _below(path: str, part: str) -> bool:
    return f"{path}.".startswith(f"{part}.")


def _place(path: str) -> tuple[int, str]:
    """Rows in the order of the data: views, network, groups, optimization; then by name."""
    order = ("views", "evaluation", "backbone", "batch_norm_scope", "batch_norm_processes", "projector", "predictor")
    order += ("target", "groups", "assignment", "temperature", "regularizer", "memory", "refresh", "optimizer")
    order += ("learning_rate", "clip_grad_norm", "epochs", "batch_size", "precision", "seed")
    return order.index(path.partition(".")[0]), path


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _names(presets: list[str]) -> str:
    """Which presets: ``all``, whole methods, or names without ``imagenet``."""
    if len(presets) == len(PUBLISHED):
        return "all"
    names: list[str] = []
    for start, method in FAMILIES.items():
        own = [make.__name__ for make in PUBLISHED if make.__name__.startswith(start)]
        there = [each for each in own if each in presets]
        names += [method] if there == own else [f"`{each.replace('_imagenet', '')}`" for each in there]
    return ", ".join(names)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
