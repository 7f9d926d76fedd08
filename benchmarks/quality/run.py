"""What ten minutes on two cores teach a small network: Coterie's presets beside lightly's SwAV and SMoG.

    python benchmarks/quality/run.py [--only coterie-swav,lightly-swav] [--seed 0] [--split test] [--minutes 10] [--cores 2]
    python benchmarks/quality/run.py --table

Each row is trained in a process of its own, for as many whole epochs as a rehearsal says that the budget pays for, and
leaves one JSON file in ``results/quality``; a row that is there is not run again. ``--minutes 20 --cores 1`` is as many
core minutes. Whatever is chosen is chosen with ``--split tuning``, which asks 5,000 other training images.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from prepare import DATA, prepare

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "quality"
ROWS = (
    "raw-pixels", "untrained",
    "coterie-swav", "coterie-smog", "coterie-deepcluster_v2", "coterie-sela_v2", "coterie-simclr", "coterie-resa",
    "lightly-swav", "lightly-smog-transposed", "lightly-smog-mended",
)  # fmt: skip


def main() -> None:
    options = arguments()
    if options.table:
        sys.stdout.write(table(options.results, options.split))
        return
    prepare(options.data)
    os.sched_setaffinity(0, options.cpus)
    for seed in options.seed:
        for contestant in options.only:
            out = options.results / name_of(contestant, seed, options)
            if out.exists():
                sys.stdout.write(f"{out.name} is there\n")
            else:
                row(contestant, seed, out, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ROWS), help="rows, commas between")
    parser.add_argument("--seed", type=lambda text: [int(each) for each in text.split(",")], default=[0])
    parser.add_argument("--split", choices=("tuning", "test"), default="test")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument(
        "--cpus", type=lambda text: {int(each) for each in text.split(",")}, help="which cores; else the first"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu", help="cpu: for cores that others use too")
    parser.add_argument("--workers", type=int, help="loader processes; else one fewer than cores")
    parser.add_argument("--epochs", type=int, help="no rehearsal: so many (the row is marked)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="Coterie rows; wants --tag")
    parser.add_argument("--tag", default="", help="part of the row's name")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is there")
    options = parser.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    options.cpus = options.cpus or set(allowed[: options.cores])
    if len(options.cpus) != options.cores or not options.cpus <= set(allowed):
        parser.error(f"{options.cores} cores are wanted, of {allowed}")
    if options.set and not options.tag:
        parser.error("--set makes another row: name it with --tag")
    options.workers = options.cores - 1 if options.workers is None else options.workers
    return options


def name_of(contestant: str, seed: int, options: argparse.Namespace) -> str:
    tag = f"-{options.tag}" if options.tag else ""
    return f"{contestant}{tag}_{options.split}_{options.minutes:g}min_{options.cores}core_seed{seed}.json"


def row(contestant: str, seed: int, out: Path, options: argparse.Namespace) -> None:
    threads = str(options.cores)
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(HERE / "row.py"), "--contestant", contestant, "--split", options.split, "--tag", options.tag,
            "--clock", options.clock, "--seed", str(seed), "--minutes", str(options.minutes), "--cores", threads,
            "--workers", str(options.workers), "--data", str(options.data), "--out", str(out), "--folder", f"{folder}/run",
        ]  # fmt: skip
        command += [part for each in options.set for part in ("--set", each)]
        command += ["--epochs", str(options.epochs)] if options.epochs else []
        if subprocess.run(command, env=environment, check=False).returncode:
            sys.stdout.write(f"{out.name} failed\n")


def table(results: Path, split: str) -> str:
    """The rows in markdown, best first."""
    found = [json.loads(path.read_text()) for path in results.glob(f"*_{split}_*.json")]
    head = (
        "row", "seed", "kNN 20", "kNN 200", "rank", "groups used", "epochs", "images/s", "views/s", "minutes x cores",
        "share of budget", "remarks",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for report in sorted(found, key=lambda each: -each["figures"]["knn20"]):
        figures, training = report["figures"], report.get("training", {})
        cells = (
            report["contestant"] + (f" {report['tag']}" if report["tag"] else ""),
            report["seed"],
            figures["knn20"],
            figures["knn200"],
            figures["effective_rank"],
            figures.get("groups_used", "-") or "-",
            training.get("epochs", "-"),
            training.get("images_per_second", "-"),
            training.get("views_per_second", "-"),
            f"{report['minutes']:g} x {report['cores']}" if training else "-",
            training.get("share_of_budget", "-"),
            training.get("failed") or ("" if training.get("within_budget", True) else "outside the budget"),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
