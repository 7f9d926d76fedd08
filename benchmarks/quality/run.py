"""What twenty minutes of one core teach a small network: Coterie's presets, alignment without groups, and lightly's methods.

    python benchmarks/quality/run.py [--only coterie-swav,lightly-swav] [--seed 0,1,2] [--data cifar10] [--split test]
                                     [--minutes 20] [--cpus 0] [--set PATH=VALUE --tag NAME]
    python benchmarks/quality/run.py --table [--data cifar10] [--split test]

Each row is trained in a process of its own, for as many whole epochs as a rehearsal says that the budget pays for, and
leaves one JSON file in ``results/quality``; a row that is there is not run again, and one that is interrupted leaves
nothing. Whatever is chosen is chosen with ``--split tuning``, which asks other images of the training half.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import table
from prepare import BUILD, SETS, prepare

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "quality"
ROWS = (
    "raw-pixels", "untrained",
    "coterie-swav", "coterie-smog", "coterie-deepcluster_v2", "coterie-sela_v2", "coterie-resa",
    "coterie-simclr", "coterie-simclr-unregularized", "coterie-alignment",
    "lightly-swav", "lightly-smog-mended", "lightly-simclr",
)  # fmt: skip
PHOTOGRAPHS = ("raw-pixels", "untrained", "public-weights", "coterie-swav", "coterie-smog", "coterie-simclr")
"""The rows by default where images are not CIFAR's: lightly documents no recipe for them."""


def main() -> int:
    options = arguments()
    if options.table:
        sys.stdout.write(table.tables(table.read(options.results), options.data, options.split))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the row too, and its folder
    prepare(options.data, options.images, options.toy)
    os.sched_setaffinity(0, options.cpus)
    failed = [
        contestant
        for seed in options.seed
        for contestant in options.only
        if not row(contestant, seed, options.results / name_of(contestant, seed, options), options)
    ]
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=lambda text: text.split(","), help="rows, commas between")
    parser.add_argument("--seed", type=lambda text: [int(each) for each in text.split(",")], default=[0])
    parser.add_argument("--data", choices=SETS, default="cifar10")
    parser.add_argument("--split", choices=("tuning", "test"), default="test")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument(
        "--cpus", type=lambda text: {int(each) for each in text.split(",")}, help="which cores; else the first"
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu", help="cpu: for cores that others use too")
    parser.add_argument("--workers", type=int, help="loader processes; else one fewer than cores")
    parser.add_argument("--epochs", type=int, help="no rehearsal: so many (the row is marked); wants --tag")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="Coterie rows; wants --tag")
    parser.add_argument("--tag", default="", help="part of the row's name")
    parser.add_argument("--build", type=Path, default=BUILD, help="where prepare.py writes")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is there")
    parser.add_argument("--toy", action="store_true", help="one epoch of a few images, under build/quality/toy")
    options = parser.parse_args()
    if options.toy:
        options.build, options.epochs, options.tag = options.build / "toy", options.epochs or 1, options.tag or "toy"
        options.results = options.build / "results" if options.results == RESULTS else options.results
    allowed = sorted(os.sched_getaffinity(0))
    options.cpus = options.cpus or set(allowed[: options.cores])
    if len(options.cpus) != options.cores or not options.cpus <= set(allowed):
        parser.error(f"{options.cores} cores are wanted, of {allowed}")
    if (options.set or options.epochs) and not options.tag:
        parser.error("--set and --epochs make another row: name it with --tag")
    if not options.table and options.split not in SETS[options.data]:
        parser.error(f"{options.data} has no {options.split} split: give --split {' or '.join(SETS[options.data])}")
    options.only = options.only or list(ROWS if options.data == "cifar10" else PHOTOGRAPHS)
    if options.data != "cifar10" and any(each.startswith("lightly") for each in options.only):
        parser.error("lightly documents its recipes for CIFAR-10: leave its rows out, or --data")
    options.images = options.build / options.data
    options.workers = options.cores - 1 if options.workers is None else options.workers
    return options


def name_of(contestant: str, seed: int, options: argparse.Namespace) -> str:
    """The name of a row's file, without cores and clock where they are as by default, nor a budget where nothing is trained."""
    tag = f"-{options.tag}" if options.tag else ""
    if contestant in table.UNTRAINED:
        return f"{contestant}{tag}_{options.data}_{options.split}_seed{seed}.json"
    unusual = (f"_{options.cores}core" if options.cores != 1 else "") + ("_wall" if options.clock == "wall" else "")
    return f"{contestant}{tag}_{options.data}_{options.split}_{options.minutes:g}min{unusual}_seed{seed}.json"


def row(contestant: str, seed: int, out: Path, options: argparse.Namespace) -> bool:
    """Run a row in a process of its own, unless it is there; whether it is there in the end."""
    if out.exists():
        known = json.loads(out.read_text())
        same = (known.get("set"), known.get("epochs_given")) == (options.set, options.epochs)
        sys.stdout.write(f"{out.name} is there{'' if same else ', WITH OTHER SETTINGS: choose another --tag'}\n")
        return same
    threads = str(options.cores)
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, str(HERE / "row.py"), "--contestant", contestant, "--data", options.data, "--split", options.split,
            "--tag", options.tag, "--clock", options.clock, "--seed", str(seed), "--minutes", str(options.minutes),
            "--cores", threads, "--workers", str(options.workers), "--images", str(options.images), "--out", str(out),
            "--folder", f"{folder}/run", "--command", table.command(sys.argv),
        ]  # fmt: skip
        command += [part for each in options.set for part in ("--set", each)]
        command += ["--epochs", str(options.epochs)] if options.epochs else []
        failed = subprocess.run(command, env=environment, check=False).returncode
    if failed:
        sys.stdout.write(f"{out.name} failed\n")
    return not failed


if __name__ == "__main__":
    sys.exit(main())
