"""Stops a tiny run at random moments, by signals and kill -9, alone, with loader workers and under torchrun.

    python benchmarks/stops.py [--stops 60] [--torchrun 12] [--seed N] [--folder DIR]

DeepCluster-v2 on 48 images for some epochs, with everything that a run does: statistics, filling the memory, k-means and
labels, steps, label-free figures, probes, the report, saves. Each of them takes a little longer than it needs, so that random
moments meet them all. After each stop the same command goes on, until the run is finished; its weights, log and checkpoint
must be those of an undisturbed run, bit for bit, and the next one begins. A signal goes to the whole process group, as from a
terminal or a scheduler (under torchrun: to torchrun and its processes, or to torchrun alone). It must end every process within
10 seconds plus a write, with one line that names it, the status 128 plus its number, and a checkpoint of the step that the line
says. A kill takes the run, or one of torchrun's processes.
"""

import argparse
import importlib
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from alternating import RESULTS, command, limit_threads, machine, write_report

limit_threads()
sys.path.insert(0, str(Path(__file__).parents[1]))

PACKAGES = ("coterie", "torch")
EPOCHS, IMAGES = 6, 48
SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 backbone.width=0.125 groups.counts=[8,8] "
    "refresh.every_epochs=1 run.threads=1 run.log_steps=3 run.snapshots=3 probe.every_epochs=2 run.save_steps=2"
).split()
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
HANDLED = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
PHASES = {
    "statistics": "coterie.data.statistics.measure",
    "filling": "coterie.grouping.objective.Objective.fill",
    "k-means": "coterie.grouping.groups.spherical_kmeans",
    "labels": "coterie.grouping.objective.label_rows",
    "step": "coterie.training.loop.set_learning_rate",
    "figures": "coterie.evaluation.callbacks.LabelFreeCallback.on_due",
    "probe": "coterie.evaluation.callbacks.ProbeCallback.on_due",
    "report": "coterie.reporting.callback.report_run",
    "save": "coterie.training.checkpoint_io.save",
}
SLOWER = {"step": 0.05, "save": 0.15}
LIMIT_SECONDS = 10.0


def slowed(folder: Path) -> None:
    """From now on every phase takes longer, and writes its name to a file of this process."""
    number = os.environ.get("RANK", "0")
    for name, path in PHASES.items():
        place, function = path.rsplit(".", 1)
        try:
            owner = importlib.import_module(place)
        except ModuleNotFoundError:  # a method
            owner = getattr(importlib.import_module(place.rpartition(".")[0]), place.rpartition(".")[2])
        setattr(owner, function, _slow(name, getattr(owner, function), folder / number))


def _slow(name: str, function: Any, file: Path) -> Any:
    mark = file.with_suffix(".save" if name == "save" else ".phase")  # a thread saves while the rest goes on

    def wrapped(*values: Any, **named: Any) -> Any:
        mark.write_text(name)
        time.sleep(SLOWER.get(name, 0.3))
        found = function(*values, **named)
        mark.write_text("")
        return found

    return wrapped


def as_command(folder: Path, words: list[str]) -> None:
    """Be the command, slowed; its status is left in a file, since torchrun does not tell it."""
    slowed(folder)
    own_process = os.getpid()
    file, leave = folder / f"{os.environ.get('RANK', '0')}.status", os._exit

    def leaving(status: int) -> None:
        if os.getpid() == own_process:  # not of a loader worker
            file.write_text(str(status))
        leave(status)

    os._exit = leaving  # type: ignore[assignment]
    sys.argv = ["coterie", *words]
    from coterie.cli.main import main

    try:
        main()
        file.write_text("0")
    except SystemExit as error:
        file.write_text(str(error.code))
        raise


class Group:
    """The command under torchrun, on two processes."""

    def __init__(self, words: list[str], output: Path, folder: Path) -> None:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", HANDLED]
        start = [*launch, str(Path(__file__)), "--as-command", str(folder), *words]
        self.file = output.open("w")
        self.process = subprocess.Popen(start, stdout=self.file, stderr=subprocess.STDOUT, start_new_session=True)
        self.output = output.read_text

    def ranks(self) -> list[int]:
        """The process IDs of torchrun's processes, each of which leads a group."""
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(each) for each in listed.read_text().split()] if listed.exists() else []

    def alive(self) -> bool:
        """Whether torchrun is at work."""
        return self.process.poll() is None

    def stop(self, number: int, moments: random.Random) -> list[int]:
        """Send the signal, or kill one process; returns the groups that must end."""
        groups = [*self.ranks(), self.process.pid]
        if number == signal.SIGKILL:
            os.kill(moments.choice(groups[:-1] or groups), number)
        else:
            for each in groups if moments.random() < 0.5 else groups[-1:]:
                os.killpg(each, number)
        return groups

    def end(self) -> int:
        """Wait; returns torchrun's status."""
        status = self.process.wait(300)
        self.file.close()
        return status


class Alone:
    """The command in one process, with or without loader workers."""

    def __init__(self, words: list[str], output: Path, folder: Path) -> None:
        from tests.faults.running import Command  # forks processes that have imported everything

        self.command = Command(words, output, partial(slowed, folder))
        self.output = self.command.output

    def alive(self) -> bool:
        """Whether it is at work."""
        return self.command.process.is_alive()

    def stop(self, number: int, moments: random.Random) -> list[int]:
        """Send the signal to the group, or kill the process."""
        pid = self.command.process.pid or 0
        (os.kill if number == signal.SIGKILL else os.killpg)(pid, number)
        return [pid]

    def end(self) -> int:
        """Wait; returns the status."""
        return self.command.end(within=300)[0] or 0


class Campaign:
    """Runs of one kind, stopped again and again."""

    def __init__(self, folder: Path, kind: str, moments: random.Random) -> None:
        self.kind, self.moments, self.folder = kind, moments, folder / kind.replace(" ", "_")
        self.folder.mkdir()
        self.images, self.number, self.finished = folder / "images.parquet", 0, 0
        self.stops: list[dict[str, Any]] = []
        began = time.monotonic()
        status, said = self.start(self.folder / "whole")[1:]
        assert status == 0, said
        self.seconds = time.monotonic() - began

    def start(self, out: Path, number: int | None = None) -> tuple[dict[str, Any], int, str]:
        """The same command again, stopped by signal ``number`` at a random moment."""
        self.number += 1
        notes = self.folder / f"notes{self.number}"
        notes.mkdir()
        workers = {"alone": 0, "with workers": 2, "torchrun": 1}[self.kind]
        given = [*SETTINGS, f"run.workers={workers}", f'probe.train=["{self.images}"]']
        words = ["pretrain", "deepcluster_v2", str(self.images), "--out", str(out), "--epochs", str(EPOCHS)]
        words += ["--batch-size", "16", *(part for each in given for part in ("--set", each))]
        run: Any = (Group if self.kind == "torchrun" else Alone)(words, self.folder / f"said{self.number}.txt", notes)
        stop: dict[str, Any] = {}
        if number is not None:
            self._wait(run, notes)
            if run.alive():
                stop = {"signal": signal.Signals(number).name, "phase": _phase(notes)}
                at, began = time.time(), time.monotonic()
                groups = run.stop(number, self.moments)
        status = run.end()
        if stop:
            stop |= {"seconds": round(time.monotonic() - began, 2), "status": status}
            left = sorted(notes.glob("*.status"))
            stop["statuses"] = [each.read_text() for each in left]
            if left:  # without torchrun's own end
                stop["said_after"] = [round(each.stat().st_mtime - at, 2) for each in left]
            _until_gone(groups)
        return stop, status, run.output()

    def _wait(self, run: Any, notes: Path) -> None:
        """Until the work has begun, and then for a random time; a resumed run is shorter."""
        while run.alive() and not list(notes.glob("*.phase")):
            time.sleep(0.02)
        until = time.monotonic() + self.moments.uniform(0, self.seconds / 3)
        while run.alive() and time.monotonic() < until:
            time.sleep(0.01)

    def stopped(self, out: Path, number: int) -> bool:
        """Stop a run once more and check how it ended; whether it is finished."""
        from tests.faults.running import newest_step

        stop, status, said = self.start(out, number)
        finished = status == 0 or stop.get("statuses") == ["0", "0"]  # torchrun has heard it, and had nothing to stop
        if stop and not finished:
            self.stops.append(stop)
            if number != signal.SIGKILL:
                self.check(stop, said, newest_step(out), number)
            print(self.kind, json.dumps(stop), flush=True)
        return finished

    def check(self, stop: dict[str, Any], said: str, step: int, number: int) -> None:
        """Status, line, time, checkpoint."""
        lines = re.findall(r"^coterie(?: \(process \d+\))?: (.*)$", said, re.MULTILINE)
        stop["line"] = lines[0] if lines else ""
        assert "Traceback" not in said or self.kind == "torchrun", said  # torchrun writes one of its own
        assert lines, said
        assert all(each.startswith(f"stopped by {signal.Signals(number).name} ") for each in lines), said
        stop["late"] = stop["seconds"] > LIMIT_SECONDS + SLOWER["save"]
        saved = {int(each) for each in re.findall(r"saved after step (\d+)", "\n".join(lines))}
        assert saved == ({step} if step else set()), (step, said)
        expected = [str(128 + number)] * 2 if self.kind == "torchrun" else []
        assert stop["statuses"] == expected, (stop, said)
        assert self.kind == "torchrun" or stop["status"] == 128 + number, (stop, said)

    def go_on(self, out: Path) -> None:
        """To the end, and compare."""
        from tests.faults.running import assert_same_runs

        status, said = self.start(out)[1:]
        assert status == 0, said
        try:
            assert_same_runs(out, self.folder / "whole")
        except AssertionError:
            kept = Path(tempfile.mkdtemp(prefix="coterie-stops-kept-", dir=self.folder.parents[1]))
            shutil.copytree(self.folder, kept, dirs_exist_ok=True)
            print(f"{out.name} differs from whole, see {kept}; its stops: {json.dumps(self.stops)}", flush=True)
            raise
        self.finished += 1


def _phase(notes: Path) -> str:
    marks = {each.suffix: each.read_text() for each in notes.glob("0.*")}
    return (marks.get(".phase") or "between") + (" and a save" if marks.get(".save") else "")


def _until_gone(groups: list[int]) -> None:
    """Loader workers notice within seconds that their run is gone."""
    until = time.monotonic() + 30
    for group in groups:
        while time.monotonic() < until:
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"processes of group {group} are left")


def main() -> None:
    if "--as-command" in sys.argv:
        return as_command(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=60, help="stops alone and with workers, half each")
    parser.add_argument("--torchrun", type=int, default=12, help="stops under torchrun")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=RESULTS / "stops.json")
    options = parser.parse_args()
    from coterie.cli.demo import write_patches
    from coterie.data.sources.builtin_photos import photo_patches

    print(f"seed {options.seed}")
    moments, kinds = random.Random(options.seed), {"alone": options.stops // 2, "with workers": options.stops // 2}
    report: dict[str, Any] = {"command": command(), "seed": options.seed, "machine": machine(PACKAGES)}
    with tempfile.TemporaryDirectory(prefix="coterie-stops-", dir=options.folder) as folder:
        write_patches(Path(folder) / "images.parquet", photo_patches("train", IMAGES, 16))
        for kind, wanted in (kinds | {"torchrun": options.torchrun}).items():
            if not wanted:
                continue
            campaign = Campaign(Path(folder), kind, moments)
            while len(campaign.stops) < wanted:
                out = campaign.folder / f"run{campaign.number}"
                while len(campaign.stops) < wanted:
                    if campaign.stopped(out, moments.choice((*SIGNALS, signal.SIGKILL))):
                        break
                campaign.go_on(out)
            report[kind] = summary(campaign)
            write_report(options.out, report)
            print(json.dumps({name: value for name, value in report[kind].items() if name != "each"}), flush=True)
    return None


def summary(campaign: Campaign) -> dict[str, Any]:
    """What a result says: how many, where, how long."""
    seconds = [each["seconds"] for each in campaign.stops if each["signal"] != "SIGKILL"] or [0.0]
    return {
        "stops": len(campaign.stops),
        "finished_bit_for_bit": campaign.finished,
        "signals": dict(Counter(each["signal"] for each in campaign.stops)),
        "phases": dict(Counter(each["phase"] for each in campaign.stops)),
        "late": sum(each.get("late", False) for each in campaign.stops),
        "seconds_to_leave": {"median": statistics.median(seconds), "most": max(seconds)},
        "each": campaign.stops,
    }


if __name__ == "__main__":
    main()
