"""What the benchmarks repeat: threads, turns, ratios within a repeat, and what a result says of its machine.

It brings in neither numpy nor torch, so that ``limit_threads`` can come before them. Benchmarks in a folder of their own
put this one on ``sys.path``.

On two threads of a machine with other work, whoever waits for a thread that was put aside loses much, and the spinning
threads of OpenBLAS lose most: there ``--threads 1`` and the ratio of CPU times say more.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SHARED = Path(os.environ.get("COTERIE_SHARED", Path(__file__).parents[2] / "shared"))
"""The folder that holds ``data/photos`` and ``data/cifar10``."""


def limit_threads(unless_asked: str = "1") -> int:
    """The value of ``--threads`` on the command line, told to OpenMP and BLAS; before numpy and torch come in."""
    asked = sys.argv[sys.argv.index("--threads") + 1] if "--threads" in sys.argv else unless_asked
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = asked
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
    return int(asked)


@dataclass(frozen=True)
class Times:
    """Seconds of one contestant, repeat by repeat, by the clock on the wall and by this process's CPU time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def by(self, clock: str) -> list[float]:
        """The wall's, or the processor's."""
        return self.wall if clock == "wall" else self.cpu

    def rounded(self) -> dict[str, Any]:
        """What every result says of a contestant's time."""
        return {
            "seconds": round(statistics.median(self.wall), 4),
            "cpu_seconds": round(statistics.median(self.cpu), 4),
            "each_repeat": {clock: [round(each, 4) for each in self.by(clock)] for clock in ("wall", "cpu")},
        }


def alternate(
    contestants: Mapping[str, Callable[[], Any]], repeats: int, wait: Callable[[], object] = lambda: None
) -> tuple[dict[str, Times], dict[str, Any]]:
    """Let the contestants take turns, so that whatever else the machine does meets them alike.

    Each repeat begins with another contestant. ``wait`` ends what the device still does, before a turn and in it.

    Returns:
        The times of each, and what its last turn returned.
    """
    times = {name: Times() for name in contestants}
    answers: dict[str, Any] = {}
    names = list(contestants)
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in names[first:] + names[:first]:
            wait()
            cpu, wall = time.process_time(), time.perf_counter()
            answers[name] = contestants[name]()
            wait()
            times[name].cpu.append(time.process_time() - cpu)
            times[name].wall.append(time.perf_counter() - wall)
    return times, answers


def ratio(times: Mapping[str, Times], name: str, other: str, clock: str = "wall") -> float:
    """How many times as fast as ``other`` a contestant is: the median over the repeats of the ratio within a repeat."""
    pairs = zip(times[other].by(clock), times[name].by(clock), strict=True)
    return round(statistics.median(theirs / ours for theirs, ours in pairs), 3)


def compared(times: Mapping[str, Times], name: str, others: Mapping[str, str]) -> dict[str, Any]:
    """The times of a contestant, and how many times as fast as each other one it is, by both clocks.

    ``others`` maps a short name, for the keys of the result, to the name of the contestant.
    """
    return times[name].rounded() | {
        f"times_as_fast_as_{short}{suffix}": ratio(times, name, other, clock)
        for short, other in others.items()
        for clock, suffix in (("wall", ""), ("cpu", "_cpu"))
    }


def show_rows(rows: Mapping[str, Mapping[str, Any]], indent: str = "") -> None:
    """One line for each contestant, without the times of each repeat."""
    for name, row in rows.items():
        shown = {key: value for key, value in row.items() if key != "each_repeat"}
        sys.stdout.write(f"{indent}{name}: {json.dumps(shown)}\n")
    sys.stdout.flush()


def processor() -> str:
    """The model's name, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def model() -> str:
    """The processor, with the numbers that tell two of one name apart."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    numbers = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return f"{processor()}, family {numbers.get('cpu family', '-')}, model {numbers.get('model', '-')}"


def commit() -> str | None:
    """The commit of this checkout, with a + if files but for results have changed since; None where git knows nothing of it."""
    changed = ("status", "--porcelain", "--", ":(top)", f":(exclude){RESULTS.name}")
    said = [
        subprocess.run(["git", *words], cwd=RESULTS.parent, capture_output=True, text=True, check=False).stdout.strip()
        for words in (("rev-parse", "--short", "HEAD"), changed)
    ]
    return said[0] + ("+" if said[1] else "") if said[0] else None


def machine(packages: Sequence[str], device: str = "cpu") -> dict[str, Any]:
    """What every result says of where it was taken; of a CUDA device also its name and torch's CUDA."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "device": device,
    }
    if device.startswith("cuda"):
        import torch  # not above: threads are limited before torch comes in

        found |= {"device_name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return found


def probe_options(text: str, name: str) -> argparse.ArgumentParser:
    """What the benchmarks of probes have in common: the size of the features, and how they are measured."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser


def circumstances(options: argparse.Namespace, packages: Sequence[str], load: float) -> dict[str, Any]:
    """The command with its options, the machine, and its load average before (``load``) and now."""
    chosen = {name: value for name, value in vars(options).items() if name != "out"}
    loads = [round(load, 2), round(os.getloadavg()[0], 2)]
    return {"command": command(), **machine(packages), "load_average": loads, **chosen}


def command() -> str:
    """What was typed."""
    return " ".join(["python", *sys.argv])


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """As JSON; under its own name only when it is whole, since a result that is there is not measured again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    unfinished.write_text(json.dumps(report, indent=2) + "\n")
    unfinished.replace(path)
