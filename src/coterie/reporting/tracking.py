"""Trackers: callbacks that pass the log of a run on to TensorBoard or Weights & Biases, whatever becomes of them."""

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coterie.atomic import write_text
from coterie.config.toml import to_dict, to_toml
from coterie.errors import UserError, did_you_mean, first_cause
from coterie.training.callback import Callback, RunContext
from coterie.training.run_folder import read_log
from coterie.training.student import Student


class Tracker(Callback):
    """What the trackers have in common: after an error nothing more is passed on, and the run goes on without it."""

    on_error = "continue"
    service: str
    _sink: Any = None  # what the log is passed on to; None: it is not open, or no longer

    def close(self) -> None:
        """Close it; called in any case when the run ends or stops."""

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """After an error, which the run warns of once, nothing more is passed on."""
        try:
            yield
        except Exception as error:
            self._sink = None
            raise UserError(f"tracking with {self.service} failed ({first_cause(error)}) and ends here") from error


class TensorBoardCallback(Tracker):
    """Writes settings, log and the place of the report to ``tensorboard/`` in the run's folder.

    ``tensorboard --logdir RUN`` shows them. A resumed run continues in the same folder: steps that it trains again replace the
    earlier ones, and lines of the log that are missing there are added, so that a run may be tracked from any resume on.
    """

    name = "tensorboard"
    service = "TensorBoard"

    def __init__(self) -> None:
        """Prepare to track a run.

        Raises:
            UserError: the package tensorboard is not installed.
        """
        try:
            import tensorboard  # noqa: F401 -- torch's own writer needs it
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _not_installed("tensorboard") from error
        self._make: Callable[..., Any] = SummaryWriter
        self._report = ""

    def on_start(self, run: RunContext) -> None:
        """Open the writer where the run starts, and add what it lacks."""
        folder = run.folder / "tensorboard"
        with self._giving_up():
            present = _scalars_in(folder, run.start_step)
            self._sink = self._make(str(folder), purge_step=run.start_step)
            self._report = str((run.folder / "report.html").resolve())
            self._sink.add_text("config", f"```toml\n{to_toml(run.config)}```", run.start_step)
            for record in read_log(run.folder):
                self._write(record, present)
            self._sink.flush()

    def on_metrics(self, record: dict[str, Any]) -> None:
        """Pass a line on."""
        if self._sink is not None:
            with self._giving_up():
                self._write(record)
                self._sink.flush()

    def on_end(self, student: Student) -> None:
        """Say where the report is."""
        if self._sink is not None:
            with self._giving_up():
                self._sink.add_text("report", self._report)
        self.close()

    def close(self) -> None:
        """Close the files; called in any case when the run ends or stops."""
        writer, self._sink = self._sink, None
        if writer is not None:
            writer.close()

    def _write(self, record: Mapping[str, Any], present: Mapping[str, set[int]] | None = None) -> None:
        step = record["step"]
        for name, value in scalars(record).items():
            if step not in (present or {}).get(name, ()):
                self._sink.add_scalar(name, value, step)
        if "warning" in record and present is None:
            self._sink.add_text("warning", str(record["warning"]), step)


class WandbCallback(Tracker):
    """Passes settings, log and report on to Weights & Biases; its files are in ``wandb/`` in the run's folder.

    The run there has the name of the folder and, after a resume too, the ID in ``wandb/run_id.txt``. Its project is
    ``$WANDB_PROJECT``, or ``coterie``. Without an API key, or with ``WANDB_MODE=offline``, nothing leaves this machine until
    ``wandb sync`` is run. Code, git and console output are not collected.
    """

    name = "wandb"
    service = "Weights & Biases"

    def __init__(self) -> None:
        """Prepare to track a run.

        Raises:
            UserError: the package wandb is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise _not_installed("wandb") from error
        self._wandb: Any = wandb
        self._report = Path()

    def on_start(self, run: RunContext) -> None:
        """Open the run there, new or again."""
        place = run.folder / "wandb" / "run_id.txt"
        known = place.is_file()
        run_id = place.read_text("utf-8").strip() if known else uuid.uuid4().hex[:8]
        mode = os.environ.get("WANDB_MODE")
        if mode is None and not self._wandb.api.api_key:  # it would ask for one, and wait
            mode = "offline"
            run.logger.info(
                f"no API key of Weights & Biases: tracking offline; upload with wandb sync {place.parent}/offline-run-*"
            )
        self._report = run.folder / "report.html"
        with self._giving_up():
            write_text(place, f"{run_id}\n")
            self._sink = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", "coterie"),
                name=run.folder.resolve().name,
                dir=str(run.folder),
                id=run_id,
                resume="allow",
                config=to_dict(run.config),
                mode=mode,
                reinit="create_new",
                settings=self._wandb.Settings(console="off", silent=True, disable_git=True, disable_code=True),
            )
            for record in [] if known else read_log(run.folder):  # tracked from this resume on
                self._sink.log(scalars(record), step=record["step"])

    def on_metrics(self, record: dict[str, Any]) -> None:
        """Pass a line on."""
        if self._sink is not None:
            with self._giving_up():
                self._sink.log(scalars(record), step=record["step"])
                if "warning" in record:
                    self._sink.alert("warning", str(record["warning"]))

    def on_end(self, student: Student) -> None:
        """Add the report."""
        if self._sink is not None:
            with self._giving_up():
                if self._report.is_file():
                    self._sink.log({"report": self._wandb.Html(self._report.read_text("utf-8"), inject=False)})
                run, self._sink = self._sink, None
                run.finish()

    def close(self) -> None:
        """Close the run there as one that stopped, unless it has ended; called in any case."""
        run, self._sink = self._sink, None
        if run is not None:
            run.finish(exit_code=1)


TRACKERS: dict[str, type[Tracker]] = {each.name: each for each in (TensorBoardCallback, WandbCallback)}
"""The trackers by name."""


def trackers(names: str | Sequence[str]) -> list[Tracker]:
    """Make trackers.

    Args:
        names: one name or several, each ``tensorboard`` or ``wandb``.

    Raises:
        UserError: there is no such tracker, or its package is not installed.
    """
    wanted = dict.fromkeys([names] if isinstance(names, str) else names)
    for name in wanted:
        if name not in TRACKERS:
            raise UserError(
                f"unknown tracker {name!r}: choose from {', '.join(TRACKERS)}{did_you_mean(name, TRACKERS)}"
            )
    return [TRACKERS[name]() for name in wanted]


@contextmanager
def tracked(
    names: str | Sequence[str], callbacks: Sequence[Callback]
) -> Iterator[tuple[list[Callback], list[Callback]]]:
    """Context of a run; yields the callbacks that are no trackers, and all trackers, which see what the others log.

    Args:
        names: trackers to make, as for :func:`trackers`.
        callbacks: callbacks of the user, trackers among them.
    """
    own = [each for each in callbacks if isinstance(each, Tracker)]
    tracking = [*trackers(names), *own]
    try:
        yield [each for each in callbacks if each not in own], list(tracking)
    finally:
        for each in tracking:
            each.close()


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in a line of the log, by name.

    Args:
        record: the line.

    Returns:
        Those of a step as ``train/loss``, those of a table as ``knn/k20_t0.07_top1``, others under their own name.
    """
    prefix = "train/" if "loss" in record else ""
    found: dict[str, float] = {}
    for name, value in record.items():
        inner = {f"{name}/{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {}
        found |= inner or {f"{prefix}{name}": value}
    place = ("train/step", "step", "epoch")  # where the line stands in the log
    return {name: float(value) for name, value in found.items() if type(value) in (int, float) and name not in place}


def _scalars_in(folder: Path, steps: int) -> dict[str, set[int]]:
    """The steps below ``steps`` that TensorBoard's files in a folder hold, by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not steps or not folder.is_dir():
        return {}
    logging.getLogger("tensorboard").addFilter(lambda record: "out of order" not in record.getMessage())  # resumes
    content = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        name: {event.step for event in content.Scalars(name) if event.step < steps}
        for name in content.Tags()["scalars"]
    }


def _not_installed(name: str) -> UserError:
    return UserError(f"--track {name} needs the package {name}: pip install 'coterie[{name}]'")
