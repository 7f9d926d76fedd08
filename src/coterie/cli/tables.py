"""Results as plain-text tables."""

from collections.abc import Mapping

from coterie.config.describe import explain
from coterie.evaluation.model_selection import Selection
from coterie.reporting.formatting import format_duration, format_number
from coterie.training.profiling.advice import LABELS, TEACHER, Profile, part_label, percent
from coterie.training.profiling.estimate import Plan

LABEL_FREE_SHOWN = ("effective_rank", "perplexity", "lidar", "stability")
"""The label-free metrics that the terminal shows during training."""


def plan_lines(plan: Plan) -> list[str]:
    """Format a plan: chosen settings with their reasons, then time and memory."""
    rows = [("setting", "value", "reason"), *explain(plan.config, plan.reasons)]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    estimate = plan.estimate
    phases = {
        "start": estimate.starting,
        "filling the memory": estimate.filling,
        "training": estimate.training,
        "refreshes": estimate.refreshes,
        "label-free metrics": estimate.evaluating,
        "report": estimate.reporting,
    }
    parts = ", ".join(f"{name} {format_duration(seconds)}" for name, seconds in phases.items() if seconds >= 0.5)
    lines = [
        *(f"{path:<{first}}  {value:<{second}}  {reason}" for path, value, reason in rows),
        "",
        plan.summary,
        f"time    about {format_duration(estimate.seconds)}: {parts} ({estimate.step:.3g} s per step)",
        f"memory  about {estimate.memory / 2**30:.2f} GiB: {estimate.main_memory / 2**30:.2f} in the main process, "
        f"{estimate.worker_memory / 2**30:.2f} in loader processes",
    ]
    if estimate.device_memory:
        lines.append(f"device  about {estimate.device_memory / 2**30:.2f} GiB of tensors")
    return [*lines, f"from {estimate.basis}, on this machine as busy as it was then"]


def figure_lines(result: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Format the results of probes, one line per metric."""
    width = max((len(name) for metrics in result.values() for name in metrics), default=0)
    return [
        f"{probe}  {name:<{width}}  {value:10.4g}"
        for probe, metrics in result.items()
        for name, value in metrics.items()
    ]


def transfer_lines(table: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Format the results of several labeled sets: one row per set, one column per metric."""
    names = list(dict.fromkeys(name for metrics in table.values() for name in metrics))
    rows = [
        ("", *names),
        *(
            (each, *(f"{metrics[name]:.4g}" if name in metrics else "-" for name in names))
            for each, metrics in table.items()
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names) + 1)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def selection_lines(selection: Selection) -> list[str]:
    """Format a selection: the snapshot and the reasons for it, then the metrics of all snapshots."""
    table: dict[str, dict[str, float]] = {}
    for row in selection.table:
        scores = {"score": row.score, "knn": row.knn}
        mark = "*" if row.step == selection.step else " "
        known = {name: value for name, value in scores.items() if value is not None}
        table[f"{mark} {row.snapshot}"] = known | row.figures
    return [selection.snapshot, *selection.reasons, "", *transfer_lines(table)]


def profile_lines(profile: Profile) -> list[str]:
    """Format a profile: the parts of a step, the stages of loading an image, and what follows from them."""
    total, batch = sum(profile.parts.values()), profile.config.batch_size
    # List a teacher only if there is one, and no stages that workers leave to the device.
    parts = {part: seconds for part, seconds in profile.parts.items() if seconds or part != TEACHER}
    stages = {stage: seconds for stage, seconds in profile.stages.items() if seconds}
    rows = [
        *_profile_rows(profile, f"a step of {batch} images", parts),
        *([("  without timing parts", format_number(1000 * profile.step), "")] if profile.device == "cuda" else []),
        ("", "", ""),
        *_profile_rows(profile, "an image in a worker", stages),
    ]
    first, second, third = (max(len(row[column]) for row in rows) for column in range(3))
    table = [f"{row[0]:<{first}}  {row[1]:>{second}}  {row[2]:>{third}}".rstrip() for row in rows]
    return [*table, "", profile.summary, *_profile_facts(profile, total)]


def _profile_facts(profile: Profile, total: float) -> list[str]:
    batch = profile.config.batch_size
    keep_up = "1 keeps up" if profile.enough_workers == 1 else f"{profile.enough_workers} would keep up"
    one_worker = f"a worker with a core of its own loads {format_number(1 / profile.image)}"
    lines = [
        f"speed    {format_number(batch / profile.step)} images/s; {one_worker}, so {keep_up} with the rest of a step (now "
        f"{profile.workers}, on {profile.cores} cores)"
    ]
    if profile.preparing:
        lines.append(f"images   are kept on the device; decoding them once takes {format_duration(profile.preparing)}")
    if profile.filling:
        seconds = format_duration(profile.filling * profile.steps_per_epoch)
        lines.append(f"filling  the memory before the first step takes about {seconds}")
    if profile.refresh:
        lines.append(f"refresh  {format_number(profile.refresh)} s each: {percent(profile.refreshing)} of the time")
    main, loading = profile.main_memory / 2**30, profile.worker_memory / 2**30
    memory = f"memory   {main:.2f} GiB in the main process, {loading:.2f} in loader processes"
    if profile.device_memory:
        memory += f"; {profile.device_memory / 2**30:.2f} GiB of tensors on the device"
    part = max(profile.parts, key=lambda name: profile.parts[name])
    stage = max(profile.stages, key=lambda name: profile.stages[name])
    lines += [
        memory,
        f"slowest  part of a step: {part_label(profile, part)}, {percent(profile.parts[part] / total)}; stage of loading an "
        f"image: {LABELS[stage]}, {percent(profile.stages[stage] / profile.image)}",
    ]
    return [
        *lines,
        *(f"advice   {line}" for line in profile.advice),
        f"from {profile.steps} step{'s' * (profile.steps > 1)} timed in parts on this machine",
    ]


def _profile_rows(profile: Profile, title: str, seconds: dict[str, float]) -> list[tuple[str, str, str]]:
    total = sum(seconds.values())
    return [
        (title, "ms", "share"),
        *(
            (f"  {part_label(profile, each)}", format_number(1000 * spent), percent(spent / total))
            for each, spent in seconds.items()
        ),
        ("  total", format_number(1000 * total), ""),
    ]
