"""The runs that are owed on a GPU: one command works through the list from the top, and the same command again goes on.

    python benchmarks/gpu/run.py --carried .carry --minutes 9 [--copy FOLDER]
    python benchmarks/gpu/run.py --list
    python benchmarks/gpu/run.py cifar seeds [--minutes 60]
    python benchmarks/gpu/run.py --toy

Without names it does ``runs.LEASE``. Whatever has a result in ``--out``, one file for all, is not done again; a job starts only
if the minutes that it is expected to take are left; those that were tried before and have no result come last. The result of
each is in ``--out``, and in ``--copy``, as soon as it ends. A job that takes more than twice its time and a minute, or is at
work when the time is over, is asked to stop (SIGTERM: a training saves, and goes on in the next call from its checkpoint in
``--work``), early enough for the command to end within ``--minutes``. The status is 3 if something is left, 1 if a job failed.

``--carried`` is the folder that ``prepare.py`` made: its wheels are installed beside the work, if they are not yet, and its
data are used. Without it, Coterie is installed and the data are in ``$COTERIE_SHARED``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

BEGAN = time.monotonic()
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

from alternating import RESULTS, SHARED, write_report
from runs import LEASE, RUNS, Job, Where

GRACE_SECONDS = 20
"""For a job to save and leave."""
UNFINISHED = 3


def environment(options: argparse.Namespace) -> dict[str, str]:
    """What the jobs are started with: the carried packages behind the project's own sources."""
    found = os.environ | {"COTERIE_SHARED": str(options.data), "PYTHONUNBUFFERED": "1"}
    if options.carried is None:
        return found
    site = options.work / "site"
    wheels = sorted(map(str, (options.carried / "wheels").glob("*.whl")))
    if wheels and not site.exists():
        unfinished = options.work / "site.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, f"--target={unfinished}", *wheels], check=True)
        unfinished.rename(site)
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(site), *filter(None, [found.get("PYTHONPATH")])])
    return found


def has_lightly(options: argparse.Namespace) -> bool:
    """Whether the jobs that stand beside lightly can be done."""
    carried = options.carried is not None and any((options.carried / "wheels").glob("lightly-*.whl"))
    return carried or find_spec("lightly") is not None


class Results:
    """The one file of all results, and where each job leaves its own until it is in there."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.file, self.copy, self.jobs = options.out, options.copy, options.work / "jobs"
        self.jobs.mkdir(parents=True, exist_ok=True)
        known: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.found: dict[str, Any] = known.get("results", {})
        self.without: dict[str, list[str]] = known.get("without_result", {})
        for path in self.jobs.glob("*.json"):  # of an earlier call on this machine
            self.found[path.stem] = json.loads(path.read_text())

    def take(self, job: Job, log: Path) -> bool:
        """Take over what the job wrote, or the end of its log; whether there is a result."""
        self.without.pop(job.name, None)
        if (self.jobs / f"{job.name}.json").exists():
            self.found[job.name] = json.loads((self.jobs / f"{job.name}.json").read_text())
        else:
            self.without[job.name] = log.read_text().splitlines()[-40:]
        for path in filter(None, (self.file, self.copy and self.copy / self.file.name)):
            write_report(path, {"results": self.found, "without_result": self.without})
        return job.name in self.found


def done(job: Job, results: Results, variables: dict[str, str], deadline: float) -> str:
    """Do a job if it is not done and there is time: what became of it."""
    if job.name in results.found:
        return "there"
    left = deadline - time.monotonic()
    if 60 * job.minutes > left:
        return f"left for the next call: {job.minutes:g} minutes, of {max(left, 0) / 60:.1f}"
    log = results.jobs / f"{job.name}.log"
    with log.open("w") as file, subprocess.Popen(
        [*job.command, "--out", str(results.jobs / f"{job.name}.json")],
        env=variables, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        stopped = False
        try:
            process.wait(min(left, 2 * 60 * job.minutes + 60))
        except subprocess.TimeoutExpired:
            stopped = True
        finally:
            stop(process)
    if results.take(job, log):
        return "done"
    if stopped:
        return "stopped"
    sys.stdout.write("".join(log.read_text().splitlines(keepends=True)[-15:]))
    return "failed"


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a job that is at work to save and leave, and end it if it does not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [run.name for run in RUNS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; else those for one lease")
    parser.add_argument("--list", action="store_true", help="say what each decides, and the minutes that it takes")
    parser.add_argument("--toy", action="store_true", help="seconds each, on the CPU, with images of its own: a trial")
    parser.add_argument("--device", help="else cuda; cpu with --toy")
    parser.add_argument("--carried", type=Path, help="the folder of prepare.py")
    parser.add_argument("--out", type=Path, help="the file of all results; else benchmarks/results/gpu.json")
    parser.add_argument("--copy", type=Path, help="a folder where the file of results shall be, too")
    parser.add_argument("--work", type=Path, help="of checkpoints; else build/gpu")
    parser.add_argument("--minutes", type=float, default=9.0)
    options = parser.parse_args()
    unknown = sorted({*options.names} - {*known})
    if unknown:
        parser.error(f"{unknown[0]} is no run: choose of {', '.join(known)}")
    options.device = options.device or ("cpu" if options.toy else "cuda")
    options.work = (options.work or ROOT / "build" / ("gpu_toy" if options.toy else "gpu")).absolute()
    options.out = (options.out or (options.work if options.toy else RESULTS) / "gpu.json").absolute()
    options.carried = options.carried and options.carried.absolute()
    options.data = options.carried or (options.work / "toy" if options.toy else SHARED.absolute())
    return options


def main() -> None:
    options = arguments()
    at = Where(options.data, options.work, options.device, options.toy)
    if options.list:
        for run in RUNS:
            minutes = sum(job.minutes for job in run.jobs(at))
            sys.stdout.write(f"{run.name:14s} {minutes:4.1f} min  {run.decides}\n")
        return
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.data.exists() and options.toy:
        from prepare import toy_data

        toy_data(options.data)
    deadline = BEGAN + 60 * options.minutes - GRACE_SECONDS
    results, variables, lightly = Results(options), environment(options), has_lightly(options)
    wanted = options.names or [run.name for run in LEASE]
    jobs = [job for run in RUNS if run.name in wanted for job in run.jobs(at)]
    said = {}
    for job in sorted(jobs, key=lambda job: job.name in results.without):
        began = time.monotonic()
        state = "left out: no lightly" if job.lightly and not lightly else done(job, results, variables, deadline)
        said[job.name] = state
        sys.stdout.write(f"{job.name}: {state} ({time.monotonic() - began:.0f} s)\n")
        sys.stdout.flush()
    if "failed" in said.values():
        sys.exit(1)
    if any(state.startswith(("left for", "stopped")) for state in said.values()):
        sys.stdout.write("the same command goes on from here\n")
        sys.exit(UNFINISHED)


if __name__ == "__main__":
    main()
