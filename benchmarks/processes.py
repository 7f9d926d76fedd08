"""Two processes beside one on the same cores: steps a second, where the difference goes, and what processes say in a step.

    python benchmarks/processes.py [--batch 32] [--steps 4] [--warm-up 1] [--repeats 3] [--parts speed,said]

``speed``: SwAV and SMoG as they come for CIFAR-10 (ResNet-18, 2x24 + 2x16, in the precision that ``auto`` chooses), the same
batch for all, on views of noise that are there, through the product's loop, monitor and saver. The contestants take turns,
each time in fresh processes, of which two are started by torchrun, with one thread each:

* one process with one thread, and with two;
* two processes as a run has them; two whose batch norms are each on their own (``batch_norm_processes=1``);
* two that do not speak at all, each a run of its own on half the batch: what two cores can do.

After the timed steps every collective is noted with the clock that all processes share, which tells how long each waited for
the other and how long they then talked. A ratio is the median over the repeats of the ratio within a repeat; CPU time is that
of all processes together. What making the views takes, in the process itself, is said beside it and not part of it.

``said``: collectives, and bytes that each of two processes hands in, by what they are for, in a step of SwAV (published, 3,000
groups) and SMoG (published, three heads of 3,000) in front of a ResNet-50: counted, at a small batch and small views, on which
none of these numbers depends. On GPUs batch norm is torch's: those two lines are reckoned from its source.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alternating import RESULTS, Times, alternate, command, limit_threads, machine, ratio, write_report

limit_threads()  # before torch comes in

from collectives import BACKWARD, FLOAT, FORWARD, counts, on_gpus, waits

WORKER = str(Path(__file__).with_name("processes_worker.py"))
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
ONE, ONE_OF_TWO, TWO = "one process, 1 thread", "one process, 2 threads", "two processes"
ALONE, APART = "two processes, batch norms alone", "two processes apart"
CONTESTANTS: dict[str, tuple[int, tuple[str, ...]]] = {
    ONE: (1, ()),
    ONE_OF_TWO: (1, ("--threads", "2")),
    TWO: (2, ()),
    ALONE: (2, ("--batch-norm-alone",)),
    APART: (2, ("--apart",)),
}
PACKAGES = ("coterie", "torch", "timm")
METHODS = "swav,smog"
MOST_SECONDS = 600


def launched(processes: int, words: Sequence[str], threads: str = "1") -> list[dict[str, Any]]:
    """What each process has to say."""
    with TemporaryDirectory() as folder:
        start = TORCHRUN if processes > 1 else (sys.executable,)
        alone = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
        ended = subprocess.run(
            [*start, WORKER, "--folder", folder, *words],
            env=alone | {"OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
        )
        if ended.returncode:
            raise RuntimeError(ended.stderr[-4000:])
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(processes)]


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step of each contestant, ratios, and the time in collectives."""
    sizes = ("--batch", str(options.batch), "--steps", str(options.steps), "--warm-up", str(options.warm_up))
    words = ("--methods", METHODS, *sizes, "--noted", str(options.noted), *(("--toy",) if options.toy else ()))
    said: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in options.contestants}

    def turn(name: str) -> None:
        processes, more = CONTESTANTS[name]
        said[name].append(launched(processes, (*words, *more), "2" if name == ONE_OF_TWO else "1"))
        told = {method: round(max(own[method]["wall"] for own in said[name][-1]), 3) for method in METHODS.split(",")}
        sys.stdout.write(f"  {name}: seconds a step {json.dumps(told)}\n")
        sys.stdout.flush()

    alternate({name: lambda name=name: turn(name) for name in options.contestants}, options.repeats)  # type: ignore[misc]
    found = {method: _compared(method, said, options.batch) for method in METHODS.split(",")}
    precision = said[options.contestants[0]][0][0]["precision"]
    return {"precision": precision, "batch": options.batch, "steps_a_turn": options.steps, "methods": found}


def _compared(method: str, said: dict[str, list[list[dict[str, Any]]]], batch: int) -> dict[str, Any]:
    times = {
        name: Times(
            [max(own[method]["wall"] for own in turn) for turn in turns],
            [sum(own[method]["cpu"] for own in turn) for turn in turns],
        )
        for name, turns in said.items()
    }
    rows: dict[str, Any] = {}
    for name, turns in said.items():
        rows[name] = row = times[name].rounded()
        row["images_per_second"] = round(batch / row["seconds"], 1)
        for clock, suffix in (("wall", ""), ("cpu", "_cpu")):
            others = [other for other in said if other != name]
            row[f"times_as_fast_as{suffix}"] = {other: ratio(times, name, other, clock) for other in others}
        row["loader_seconds_a_batch"] = round(statistics.median(own[method]["loader"] for t in turns for own in t), 4)
        noted = [waits([own[method]["notes"] for own in turn]) for turn in turns if "notes" in turn[0][method]]
        if noted:
            row["collectives_seconds_a_step"] = {
                what: {part: round(statistics.median(each[what][part] for each in noted), 5) for part in noted[0][what]}
                for what in noted[0]
            }
    return rows


def said_in_a_step(options: argparse.Namespace) -> dict[str, Any]:
    """Collectives and bytes of a step; at a toy's size a narrow ResNet-18 in place of the ResNet-50."""
    toy = ("--toy",) if options.toy else ()
    first, _ = launched(2, ("--methods", METHODS, "--batch", "8", "--noted", "2", "--large", *toy))
    found: dict[str, Any] = {}
    for method in METHODS.split(","):
        kinds = counts(first[method]["notes"])
        found[method] = {
            "weights_bytes": FLOAT * first[method]["weights"],
            "said": kinds,
            "batch_norm_on_gpus": on_gpus({what: kinds[what] for what in (FORWARD, BACKWARD)}),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="speed,said")
    parser.add_argument("--batch", type=int, default=32, help="of all processes together")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--noted", type=int, default=2, help="steps whose collectives are noted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--contestants", type=lambda text: text.split(";"), default=list(CONTESTANTS))
    parser.add_argument("--toy", action="store_true", help="a narrow network: a trial, not a measurement")
    parser.add_argument("--out", type=Path, default=RESULTS / "processes.json")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "command": command(),
        "what": "two processes beside one on the same two cores, and what processes say to each other in a step",
        **machine(PACKAGES),
        "repeats": options.repeats,
        "seeds": {"weights": 0, "views": "the process's number"},
    }
    for part, measure in (("said", said_in_a_step), ("speed", speed)):
        if part in options.parts.split(","):
            report[part] = measure(options)
            write_report(options.out, report)
            sys.stdout.write(json.dumps({part: report[part]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
