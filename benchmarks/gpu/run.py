"""The runs that are owed on a GPU, by name; every one also at toy size on a CPU.

    python benchmarks/gpu/run.py --list
    python benchmarks/gpu/run.py step end_to_end [--carried .carry] [--out FOLDER] [--minutes 9]
    python benchmarks/gpu/run.py cifar --toy

Each job of a run leaves one JSON file in ``--out``; a job whose file is there is not done again, so the same command goes on
after an interruption, and a training goes on from its checkpoint in ``--work``. When ``--minutes`` are over the job at work
is asked to stop (SIGTERM: ours saves and leaves), what is left is said, and the status is 3. With ``setsid`` and
``--minutes 25`` it works on in the background while somebody looks at the files.

``--carried`` is the folder that ``prepare.py`` made: its wheels are installed beside the work, if they are not yet, and its
data are used. Without it, Coterie is installed and the data are in ``$COTERIE_SHARED``.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent)]

from alternating import RESULTS, SHARED
from prepare import toy_data
from runs import RUNS, Job, Where

GRACE_SECONDS = 60
UNFINISHED = 3


def environment(options: argparse.Namespace) -> dict[str, str]:
    """What the jobs are started with: the carried packages behind the project's own sources."""
    found = os.environ | {"COTERIE_SHARED": str(options.data), "PYTHONUNBUFFERED": "1"}
    if options.carried is None:
        return found
    site = options.work / "site"
    if not site.exists():
        unfinished = options.work / "site.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        wheels = sorted(map(str, (options.carried / "wheels").glob("*.whl")))
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            f"--target={unfinished}",
        ]
        subprocess.run([*install, *wheels], check=True)
        unfinished.rename(site)
    found["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(site), *filter(None, [found.get("PYTHONPATH")])])
    return found


def has_lightly(options: argparse.Namespace) -> bool:
    """Whether the jobs that stand beside lightly can be done."""
    carried = options.carried is not None and any((options.carried / "wheels").glob("lightly-*.whl"))
    return carried or find_spec("lightly") is not None


def done(job: Job, options: argparse.Namespace, variables: dict[str, str], deadline: float) -> str:
    """Do a job unless it is done: ``there``, ``done``, ``failed`` or ``unfinished``."""
    out = options.out / f"{job.name}.json"
    if out.exists():
        return "there"
    if time.monotonic() >= deadline:
        return "unfinished"
    log = options.out / f"{job.name}.log"
    with log.open("a") as file, subprocess.Popen(
        [*job.command, "--out", str(out)], env=variables, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
    ) as process:  # fmt: skip
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            stop(process)
            return "done" if out.exists() else "unfinished"
        except BaseException:
            stop(process)
            raise
    if process.returncode == 0 and out.exists():
        log.unlink()
        return "done"
    sys.stdout.write("".join(log.read_text().splitlines(keepends=True)[-15:]))
    return "failed"


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a job to save and leave, and end it if it does not."""
    process.terminate()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [run.name for run in RUNS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all in this order without")
    parser.add_argument("--list", action="store_true", help="say what each decides")
    parser.add_argument("--toy", action="store_true", help="seconds each, on the CPU, with images of its own: a trial")
    parser.add_argument("--device", help="else cuda; cpu with --toy")
    parser.add_argument("--carried", type=Path, help="the folder of prepare.py")
    parser.add_argument("--out", type=Path, help="of the results; else benchmarks/results/gpu")
    parser.add_argument("--work", type=Path, help="of checkpoints; else build/gpu")
    parser.add_argument("--minutes", type=float, default=9.0)
    options = parser.parse_args()
    unknown = sorted({*options.names} - {*known})
    if unknown:
        parser.error(f"{unknown[0]} is no run: choose of {', '.join(known)}")
    options.device = options.device or ("cpu" if options.toy else "cuda")
    toys = "gpu_toy" if options.toy else "gpu"
    options.work = (options.work or ROOT / "build" / toys).absolute()
    options.out = (options.out or (options.work / "results" if options.toy else RESULTS / "gpu")).absolute()
    options.carried = options.carried and options.carried.absolute()
    options.data = options.work / "toy" if options.toy else options.carried or SHARED.absolute()
    return options


def main() -> None:
    options = arguments()
    if options.list:
        sys.stdout.write("".join(f"{run.name:14s} {run.decides}\n" for run in RUNS))
        return
    for folder in (options.work, options.out):
        folder.mkdir(parents=True, exist_ok=True)
    if options.toy and not options.data.exists():
        unfinished = options.work / "toy.unfinished"
        toy_data(unfinished)
        unfinished.rename(options.data)
    deadline = time.monotonic() + 60 * options.minutes
    variables, lightly = environment(options), has_lightly(options)
    at = Where(options.data, options.work, options.device, options.toy)
    said = {}
    for run in RUNS:
        for job in run.jobs(at) if run.name in (options.names or [each.name for each in RUNS]) else ():
            began = time.monotonic()
            state = done(job, options, variables, deadline) if lightly or not job.lightly else "left out: no lightly"
            said[job.name] = state
            sys.stdout.write(f"{run.name}: {job.name}: {state} ({time.monotonic() - began:.0f} s)\n")
            sys.stdout.flush()
    if "failed" in said.values():
        sys.exit(1)
    if "unfinished" in said.values():
        sys.stdout.write("the same command goes on from here\n")
        sys.exit(UNFINISHED)


if __name__ == "__main__":
    main()
