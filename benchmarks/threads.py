"""What the product chooses for threads and their waiting, beside fixed choices: alone, and beside one busy process.

    python benchmarks/threads.py [--seconds 5] [--repeats 1] [--conditions alone,beside] [--networks resnet18,vit_tiny,resnet50]

Each contestant is a fresh process that trains SwAV through ``coterie.pretrain``, with the loader processes of a run, and is
ended after so many seconds of steps that follow its warm-up; contestants take turns. The fixed ones have a number of threads
and a way of waiting. The product's goes the way of the command, from the choice before torch is imported on, with a cache
folder of its own that begins empty: its first run in a condition tries both ways of waiting, and each network is rehearsed
once. The time that this takes is said beside the result, and is no part of it. ``share`` is the time per image of the best
fixed choice over the product's: 0.9 is the goal. "beside" is beside ``while True: pass``, which is pinned to no core.

The machine must be quiet: other work is one more contestant. It takes about six minutes on two cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alternating import RESULTS, SHARED, alternate, command, machine, write_report

PACKAGES = ("coterie", "torch", "timm")
GOAL = 0.9
PRODUCT = "product"
FIXED: dict[str, tuple[int, str]] = {
    "1 thread": (1, "PASSIVE"),
    "2 threads, PASSIVE": (2, "PASSIVE"),
    "2 threads, default": (2, ""),
}
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet18": {
        "backbone": "resnet18",
        "precision": "bfloat16",
        "batch_size": 100,
        "data": "cifar10/train.parquet",
        "sizes": (48, 24),
    },
    "vit_tiny": {
        "backbone": "vit_tiny_patch16_224",
        "batch_size": 64,
        "data": "cifar10/train.parquet",
        "sizes": (48, 32),
    },
    "resnet50": {"backbone": "resnet50", "batch_size": 16, "data": "photos", "sizes": (96, 48)},
}
TOY_SIZES, TOY_BATCH = (32, 32), 8
"""At 16 pixels two stages have maps of one pixel: batch norms over 8 values, whose gradients overflow in bfloat16."""
BUSY = (sys.executable, "-c", "while True: pass")
CHILD = """
import json, os, sys, time
from multiprocessing import active_children
began, asked = time.perf_counter(), json.load(sys.stdin)
if asked["product"]:
    from coterie.cli.waiting import wait_as_is_fastest, wait_asleep
    wait_asleep()
    wait_as_is_fastest(asked["options"])
import torch
import coterie
from coterie.display.terminal import Terminal
from coterie.training.callback import Callback

class Timing(Callback):
    def on_start(self, run):
        self.marks, self.chosen = [], time.perf_counter() - began
    def on_step_end(self, progress, result):
        if progress.step >= asked["warm_up"]:
            self.marks.append(time.perf_counter())
        if len(self.marks) > asked["steps"] and self.marks[-1] - self.marks[0] > asked["seconds"]:
            seconds = (self.marks[-1] - self.marks[0]) / (len(self.marks) - 1)
            print(json.dumps({
                "ms_per_image": 1000 * seconds / asked["options"]["batch_size"], "threads": torch.get_num_threads(),
                "waiting": os.environ.get("OMP_WAIT_POLICY", "default"), "seconds_to_first_step": self.chosen,
            }), flush=True)
            for child in active_children():
                child.kill()
            os._exit(0)

options = asked["options"]
coterie.pretrain("swav", asked["data"], out=asked["out"], callbacks=[Timing()], logger=Terminal(), **options)
sys.exit("the run was over before it was timed")
"""


def trained(name: str, network: str, cache: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What one contestant's process found."""
    given, fixed = NETWORKS[network], FIXED.get(name)
    large, small = TOY_SIZES if options.toy else given["sizes"]
    settings = [f"views.crops.0.size={large}", "views.crops.1.count=2", f"views.crops.1.size={small}"]
    settings += ["run.snapshots=0", "run.device=cpu", "groups.counts=[8]", "memory=none", "learning_rate.peak=1e-4"]
    settings += [f"run.threads={fixed[0]}"] if fixed else []
    settings += ["backbone.stem=standard"] if network.startswith("resnet") else []
    settings += ["backbone.width=0.125"] if options.toy and network.startswith("resnet") else []
    settings += [f"run.precision={given['precision']}"] if "precision" in given else []
    policy = {"OMP_WAIT_POLICY": fixed[1]} if fixed and fixed[1] else {}
    own = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    batch = TOY_BATCH if options.toy else given["batch_size"]
    with TemporaryDirectory() as folder:
        asked = {
            "product": fixed is None,
            "data": str(options.data / given["data"]),
            "out": str(Path(folder) / "run"),
            "options": {"backbone": given["backbone"], "batch_size": batch, "epochs": 1000, "settings": settings},
            "warm_up": 2 if options.toy else 6,
            "steps": 2,
            "seconds": options.seconds,
        }
        child = (sys.executable, "-c", CHILD)
        environment = own | policy | {"COTERIE_CACHE": str(cache)}
        done = subprocess.run(
            child, input=json.dumps(asked), env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-4000:])
        return dict(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def beside(others: int) -> Iterator[None]:
    """Context in which so many processes keep a core busy each."""
    processes = [subprocess.Popen(BUSY) for _ in range(others)]
    try:
        yield
    finally:
        for each in processes:
            each.kill()
            each.wait()


def compared(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians of each contestant, and the product's share of the best fixed choice."""
    times = {name: statistics.median(each["ms_per_image"] for each in turns) for name, turns in found.items()}
    best = min((name for name in times if name != PRODUCT), key=times.__getitem__)
    last = found[PRODUCT][-1]
    return {
        "ms_per_image": {name: round(each, 3) for name, each in times.items()},
        "best_fixed": best,
        "product": {name: last[name] for name in ("threads", "waiting")},
        "seconds_to_first_step": [round(each["seconds_to_first_step"], 1) for each in found[PRODUCT]],
        "share": round(times[best] / times[PRODUCT], 3),
    }


def measured(network: str, cache: Path, contestants: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """One network in one condition."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}

    def turn(name: str) -> None:
        found[name].append(trained(name, network, cache, options))
        sys.stdout.write(f"  {network}, {name}: {json.dumps(found[name][-1])}\n")
        sys.stdout.flush()

    alternate({name: lambda name=name: turn(name) for name in contestants}, options.repeats)  # type: ignore[misc]
    return compared(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of steps, of each contestant in each turn")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--conditions", default="alone,beside")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--fixed", default=";".join(FIXED), help="separated by semicolons")
    parser.add_argument("--data", type=Path, default=SHARED / "data")
    parser.add_argument("--toy", action="store_true", help="narrow networks and tiny views: a trial, not a measurement")
    parser.add_argument("--out", type=Path, default=RESULTS / "threads.json")
    options = parser.parse_args()
    contestants = [*options.fixed.split(";"), PRODUCT]
    report: dict[str, Any] = {"command": command(), "what": __doc__.splitlines()[0], **machine(PACKAGES)}
    report |= {"seconds": options.seconds, "repeats": options.repeats, "seed": 0, "goal": GOAL, "conditions": {}}
    with TemporaryDirectory() as cache:
        for condition in options.conditions.split(","):
            report["conditions"][condition] = rows = {}
            with beside(1 if condition == "beside" else 0):
                for network in options.networks.split(","):
                    rows[network] = measured(network, Path(cache), contestants, options)
                    sys.stdout.write(f"{condition}, {network}: {json.dumps(rows[network])}\n")
    shares = [row["share"] for rows in report["conditions"].values() for row in rows.values()]
    report |= {"smallest_share": min(shares), "goal_met": min(shares) >= GOAL}
    write_report(options.out, report)


if __name__ == "__main__":
    main()
