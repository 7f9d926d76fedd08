"""The training step without data: ours beside lightly's own modules put together as its examples do.

    python benchmarks/step.py [--device cpu|cuda] [--case "swav, ResNet-18, 2x32"] [--batch N] [--repeats 5] [--threads 1]
    python benchmarks/step.py --memory

Views of noise are on the device already; a step is forward, loss, backward, optimizer and, of ours, the monitor. Same
network, batch and precision. Ours is as ``auto`` has it in a long run: compiled on a GPU (and beside it not), plain on a CPU.
Contestants take turns; a ratio is the median over the repeats of the ratio within a repeat, by the wall clock, and by CPU
time too where the device is the CPU. Of lightly:

* as documented: each crop through the network by itself, its optimizer (Adam for SwAV and SGD for SMoG at 32 pixels, its
  LARS for SwAV at 224);
* the same with our optimizer, so that the step is compared and not LARS or AdamW;
* the best of its settings: channels-last and, as its ImageNet benchmark offers it, ``torch.compile`` (``--compile``);
* on a GPU also ``16-mixed``, the precision of its ImageNet benchmark. Its float32 is given TF32 there, as that benchmark does.

SMoG is without the clustering of groups. lightly documents it for two views; with more, ``lightly_models.SMoG`` says what is
compared. ``--memory`` runs each contestant for three steps in a process of its own and takes its peak: what the device
allocated at most or, on a CPU, the largest resident size above what it was before the model was built. ``--recompute`` adds
our step in two micro-batches, and with checkpointed activations.
"""

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from alternating import RESULTS, alternate, command, limit_threads, machine, ratio, show_rows, write_report

THREADS = limit_threads()  # before numpy and torch come in

import torch
from contestants import (
    CASES,
    TOY_CASES,
    Case,
    Lightly,
    Ours,
    again,
    lightly,
    lightly_with_our_optimizer,
    set_up_torch,
    settings,
)

from coterie.config.hardware import choose_autocast

PACKAGES = ("coterie", "lightly", "torch", "torchvision", "timm")
MEMORY_STEPS = 3


def contestants(
    case: Case, batch: int, device: torch.device, precision: str, compiled: bool, recompute: bool
) -> dict[str, Callable[[], Ours | Lightly]]:
    """How each is built, by name; the first is ours."""
    found: dict[str, Callable[[], Ours | Lightly]] = {
        f"coterie, {precision}": lambda: Ours(settings(case, batch, precision, device), device),
        f"lightly, {precision}": lambda: lightly(case, batch, device, precision),
        f"lightly, {precision}, our optimizer": lambda: lightly_with_our_optimizer(case, batch, device, precision),
        f"lightly, {precision}, best": lambda: lightly(case, batch, device, precision, best=True, compiled=compiled),
    }
    if device.type == "cuda":
        config = settings(case, batch, precision, device)
        plain = replace(config, run=replace(config.run, compile="never"))
        found[f"coterie, {precision}, not compiled"] = lambda: Ours(plain, device)
    if device.type == "cuda" and precision == "bfloat16":
        found["lightly, 16-mixed"] = lambda: lightly(case, batch, device, "16-mixed")
        found["lightly, 16-mixed, best"] = lambda: lightly(
            case, batch, device, "16-mixed", best=True, compiled=compiled
        )
    if recompute:
        config = settings(case, batch, precision, device)
        parts = replace(config, micro_batches=2)
        blocks = replace(config, run=replace(config.run, activation_checkpointing=True))
        found[f"coterie, {precision}, micro_batches = 2"] = lambda: Ours(parts, device)
        found[f"coterie, {precision}, checkpoint_activations"] = lambda: Ours(blocks, device)
    return found


def wanted(name: str, options: argparse.Namespace) -> bool:
    """Whether a contestant was asked for: by its whole name, or all are."""
    return not options.contestants or name in options.contestants


def joint(case: Case, batch: int, device: torch.device, precision: str) -> dict[str, Callable[[], Ours]]:
    """Our own SMoG with the batch norm that its release has, one over all resolutions."""
    if case.method != "smog" or len(case.crops) == 1:
        return {}
    config = replace(settings(case, batch, precision, device), batch_norm_scope="joint")
    return {f"coterie, {precision}, joint batch norm": lambda: Ours(config, device)}


def measured(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of each contestant, and how many times as fast as each of the others ours are."""
    device = torch.device(options.device)
    batch = options.batch or case.batch(device)
    views = case.views(batch, device)
    built = {}
    for precision in options.precision:
        built |= contestants(case, batch, device, precision, options.compile, options.recompute) | joint(
            case, batch, device, precision
        )
    ready = {name: build() for name, build in built.items() if wanted(name, options)}
    if not ready:
        sys.exit(f"no such contestant; there are: {'; '.join(built)}")
    for each in ready.values():
        each.steps(again(views, options.warm_up))
    turns = {name: lambda each=each: each.steps(again(views, options.steps)) for name, each in ready.items()}
    times, _ = alternate(turns, options.repeats, torch.cuda.synchronize if device.type == "cuda" else lambda: None)
    clocks = ("wall", "cpu") if device.type == "cpu" else ("wall",)
    rows = {}
    for name in ready:
        row = times[name].rounded()
        row["images_per_second"] = round(batch * options.steps / row["seconds"], 1)
        if isinstance(ready[name], Ours):
            row["compiler"] = ready[name].compiler
            for clock in clocks:
                suffix = "" if clock == "wall" else "_cpu"
                row[f"times_as_fast_as{suffix}"] = {
                    other: ratio(times, name, other, clock) for other in ready if other != name
                }
        rows[name] = row
    return {"batch": batch, "steps_a_turn": options.steps, "contestants": rows}


def peaks(name: str, case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of each contestant, from a process of its own."""
    device = torch.device(options.device)
    batch = options.batch or case.batch(device)
    found: dict[str, Any] = {}
    for precision in options.precision:
        for contestant in contestants(case, batch, device, precision, options.compile, options.recompute):
            if not wanted(contestant, options):
                continue
            how = "spawn" if device.type == "cuda" else "fork"  # a CUDA context does not survive a fork
            with ProcessPoolExecutor(1, get_context(how)) as fresh:
                try:
                    found[contestant] = fresh.submit(peak, contestant, case, batch, precision, options).result()
                except (RuntimeError, BrokenProcessPool) as error:  # no memory left: of the device, or of the machine
                    found[contestant] = {"failed": str(error).splitlines()[0]}
            sys.stdout.write(f"  {contestant}: {found[contestant]}\n")
        ours = found.get(f"coterie, {precision}", {})
        if "peak_mib" in ours:
            others = {other: row for other, row in found.items() if other.startswith("lightly") and "peak_mib" in row}
            ours["peak_over"] = {other: round(ours["peak_mib"] / row["peak_mib"], 3) for other, row in others.items()}
    return {"batch": batch, "steps": MEMORY_STEPS, "contestants": found}


def peak(name: str, case: Case, batch: int, precision: str, options: argparse.Namespace) -> dict[str, float]:
    """One contestant's, in this process, which has done nothing yet; and what a process holds before."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    before = resident("VmRSS") if device.type == "cpu" else 0
    views = case.views(batch, device)
    contestants(case, batch, device, precision, options.compile, options.recompute)[name]().steps(
        again(views, MEMORY_STEPS)
    )
    most = resident("VmHWM") if device.type == "cpu" else torch.cuda.max_memory_allocated(device)
    return {"peak_mib": round((most - before) / 2**20, 1), "before_mib": round(before / 2**20, 1)}


def resident(name: str) -> int:
    """Bytes of a line of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--case", action="append", help="by name, or a part of it; several times for several")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, help="a turn; else 1 on a CPU, 20 on a GPU")
    parser.add_argument("--warm-up", type=int, help="else 1 on a CPU, 10 on a GPU")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--precision", type=lambda text: text.split(","), help="float32, bfloat16, or both, comma between"
    )
    parser.add_argument(
        "--contestants", type=lambda text: text.split(";"), default=[], help="by their whole names, semicolons between"
    )
    parser.add_argument("--compile", action="store_true", help="lightly's best setting is compiled too")
    parser.add_argument("--memory", action="store_true", help="peak memory and not time")
    parser.add_argument(
        "--recompute", action="store_true", help="ours also with what is computed again for want of memory"
    )
    parser.add_argument("--toy", action="store_true", help="tiny cases: a trial, not a measurement")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    on_gpu = options.device.startswith("cuda")
    options.steps = options.steps or (20 if on_gpu else 1)
    options.warm_up = options.warm_up or (10 if on_gpu else 1)
    has = choose_autocast("auto", torch.device(options.device)) is not None
    options.precision = options.precision or (["float32", "bfloat16"] if has else ["float32"])
    known = TOY_CASES if options.toy else CASES
    wanted = options.case or list(known)
    options.cases = {name: case for name, case in known.items() if any(part in name for part in wanted)}
    if not options.cases:
        parser.error(f"no such case; there are: {'; '.join(known)}")
    what = ("step_memory" if options.memory else "step") + ("_recompute" if options.recompute else "")
    options.out = options.out or RESULTS / f"{what}_{torch.device(options.device).type}.json"
    return options


def main() -> None:
    options = arguments()
    set_up_torch(options.device, THREADS)
    report = {
        "command": command(),
        "what": "peak memory of three training steps" if options.memory else "a training step on views that are there",
        "aim": "peak memory beside lightly's" if options.memory else "CPU: 1.3 times lightly's step; GPU: 2 times",
        **machine(PACKAGES, options.device),
        "threads": THREADS,
        "repeats": options.repeats,
        "cases": {},
    }
    for name, case in options.cases.items():
        sys.stdout.write(f"{name}\n")
        report["cases"][name] = peaks(name, case, options) if options.memory else measured(case, options)
        if not options.memory:
            show_rows(report["cases"][name]["contestants"], indent="  ")
        write_report(options.out, report)


if __name__ == "__main__":
    main()
