"""Results as tables of plain text."""

from collections.abc import Mapping

from coterie.config.describe import explain
from coterie.evaluation.model_selection import Selection
from coterie.reporting.formatting import format_duration as duration
from coterie.reporting.formatting import format_number as number
from coterie.training.profiling.advice import LABELS, TEACHER, Profile, label, percent
from coterie.training.profiling.estimate import Plan

LABEL_FREE_SHOWN = ("effective_rank", "perplexity", "lidar", "stability")


def plan_lines(plan: Plan) -> list[str]:
    """A plan as it is shown: the settings that were found, with their reasons; then what a run takes."""
    rows = [("setting", "value", "reason"), *explain(plan.config, plan.reasons)]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    found = plan.estimate
    phases = {
        "start": found.starting,
        "filling the memory": found.filling,
        "training": found.training,
        "refreshes": found.refreshes,
        "looks": found.looking,
        "report": found.reporting,
    }
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in phases.items() if seconds >= 0.5)
    lines = [
        *(f"{path:<{first}}  {value:<{second}}  {reason}" for path, value, reason in rows),
        "",
        plan.summary,
        f"time    about {duration(found.seconds)}: {parts} ({found.step:.3g} s a step)",
        f"memory  about {found.memory / 2**30:.2f} GiB: {found.main_memory / 2**30:.2f} the main process, "
        f"{found.worker_memory / 2**30:.2f} what loads images",
    ]
    if found.device_memory:
        lines.append(f"device  about {found.device_memory / 2**30:.2f} GiB of tensors")
    return [*lines, f"from {found.steps} steps rehearsed here; another load of this machine is another time"]


def figure_lines(result: Mapping[str, Mapping[str, float]]) -> list[str]:
    """What probes found, a line a figure."""
    width = max((len(name) for figures in result.values() for name in figures), default=0)
    return [
        f"{probe}  {name:<{width}}  {value:10.4g}"
        for probe, figures in result.items()
        for name, value in figures.items()
    ]


def transfer_lines(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A row a set, a column a figure."""
    names = list(dict.fromkeys(name for figures in table.values() for name in figures))
    rows = [
        ("", *names),
        *(
            (each, *(f"{figures[name]:.4g}" if name in figures else "-" for name in names))
            for each, figures in table.items()
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names) + 1)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def selection_lines(found: Selection) -> list[str]:
    """The snapshot that was chosen and why; below it what every look said."""
    table: dict[str, dict[str, float]] = {}
    for look in found.table:
        first = {"score": look.score, "knn": look.knn}
        mark = "*" if look.step == found.step else " "
        table[f"{mark} {look.snapshot}"] = {
            name: each for name, each in first.items() if each is not None
        } | look.figures
    return [found.snapshot, *found.reasons, "", *transfer_lines(table)]


def profile_lines(found: Profile) -> list[str]:
    """A profile as it is shown: a step, an image in a worker, and what follows."""
    whole, batch = sum(found.parts.values()), found.config.batch_size
    # A teacher is listed only where there is one, and what the workers leave to the device is not.
    parts = {part: seconds for part, seconds in found.parts.items() if seconds or part != TEACHER}
    stages = {stage: seconds for stage, seconds in found.stages.items() if seconds}
    rows = [
        *_profile_rows(found, f"a step of {batch} images", parts),
        *([("  without the timing", number(1000 * found.step), "")] if found.device == "cuda" else []),
        ("", "", ""),
        *_profile_rows(found, "an image in a worker", stages),
    ]
    first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
    table = [f"{row[0]:<{first}}  {row[1]:>{second}}  {row[2]:>{third}}".rstrip() for row in rows]
    return [*table, "", found.summary, *_profile_facts(found, whole)]


def _profile_facts(found: Profile, whole: float) -> list[str]:
    batch = found.config.batch_size
    keep_up = "1 keeps up" if found.enough_workers == 1 else f"{found.enough_workers} would keep up"
    lines = [
        f"speed    {number(batch / found.step)} images/s; a worker alone on a core makes {number(1 / found.image)}, so "
        f"{keep_up} with the rest of a step (now {found.workers}, on {found.cores} cores)"
    ]
    if found.preparing:
        lines.append(f"images   live on the device; decoding them, once: {duration(found.preparing)}")
    if found.filling:
        seconds = duration(found.filling * found.steps_per_epoch)
        lines.append(f"filling  the memory, once, before the first step: about {seconds}")
    if found.refresh:
        lines.append(f"refresh  {number(found.refresh)} s each: {percent(found.refreshing)} of the time")
    memory = f"memory   {found.main_memory / 2**30:.2f} GiB, and {found.worker_memory / 2**30:.2f} what loads images"
    if found.device_memory:
        memory += f"; {found.device_memory / 2**30:.2f} GiB of tensors on the device"
    slowest, stage = max(found.parts, key=lambda p: found.parts[p]), max(found.stages, key=lambda s: found.stages[s])
    lines += [
        memory,
        f"slowest  of a step: {label(found, slowest)}, {percent(found.parts[slowest] / whole)}; of loading an image: "
        f"{LABELS[stage]}, {percent(found.stages[stage] / found.image)}",
    ]
    return [
        *lines,
        *(f"advice   {line}" for line in found.advice),
        f"from {found.steps} step{'s' * (found.steps > 1)}, timed in parts here",
    ]


def _profile_rows(found: Profile, title: str, seconds: dict[str, float]) -> list[tuple[str, str, str]]:
    whole = sum(seconds.values())
    return [
        (title, "ms", "share"),
        *((f"  {label(found, each)}", number(1000 * spent), percent(spent / whole)) for each, spent in seconds.items()),
        ("  together", number(1000 * whole), ""),
    ]
