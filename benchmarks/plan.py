"""How near ``coterie plan`` and the first line of ``coterie pretrain`` come to the real run, on CPU configurations.

    taskset -c 1 python benchmarks/plan.py [--only swav_cifar,...] [--clock wall|cpu] [--plan] [--out FILE]

For each configuration ``coterie pretrain`` runs with an empty cache. Its first line is compared with the time from that line to
the end, and the CPU time that the rehearsal before that line takes is noted. With ``--plan`` the plan is made before, with
another empty cache, and compared with the whole run, in time and in peak memory. All on one core and one thread.

Time is by the clock on the wall or, with ``--clock cpu``, by the CPU time of all processes, in estimate and run alike: on one
core that nobody else uses the two are the same, and on a machine with other work only the second can be compared. The peak
memory of the real run is looked for in /proc every second: what is resident in the main process plus the pages that the
loader's workers hold alone; what passed between two looks is added by the main process's VmHWM.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
from alternating import RESULTS, SHARED, processor, write_report

os.environ["COTERIE_CLOCK"] = str(Path(__file__).parent / "quality")
sys.path.append(os.environ["COTERIE_CLOCK"])
from clock import cpu_seconds

from coterie import api
from coterie.training.profiling import rehearsal_process
from coterie.training.profiling.process_memory import private_bytes, proc_status_bytes

ONE_THREAD = ("run.threads=1",)
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "swav_cifar": {
        "method": "swav",
        "images": 4000,
        "epochs": 3,
        "settings": ("backbone.width=0.1875",),
    },
    "smog_photographs": {
        "method": "smog",
        "images": None,
        "epochs": 10,
        "backbone": "resnet10t",
        "settings": (
            "views.crops.0.size=64",
            "views.crops.1.size=32",
            "views.crops.1.count=2",
            "groups.counts=[10,10,10]",
        ),
    },
    "deepcluster_v2_cifar": {
        "method": "deepcluster_v2",
        "images": 3000,
        "epochs": 4,
        "settings": ("backbone.width=0.1875",),
    },
    "swav_resnet50_photographs": {
        "method": "swav",
        "images": None,
        "seen": 160,
        "settings": ("run.snapshots=0",),
    },
    "deepcluster_v2_vit": {
        "method": "deepcluster_v2",
        "images": 2000,
        "epochs": 6,
        "backbone": "vit_tiny_patch16_224",
        "batch_size": 64,
        "settings": ("views.crops.1.count=2",),
    },
}
TOY = {
    "toy": {
        "method": "swav",
        "images": 256,
        "epochs": 8,
        "batch_size": 32,
        "settings": ("backbone.width=0.125", "run.workers=0"),
    }
}
"""A trial, not a measurement."""
CLOCKS = {
    "wall": "on the wall",
    "cpu": "CPU time of all processes, in plan and run alike: one core was shared with other work all the time",
}
SAID = """
import json, os, sys, time, types
sys.path.append(os.environ["COTERIE_CLOCK"])
from clock import cpu_seconds
from coterie.cli.main import main
from coterie.training.profiling import real_steps, rehearsal, rehearsal_process, step_timer, time_callback
if os.environ["COTERIE_CLOCKED_BY"] == "cpu":
    now = lambda: cpu_seconds(os.getpid())
    clock = types.SimpleNamespace(perf_counter=now, monotonic=now, process_time=now)
    for module in (real_steps, rehearsal, rehearsal_process, step_timer, time_callback):
        module.time = clock
start = time_callback.TimeCallback.on_start
def on_start(self, run):
    before = cpu_seconds(os.getpid())
    start(self, run)
    with open(os.environ["COTERIE_SAID"], "w") as file:
        measured = {"seconds": self._said.seconds, "step": self._said.step, "basis": self._said.basis}
        cpu = cpu_seconds(os.getpid())
        json.dump(measured | {"cpu_before": before, "cpu_after": cpu, "wall_after": time.time()}, file)
time_callback.TimeCallback.on_start = on_start
if sys.argv[1:]:
    main()
else:
    rehearsal_process._main()
"""
"""Runs the command, or the process of a plan, by the CPU's clock, and writes down what the first line is made of."""


def images_of(count: int | None, folder: Path) -> Path:
    """So many training images of CIFAR-10 as a parquet file; None: the folder of photographs."""
    if count is None:
        return SHARED / "data" / "photos"
    path = folder / f"cifar{count}.parquet"
    pq.write_table(pq.read_table(SHARED / "data" / "cifar10" / "train.parquet").slice(0, count), path)
    return path


def children(process: int) -> list[int]:
    """The processes that it started and that are still there."""
    return [
        int(one) for task in Path(f"/proc/{process}/task").iterdir() for one in (task / "children").read_text().split()
    ]


def planned(given: dict[str, Any], clock: str) -> dict[str, Any]:
    """What ``coterie plan`` says; by CPU time, its clocks are changed and nothing else."""
    if clock == "cpu":
        rehearsal_process.COMMAND = (sys.executable, "-P", "-c", SAID)
        rehearsal_process.time = api.time = SimpleNamespace(monotonic=lambda: cpu_seconds(os.getpid()))  # type: ignore[assignment]
    found = api.plan(**given).estimate
    return asdict(found) | {"seconds": found.seconds, "memory": found.memory}


def real_run(given: dict[str, Any], out: Path, clock: str) -> dict[str, Any]:
    """Time and peak memory of ``coterie pretrain``, and what it said at its start."""
    flags = [part for name in ("backbone", "epochs", "images", "batch_size") for part in flag(name, given.get(name))]
    flags += [part for setting in given["settings"] for part in ("--set", setting)]
    command = [sys.executable, "-P", "-c", SAID, "pretrain", given["method"], given["data"], "--out", str(out), *flags]
    spent, began = ended_cpu_seconds(), time.perf_counter()
    main = resident = together = 0
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            try:
                main, now = max(main, proc_status_bytes(run.pid, "VmHWM")), proc_status_bytes(run.pid, "VmRSS")
                resident = max(resident, now)
                together = max(together, now + sum(map(private_bytes, children(run.pid))))
            except (OSError, KeyError):  # a process has just ended
                pass
            time.sleep(1)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {run.returncode}")
    wall, cpu, ended = time.perf_counter() - began, ended_cpu_seconds() - spent, time.time()
    said = json.loads(Path(os.environ["COTERIE_SAID"]).read_text())
    after = cpu - said["cpu_after"] if clock == "cpu" else ended - said["wall_after"]
    return {
        "said": said["seconds"],
        "said_step": said["step"],
        "said_from": said["basis"],
        "took_from_then_on": after,
        "rehearsal_cpu_seconds": said["cpu_after"] - said["cpu_before"],
        "seconds": cpu if clock == "cpu" else wall,
        "wall_seconds": wall,
        "cpu_seconds": cpu,
        "memory": together + main - resident,
        "main_memory": main,
    }


def ended_cpu_seconds() -> float:
    """Of all processes that were started from this one and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def flag(name: str, value: Any) -> list[str]:
    """As on the command line."""
    return [] if value is None else [f"--{name.replace('_', '-')}", str(value)]


def compare(name: str, clock: str, folder: Path, plan: bool) -> dict[str, Any]:
    """Estimates and real figures of one configuration, and their ratios."""
    given = dict((CONFIGURATIONS | TOY)[name])
    images, seen = given.pop("images"), given.pop("seen", None)
    given |= {"data": str(images_of(images, folder)), "settings": (*given["settings"], *ONE_THREAD)}
    if seen is not None:
        given["images"] = seen
    os.environ |= {"COTERIE_SAID": str(folder / "said.json"), "COTERIE_CLOCKED_BY": clock}
    os.environ["COTERIE_CACHE"] = str(folder / "cache_of_the_plan")
    loads = [os.getloadavg()[0]]
    estimate = planned(given, clock) if plan else {}
    loads.append(os.getloadavg()[0])
    os.environ["COTERIE_CACHE"] = str(folder / "cache")
    real = real_run(given, folder / name, clock)
    loads.append(os.getloadavg()[0])
    ratios = {f"{what}_ratio": round(estimate[what] / real[what], 3) for what in ("seconds", "memory") if plan}
    ratios = {"first_line_ratio": round(real["said"] / real["took_from_then_on"], 3)} | ratios
    given["data"] = "the photographs" if images is None else f"CIFAR-10, the first {images} training images"
    return {**ratios, "given": given, "estimate": estimate, "real": real, "load_average": loads}


def hardware() -> dict[str, object]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "cores_of_this": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "timm", "coterie")},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Plans beside the runs that they foretell.")
    parser.add_argument("--only", default=",".join(CONFIGURATIONS), help="comma between; toy is a trial")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--out", type=Path, default=RESULTS / "plan.json")
    parser.add_argument("--plan", action="store_true", help="compare the plan too")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does
    result: dict[str, Any] = {
        "what": "first line of a run over the time from then on; with --plan, `coterie plan` over the whole run",
        "command": f"taskset -c 1 python benchmarks/plan.py --clock {options.clock}{' --plan' * options.plan}",
        "clock": CLOCKS[options.clock],
        "aim": "0.7 to 1.3; at most 15 CPU seconds for the rehearsal of ResNet-50",
        "hardware": hardware(),
        "configurations": {},
    }
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            result["configurations"][name] = compare(name, options.clock, Path(folder), options.plan)
        print(f"{name}: {json.dumps(result['configurations'][name])}", flush=True)
        write_report(options.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
