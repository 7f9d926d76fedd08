"""Small jobs of the runs: the tests, a profile, a plan beside its run, a split of the training images.

python benchmarks/gpu/checks.py tests|profile|plan|split ... --out FILE
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET  # of our own tests
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from alternating import command, machine, write_report

ROOT = Path(__file__).parents[2]
PACKAGES = ("coterie", "torch", "torchvision", "timm", "numpy")
TUNING_PER_CLASS, SPLIT_SEED = 500, 20240


def tests(options: argparse.Namespace) -> dict[str, Any]:
    """The project's tests, a call of pytest for each of the arguments, which are split at blanks."""
    found = {}
    for given in options.arguments:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "junit.xml"
            run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={file}", *given.split()]
            ended = subprocess.run(run, cwd=ROOT, check=False, capture_output=True, text=True)
            suite = ET.parse(file).getroot().find("testsuite") if file.exists() else None
        counts = (
            {} if suite is None else {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        )
        found[given] = {"status": ended.returncode, **counts, "end": ended.stdout.splitlines()[-40:]}
        sys.stdout.write(ended.stdout[-6000:])
    return {"passed": all(each["status"] == 0 for each in found.values()), "calls": found}


def profile(options: argparse.Namespace) -> dict[str, Any]:
    """Where the time of ``coterie profile METHOD DATA`` goes."""

    from coterie import api

    method, *data = options.arguments
    found = api.profile(method, data, settings=options.set, seconds=options.seconds)
    lines = str(found).splitlines()
    sys.stdout.write("\n".join(lines) + "\n")
    return {"lines": lines, "profile": json.loads(json.dumps(asdict(found), default=str))}


def plan(options: argparse.Namespace) -> dict[str, Any]:
    """What ``coterie plan`` says beside the run that follows it, in time and in memory on the device."""
    import torch

    import coterie

    method, *data = options.arguments
    given: dict[str, Any] = {"epochs": options.epochs, "batch_size": options.batch, "settings": options.set}
    estimate = coterie.plan(method, data, **given).estimate
    said = {"seconds": estimate.seconds, "device_mib": round(estimate.device_memory / 2**20, 1)}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        coterie.pretrain(method, data, out=Path(folder) / "run", **given)
    allocated = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    real = {"seconds": time.perf_counter() - began, "device_mib": round(allocated / 2**20, 1)}
    ratios = {f"{key}_ratio": round(said[key] / real[key], 3) if real[key] else None for key in real}
    sys.stdout.write(f"{method}: {ratios}\n")
    return ratios | {"said": said, "real": real}


def split(options: argparse.Namespace) -> dict[str, Any]:
    """Two files beside the training images: ``tuning.parquet``, 500 of each class, and the others, ``learning.parquet``."""
    import numpy as np
    import pyarrow.parquet as pq

    folder = Path(options.arguments[0])
    images = pq.read_table(folder / "train.parquet")
    labels = np.asarray(images["label"].to_pylist())
    generator = np.random.default_rng(SPLIT_SEED)
    most = min(TUNING_PER_CLASS, len(labels) // len(np.unique(labels)) // 4)
    tuning = [generator.permutation(np.flatnonzero(labels == each))[:most] for each in np.unique(labels)]
    asked = np.sort(np.concatenate(tuning))
    parts = {"tuning": asked, "learning": np.setdiff1d(np.arange(len(labels)), asked)}
    for name, rows in parts.items():
        pq.write_table(images.take(rows), folder / f"{name}.parquet")
    return {name: len(rows) for name, rows in parts.items()}


JOBS = {"tests": tests, "profile": profile, "plan": plan, "split": split}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=JOBS)
    parser.add_argument(
        "arguments", nargs="*", help="of tests: calls of pytest; else METHOD DATA; of split: the folder"
    )
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    found = JOBS[options.job](options)
    import torch  # after the job: what it starts shall find the device free

    device = "cuda" if torch.cuda.is_available() else "cpu"
    write_report(options.out, {"command": command(), **machine(PACKAGES, device), **found})
    if not found.get("passed", True):
        sys.exit("some tests failed")


if __name__ == "__main__":
    main()
