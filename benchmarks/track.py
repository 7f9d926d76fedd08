"""Every benchmark at toy size: its ratios beside those last recorded on the same processor, in a few minutes.

    python benchmarks/track.py [--only step loader] [--out benchmarks/results/track.json]

It shows where a change made something slower before anybody measures in earnest. Images are made up and sizes tiny, so no
number here is the benchmark's own result. Only ratios are compared, of CPU times on one thread where there are any, and never
seconds. A ratio that differs from the last one by more than its tolerance is marked ``worse`` or ``better``; tolerances are
wider than what runs of the same code differed by on a busy machine. Measure again before you believe a mark. A benchmark
that fails is a row that says why, and the status is then 1. What was found is added to ``--out``.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(HERE / "gpu")]

from alternating import RESULTS, commit, model, write_report

SECONDS = 600
"""After which a benchmark at toy size has failed."""


@dataclass(frozen=True)
class Tracked:
    """A benchmark at toy size.

    Attributes:
        command: the script with its options; ``--out`` is added.
        ratios: by name, where they are in its JSON: keys, slashes between. ``A over B`` is a quotient; a list gives its median.
        tolerance: percent within which runs of the same code are alike.
        less: whether less is better.
    """

    command: str
    ratios: Mapping[str, str]
    tolerance: int = 20
    less: bool = False

    def words(self) -> list[str]:
        """The script and its options."""
        return shlex.split(self.command)


PHOTOS, CIFAR = "cases/photos, 2x224 + 6x96/contestants", "cases/CIFAR-10, 2x32 + 4x18/contestants"
PILLOW, DEVICE = "times_torchvision_on_pillow", "coterie, color left to the device"
STEP = "cases/{0}, toy, 2x16 + 2x8/contestants/coterie, float32/times_as_fast_as_cpu/lightly, float32"
PEAK = "cases/swav, toy, 2x16 + 2x8/contestants/coterie, float32/peak_over/lightly, float32"
TWO = "speed/methods/{0}/two processes/times_as_fast_as_cpu/one process, 1 thread"
EMBEDDED = "{0}/contestants/coterie, {1}/times_as_fast_as_script_cpu"
BYTES = "source/{0}/bytes_per_image_with_workers"
TABLE = {
    "loader": Tracked(
        "loader.py --repeats 3",
        {
            "photos": f"{PHOTOS}/coterie/{PILLOW}",
            "photos, color on device": f"{PHOTOS}/{DEVICE}/{PILLOW}",
            "cifar": f"{CIFAR}/coterie/{PILLOW}",
            "cifar, color on device": f"{CIFAR}/{DEVICE}/{PILLOW}",
        },
    ),
    "step": Tracked(
        "step.py --toy --precision float32 --repeats 9", {"swav": STEP.format("swav"), "smog": STEP.format("smog")}
    ),
    "step_memory": Tracked("step.py --memory --toy --precision float32 --case swav", {"swav": PEAK}, 10, less=True),
    "grouping": Tracked(
        "grouping.py --toy --groups 300 --batch 256 --network-batch 8 --repeats 7",
        {"swav": "methods/swav/share_of_grouping", "smog": "methods/smog/share_of_grouping"},
        less=True,
    ),
    "end_to_end": Tracked(
        "end_to_end.py --toy --images 96 --workers 1 --steps 6 --repeats 3",
        {"coterie over lightly": "contestants/coterie/cpu_seconds over contestants/lightly, float32/cpu_seconds"},
        less=True,
    ),
    "processes": Tracked(
        'processes.py --toy --parts speed --repeats 1 --steps 8 --batch 8 --contestants "one process, 1 thread;two processes"',
        {"swav": TWO.format("swav"), "smog": TWO.format("smog")},
        30,
    ),
    "saving": Tracked(
        "saving.py --toy --rows 50000 --saves 1 --resumes 1",
        {
            "memory while saving": "saving/more_while_saving_mib over saving/state_mib",
            "memory while resuming": "resuming/0/more_while_resuming_mib over saving/state_mib",
        },
        10,
        less=True,
    ),
    "export": Tracked(
        "export.py --networks test_resnet --size 64 --formats safetensors torch_export --repeats 3",
        {"torch.export over eager": "networks/test_resnet/times_as_fast_as_eager_cpu/torch_export"},
        30,
    ),
    "loader_memory": Tracked(
        "loader_memory.py --images 400000 --workers 2 --kinds coterie,python_list",
        {"over a list": f"{BYTES.format('coterie')} over {BYTES.format('python_list')}"},
        30,
        less=True,
    ),
    "plan": Tracked("plan.py --only toy --clock cpu", {"first line": "configurations/toy/first_line_ratio"}, 30),
    "linear_probe": Tracked(
        "linear_probe.py --rows 4000 --width 128 --repeats 5 --threads 1",
        {"scikit-learn": "contestants/coterie linear/times_as_fast_as_default_cpu"},
    ),
    "knn_probe": Tracked(
        "knn_probe.py --rows 10000 --width 128 --queries 1000 --repeats 5 --threads 1",
        {
            "cosine": "contestants/coterie knn/times_as_fast_as_cosine_cpu",
            "euclidean": "contestants/coterie knn/times_as_fast_as_euclidean_cpu",
        },
    ),
    "opening": Tracked(
        "opening.py --files 5000 --repeats 11", {"over a bare walk": "rows/opening/times_as_long_cpu"}, 10, less=True
    ),
    "index": Tracked(
        "index.py --millions 0.1 --workers 1 --many 4",
        {"ustar": "headers/ustar/ratios", "pax": "headers/pax_with_times/ratios"},
    ),
    "progress": Tracked(
        "progress.py --steps 8 --batch 8",
        {"progress": "progress_percent", "callbacks": "callbacks_percent"},
        50,
        less=True,
    ),
    "embedding": Tracked(
        "embedding.py --toy",
        {
            "photos, as it comes": f"{EMBEDDED.format('photographs, ResNet-50, 224 pixels', 'as it comes')}",
            "cifar, float32": f"{EMBEDDED.format('CIFAR-10, ResNet-18, 64 pixels', 'float32')}",
        },
        30,
    ),
    "predict": Tracked(
        "predict.py --toy",
        {
            "over embed": "CIFAR-10, ResNet-18, 32 pixels/contestants/linear, 10 classes/times_as_fast_as_embed_cpu",
        },
        20,
    ),
    "startup": Tracked(
        "startup.py --toy --images 60 --repeats 1",
        {each: f"contestants/{each}/times_torch_timm" for each in ("pretrain", "evaluate", "report")},
        less=True,
    ),
}
EXCEPTIONS = {
    "classifier": "compares accuracies: its time is one figure that hangs on the processor",
    "corpus": "judges the pixels of whatever folder it is given",
    "decoding": "compares a GPU's decoder with the processor's: nothing to compare on a CPU",
    "detection": "judges detectors by boxes, and measures no time",
    "finetune": "compares accuracies of two kinds of classifiers, and takes minutes",
    "equal_bits": "says whether two checkouts differ, and measures nothing",
    "segmentation": "judges segmenters by masks; its times are of fixed numbers of steps",
    "start_from": "judges features by their labels, and measures no time",
    "stops": "says whether runs survive random stops, and measures nothing",
    "processes_worker": "a process of processes.py",
    "threads": "by the clock, on several threads: only on a machine that does nothing else",
    "track": "this",
}
"""Commands of this folder that are not in the table, and why."""


def found_at(report: Any, where: str) -> float:
    """The number at a place of a result, as ``Tracked.ratios`` says it."""
    above, _, below = where.partition(" over ")
    if below:
        return found_at(report, above) / found_at(report, below)
    for key in above.split("/"):
        report = report[int(key)] if isinstance(report, list) else report[key]
    return float(statistics.median(report)) if isinstance(report, list) else float(report)


def measured(each: Tracked, folder: Path) -> dict[str, float] | str:
    """Its ratios by name, or in one line why there are none."""
    script, *options = each.words()
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    variables = os.environ | {
        "COTERIE_SHARED": str(folder / "toy"), "COTERIE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ended = subprocess.run(
            [sys.executable, str(HERE / script), *options, "--out", str(out)],
            env=variables, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not finished after {SECONDS} seconds"
    if ended.returncode:
        said = (ended.stderr.strip() or ended.stdout.strip()).splitlines()
        return f"status {ended.returncode}: {said[-1] if said else 'no word'}"
    report = json.loads(out.read_text())
    try:
        return {name: round(found_at(report, where), 4) for name, where in each.ratios.items()}
    except (KeyError, IndexError, TypeError) as error:
        return f"its result has no {error}"


def last(records: Iterable[dict[str, Any]], benchmark: str, name: str) -> float | None:
    """The ratio that was recorded last."""
    values = [record["ratios"].get(benchmark, {}).get(name) for record in records]
    return next((value for value in reversed(values) if value is not None), None)


def row(each: Tracked, benchmark: str, name: str, now: float, before: float | None) -> str:
    """A line of the table."""
    line = f"{benchmark:14s} {name:24s} {now:9.3f}"
    if not before:
        return f"{line} {'-':>9s}"
    change = 100 * (now / before - 1)
    mark = ("worse" if (change > 0) == each.less else "better") if abs(change) > each.tolerance else ""
    return f"{line} {before:9.3f} {change:+8.1f} %  {f'of {each.tolerance} %':8s} {mark}".rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TABLE, metavar="NAME", help=f"of {', '.join(TABLE)}")
    parser.add_argument("--out", type=Path, default=RESULTS / "track.json")
    options = parser.parse_args()
    known: dict[str, list[dict[str, Any]]] = json.loads(options.out.read_text()) if options.out.exists() else {}
    records = known.setdefault(model(), [])
    ratios: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    sys.stdout.write(f"{'benchmark':14s} {'ratio':24s} {'now':>9s} {'last':>9s} {'change':>10s}\n")
    with tempfile.TemporaryDirectory() as folder:
        from prepare import toy_data

        toy_data(Path(folder) / "toy")
        for benchmark in options.only or TABLE:
            each = TABLE[benchmark]
            found = measured(each, Path(folder))
            if isinstance(found, str):
                failed[benchmark] = found
                sys.stdout.write(f"{benchmark:14s} failed: {found}\n")
            else:
                ratios[benchmark] = found
                for name, now in found.items():
                    sys.stdout.write(f"{row(each, benchmark, name, now, last(records, benchmark, name))}\n")
            sys.stdout.flush()
    if ratios:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = {"date": now, "version": version("coterie"), "commit": commit(), "torch": version("torch")}
        records.append(made | {"ratios": ratios})
        write_report(options.out, known)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
