"""One pretraining run: builds or restores its parts, trains them, and saves them in a folder."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from coterie.atomic import write_text
from coterie.config.describe import REQUESTED, explain, summary
from coterie.config.from_options import LENGTH
from coterie.config.hardware import Runtime, choose_compile
from coterie.config.schema import PretrainConfig
from coterie.config.toml import to_toml
from coterie.data.sources.fingerprint import Fingerprint
from coterie.data.sources.source import ImageSource
from coterie.distributed.fsdp import ShardedStudent, check_can_shard, full_tensor
from coterie.distributed.processes import broadcast_object, rank, wrap_ddp
from coterie.errors import UserError
from coterie.exporting.backbone_file import check_fits, save_backbone
from coterie.formatting import first_few, format_duration
from coterie.grouping.objective import Objective
from coterie.logger import CheckedLogger
from coterie.optim.optimizer import scheduled_decay
from coterie.signals import check_interrupted
from coterie.training.build import (
    build_loader,
    build_optimizer,
    build_parts,
    compile_parts,
    group_counts,
    out_of_memory,
    whole_student,
)
from coterie.training.callback import Callback, RunContext
from coterie.training.callback_runner import CallbackRunner, Ended
from coterie.training.checkpoint_schedule import Checkpointer
from coterie.training.custom_parts import CustomParts
from coterie.training.environment import environment
from coterie.training.loop import StepHook, fit
from coterie.training.monitor import Collapsed, Monitor, NotFinite
from coterie.training.profiling.threads import SETTING, with_threads
from coterie.training.resume import check_same_run
from coterie.training.run_folder import RunFolder, add_fact, write_facts
from coterie.training.run_state import RunState
from coterie.training.step_progress import StepProgress
from coterie.training.student import preprocessing_of
from coterie.training.time_budget import BudgetWatch, TimeBudget, with_steps
from coterie.types import Batch, Progress, Stretch


class Run:
    """A run in its folder; :meth:`train` trains it to the end, from the start or from its last checkpoint."""

    def __init__(
        self,
        folder: RunFolder,
        source: ImageSource,
        config: PretrainConfig,
        runtime: Runtime,
        callbacks: Sequence[Callback] = (),
        custom: CustomParts | None = None,
        reasons: Mapping[str, str] | None = None,
        budget: TimeBudget | None = None,
    ) -> None:
        """Check the settings against images and folder, and build everything; nothing is written yet.

        Args:
            folder: the run's folder.
            source: its images.
            config: its settings.
            runtime: where it computes, and who receives its messages.
            callbacks: called during training, after the monitor, in this order.
            custom: parts in place of those of the settings.
            reasons: the reason for each automatic value, by the path of its setting; logged at the start.
            budget: the clock of a run with a budget; None: it has none.

        Raises:
            UserError: something that the caller can fix, in one line.
        """
        self.folder, self.source, self.config, self.runtime = folder, source, config, runtime
        self.logger, self.device, self.reasons, self.budget = runtime.logger, runtime.device, reasons or {}, budget
        self.first = rank() == 0  # this one writes files and messages
        if config.run.fsdp:
            check_can_shard()
        self.loader = build_loader(config, source, runtime)
        self.fingerprint = Fingerprint.of(source)
        self.resumed = check_same_run(folder, config, len(source), self.fingerprint, self.reasons)
        new = self.resumed is None
        self.parts = build_parts(config, self.device, images=len(source), starting_weights=new, custom=custom)
        if self.resumed is not None and custom is not None and custom.backbone is not None:
            check_fits(folder.model, self.parts.student.encoder.backbone)
        self.trained = ShardedStudent(self.parts.student) if config.run.fsdp else self.parts.student
        self.optimizer = build_optimizer(config, self.parts.student, self.trained)
        self.state = RunState(config.run.threads or torch.get_num_threads(), len(source))
        self.monitor = Monitor(
            group_counts(config, self.parts.student, custom),
            config.assigned_rows,
            config.learning_rate,
            log_steps=config.run.log_steps,
            write=lambda record: self.callbacks.write(record),
            device=self.device,
            stop_on_collapse=config.run.on_collapse == "stop",
            regularizer_weight=config.regularizer and config.regularizer.weight,
        )
        self.checkpointer = self._checkpointer()
        self.callbacks = CallbackRunner(
            [self.monitor, *callbacks],
            self.checkpointer,
            self.state,
            folder,
            partial(whole_student, config, self.parts.student, self.device, custom),
            self.logger,
        )

    def train(self) -> None:
        """Train to the end.

        Raises:
            UserError: something that the caller can fix, in one line.
        """
        start = self._resume()
        if self.first:
            write_text(self.folder.config, to_toml(with_threads(self.config, self.state.threads)))
            self.fingerprint.write(self.folder.images)
        finished = start == self.loader.total_steps or self.state.ended is not None
        if finished:
            why = f" ({self.state.ended})" if self.state.ended else ""
            self.logger.info(
                f"{self.folder.path} is finished after {start} steps{why}: to extend it, give more than --epochs "
                f"{self.config.epochs}; to train again, choose another --out"
            )
            if self.callbacks.everything_is_done:
                return
        else:
            self._introduce(start)
        with self._explaining_errors(), self.checkpointer.settling(), self.checkpointer.stopping_on_signals():
            self._start_callbacks(start)
            try:
                if start:
                    self.callbacks.run_pending(
                        Progress(start - 1, self.loader.steps_per_epoch, self.loader.total_steps)
                    )
                if not finished:
                    self.loader.prepare(self.logger.progress)
                    self._compile(self.loader.total_steps - start)
                    self._fit(start)
            except Ended as error:
                self.logger.info(f"stopped early: {error}")
            except Collapsed:
                self._end()
                broadcast_object(None)  # torchrun kills the others when one leaves, and the first is still writing
                raise
            self._end()

    def _resume(self) -> int:
        start, skipped = self.checkpointer.resume()
        for line in skipped:
            self.logger.warning(line)
        self.extended = self._take_length(start)
        self.callbacks.resume(start, extended=self.extended)
        if self.config.run.threads and self.reasons.get(SETTING) in REQUESTED:  # or a run keeps its number
            self.state.threads = self.config.run.threads
        torch.set_num_threads(self.state.threads)
        return start

    def _take_length(self, start: int) -> bool:
        """Record the length of a new run, or that this one is extended: (step, new total), as the first process finds it.

        From that step on, whatever spans the run (learning rate, momenta, snapshots) spans the new total. The length of a run
        with a budget is that of its checkpoint, unless another number of epochs or a larger budget is asked for.
        """
        lengths, total, state = self.state.lengths, self.loader.total_steps, self.state
        if not lengths:  # a new run, or one of an earlier version
            lengths = [(0, self.resumed.total_steps if self.resumed else total)]
        if self.budget is not None:
            self.budget.resume(state, lengths[-1][1] if self.resumed else 0, self.folder.path)
        if state.most and self.resumed:
            asked = total if any(self.reasons.get(path) in REQUESTED for path in LENGTH) else state.most
            total = lengths[-1][1]
            if asked != state.most:
                state.most = total = max(total, asked)
            elif self.budget is not None and start == total:
                total = self.budget.extended(state, total)
            if self.budget is not None:
                self.budget.most = state.most
        extended = lengths[-1][1] != total
        state.lengths, extended = broadcast_object(([*lengths, *([(start, total)] * extended)], extended))
        if extended:
            state.stretch = ()
        self.loader.set_length(state.lengths[-1][1], Stretch(*state.stretch) if state.stretch else None)
        return extended

    def _report_extension(self) -> None:
        """Log that the run was extended, and what the learning rate does."""
        (_, before), (start, total) = self.state.lengths[-2:]
        per_epoch, rate = self.loader.steps_per_epoch, self.config.learning_rate
        old = rate.at(Progress(max(0, start - 1), per_epoch, before))
        new = rate.at(Progress(start, per_epoch, total))
        change = f"; the learning rate rises from {old:.3g} to {new:.3g}" if new > old else ""
        self.logger.info(
            f"extended from {before} to {total} steps ({-(-total // per_epoch)} epochs): learning rate, momenta and snapshots "
            f"are laid out anew over all of them{change}"
        )
        self.callbacks.write({"step": start - 1, "epoch": (start - 1) // per_epoch, "extended": [start, total]})

    def _introduce(self, start: int) -> None:
        text = summary(self.config, len(self.source), self.device)
        self.logger.info(text + (f"; resumes at step {start}" if start else ""))
        if self.resumed and self.resumed.moved_from:
            here, before = first_few(self.config.data), first_few(self.resumed.moved_from)
            self.logger.info(f"the same images as before are now at {here} (they were at {before})")
        if self.extended:
            self._report_extension()
        if start or not self.first:
            return
        explained = explain(self.config, self.reasons)
        where = environment(self.device)
        start_line = self.parts.start
        write_facts(self.folder.path, images=len(self.source), automatic=explained, environment=where, start=start_line)
        if start_line is not None:
            self.logger.info(f"starts from {start_line}")
        for path, value, reason in explained:
            if reason not in REQUESTED:
                self.logger.info(f"  {path} {value}: {reason}")

    def _start_callbacks(self, start: int) -> None:
        context = RunContext(
            self.folder.path,
            self.config,
            self.source,
            start,
            self.loader.total_steps,
            CheckedLogger(self.logger, check_interrupted),
            self.callbacks.log,
            self.callbacks.end_run,
            self.state.ended,
        )
        self.callbacks.call("on_start", context)

    def _compile(self, steps: int) -> None:
        """Compile the training passes where that pays; if the compiler fails, everything runs eagerly."""
        run, micro_batches = self.config.run, self.config.micro_batches
        eager = run.fsdp or run.activation_checkpointing or micro_batches > 1
        if not choose_compile(run.compile, self.device, steps, eager):
            return
        self.logger.info("compiling the training passes: a minute or two")
        failure = compile_parts(self.parts, self.config, self.runtime) or self.loader.compile()
        if failure:
            self.logger.warning(f"the compiler failed ({failure}): the run continues without compilation")

    def _fit(self, start: int) -> None:
        config, shown = self.config, StepProgress(self.logger)
        first = Progress(start, self.loader.steps_per_epoch, self.loader.total_steps)
        if isinstance(self.parts.objective, Objective):
            self.parts.objective.show_progress = self.logger.progress
        fit(
            self.trained if config.run.fsdp else wrap_ddp(self.trained),
            self.parts.objective,
            shown.starting(self._recording_bad_images(self.monitor.timed(self.loader.batches(start))), first),
            self.optimizer,
            config.learning_rate.at,
            weight_decay=scheduled_decay(config.optimizer),
            fill_batches=self._fill_batches,
            autocast=self.runtime.autocast,
            clip_grad_norm=config.clip_grad_norm,
            seed=config.seed,
            on_step_end=[shown.done, *self._watched(start, self.callbacks.after_step), shown.resumed],
        )

    def _watched(self, start: int, callbacks: StepHook) -> list[StepHook]:
        """The hook of the callbacks; with a budget, between two that watch its clock."""
        if self.budget is None:
            return [callbacks]
        watch = BudgetWatch(self.budget, self.loader, self.state, self.callbacks, self.logger, self.folder.path)
        watch.start(start, self.checkpointer.save_now)
        return [watch.after_step, callbacks, watch.before_step]

    def _fill_batches(self) -> Iterator[tuple[Progress, Batch]]:
        """The pass over the images that fills the memory before the first step."""
        steps = self.loader.steps_per_epoch
        return self.logger.progress(self._recording_bad_images(self.loader.fill_batches()), steps, "filling the memory")

    def _recording_bad_images(self, batches: Iterable[tuple[Progress, Batch]]) -> Iterator[tuple[Progress, Batch]]:
        for progress, batch in batches:
            self.state.bad_images.update(dict(batch.bad))
            yield progress, batch

    def _end(self) -> None:
        """Finish the run after its last step: call ``on_end`` of the callbacks, the report among them."""
        bad = self.state.bad_images
        if self.first:
            self._write_bad_images(bad)
        if self.first and self.budget is not None:
            config = with_steps(
                with_threads(self.config, self.state.threads), self.loader.total_steps, len(self.source)
            )
            write_text(self.folder.config, to_toml(config))
            add_fact(self.folder.path, "budget", self.budget.facts(self.state))
        self.callbacks.end()
        if self.first and self.budget is not None:
            facts = self.budget.facts(self.state)
            add_fact(self.folder.path, "budget", facts)
            used, seconds = facts["used"], facts["seconds"]
            self.logger.info(
                f"used {format_duration(used)} of {format_duration(seconds)} ({100 * used / seconds:.0f} %)"
            )
        if self.first and bad:
            self.logger.warning(f"{len(bad)} images could not be decoded: {self.folder.path}/bad_images.txt lists them")

    @contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        """Context that turns errors of a step into one line that says what to do."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError(out_of_memory(self.config, self.runtime, error)) from error
        except NotFinite as error:
            names = [self.source.name(index) for index in error.details.get("images", ())]
            parameters = self.parts.student.named_parameters()
            norms = {name: str(float(full_tensor(each.detach()).norm())) for name, each in parameters}
            details = error.details | {"images": names, "weights": norms}
            if self.first:
                write_text(self.folder.path / "not_finite.json", json.dumps(details, indent=2) + "\n")
            raise type(error)(f"{error} (details: {self.folder.path}/not_finite.json)") from None

    def _checkpointer(self) -> Checkpointer:
        look, prefix = preprocessing_of(self.config), "encoder.backbone."
        inputs = (look.size, look.mean, look.std)
        how: dict[str, Any] = {"interpolation": look.interpolation, "value_range": look.value_range}

        def save_model(student: dict[str, Tensor]) -> Callable[[], None]:
            weights = {name.removeprefix(prefix): each for name, each in student.items() if name.startswith(prefix)}
            bad = dict(self.state.bad_images)

            def write() -> None:
                self._write_bad_images(bad)
                save_backbone(self.folder.model, weights, self.config.backbone, *inputs, **how)

            return write

        return Checkpointer(
            self.folder.checkpoints,
            {
                "student": self.parts.student,
                "objective": self.parts.objective,
                "optimizer": self.optimizer,
                "monitor": self.monitor,
            },
            self.monitor,
            self.state,
            steps=self.config.run.save_steps,
            minutes=self.config.run.save_minutes,
            also=save_model,
        )

    def _write_bad_images(self, bad: Mapping[int, str]) -> None:
        self.folder.write_bad_images((self.source.name(index), reason) for index, reason in bad.items())
