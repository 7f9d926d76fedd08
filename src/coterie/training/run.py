"""One pretraining run: the parts, put together in a folder and set going."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from coterie.atomic import write_text
from coterie.config.describe import WISHES, explain, summary
from coterie.config.hardware import choose_autocast, choose_compile, choose_device
from coterie.config.schema import PretrainConfig
from coterie.config.toml import from_dict, read_toml, to_dict, to_toml
from coterie.data.sources.source import ImageSource
from coterie.distributed.fsdp import ShardedStudent, check_can_shard, full_tensor
from coterie.distributed.processes import broadcast_object, local_device, rank, wrap_ddp
from coterie.embedding.embed import embed_source
from coterie.errors import BadRun, UserError
from coterie.evaluation.callbacks import Looks
from coterie.evaluation.labeled_data import labeled_pair
from coterie.evaluation.model_selection import plateau_reason
from coterie.evaluation.probes.run_probes import probe_embeddings
from coterie.exporting.weights import save_backbone
from coterie.logger import Logger
from coterie.reporting.run_report import report_run
from coterie.training import checkpoint
from coterie.training.build import TrainingParts, build_loader, build_parts, compile_parts, out_of_memory, whole_student
from coterie.training.checkpointer import Checkpointer, Ended
from coterie.training.environment import environment
from coterie.training.loop import fit
from coterie.training.monitor import Collapsed, Monitor, NotFinite
from coterie.training.records import write_facts
from coterie.training.run_folder import RunFolder
from coterie.training.student import Student, preprocessing_of
from coterie.types import Batch, Progress, StepResult


class Pretraining:
    """What the steps of a run share; :meth:`go` runs it, or goes on with it."""

    def __init__(
        self,
        folder: RunFolder,
        source: ImageSource,
        config: PretrainConfig,
        logger: Logger,
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        """Check that the settings fit the images and what the folder holds; nothing is written yet.

        ``reasons`` of automatic values, by path, are told at the start.
        """
        self.folder, self.source, self.config, self.logger = folder, source, config, logger
        self.reasons = reasons or {}
        self.first = rank() == 0  # of several processes: it speaks, judges and writes
        self.device = local_device(choose_device(config.run.device))
        if config.run.fsdp:
            check_can_shard()
        self.loader = build_loader(config, source, self.device)
        self.bad: dict[int, str] = {}
        self._refuse_another_run()
        self.probe = labeled_pair(config.probe.train, config.probe.test) if config.probe else None
        for remark in self.probe.remarks if self.probe else ():
            logger.warning(remark)

    def go(self) -> None:
        """Train to the end, from the start or from the last checkpoint."""
        config, folder = self.config, self.folder
        begun = bool(checkpoint.list_checkpoints(folder.checkpoints))
        parts = build_parts(config, self.device, images=len(self.source), starting_weights=not begun)
        trained = ShardedStudent(parts.student) if config.run.fsdp else parts.student
        optimizer = config.optimizer.build(trained)
        monitor = self._monitor()
        saver = self._saver(parts, optimizer, monitor)
        start = self._resume(saver)
        if self.first:
            write_text(folder.config, to_toml(config))
            folder.truncate_log(start)
        ended = saver.extra.get("ended")
        finished = start == self.loader.total_steps or ended is not None
        if finished:
            why = f" ({ended})" if ended else ""
            self.logger.info(f"{folder.path} is finished after {start} steps{why}; name another --out to train again")
        else:
            self._introduce(start)
            self.loader.prepare(self.logger.progress)
            self._train(trained, parts, optimizer, monitor, saver, start)
        if broadcast_object(not finished or not (folder.path / "report.html").exists()):
            self._finish(parts)

    def _introduce(self, start: int) -> None:
        said = summary(self.config, len(self.source), self.device)
        self.logger.info(said + (f"; goes on at step {start}" if start else ""))
        if start or not self.first:
            return
        found = explain(self.config, self.reasons)
        where = environment(self.device)
        write_facts(self.folder.path, images=len(self.source), automatic=found, environment=where)
        for path, value, reason in found:
            if reason not in WISHES:
                self.logger.info(f"  {path} {value}: {reason}")

    def _train(
        self,
        trained: ShardedStudent | Student,
        parts: TrainingParts,
        optimizer: torch.optim.Optimizer,
        monitor: Monitor,
        saver: Checkpointer,
        start: int,
    ) -> None:
        config = self.config
        with saver.stopping_on_signals(), self._reporting_an_end(parts), saver.settling():
            self._compile(parts, self.loader.total_steps - start)
            fit(
                trained if config.run.fsdp else wrap_ddp(trained),
                parts.objective,
                self._noting_bad(monitor.timed(self.loader.batches(start))),
                optimizer,
                config.learning_rate.at,
                once=self._filling,
                autocast=choose_autocast(config.run.precision, self.device),
                clip_grad_norm=config.clip_grad_norm,
                seed=config.seed,
                observers=[monitor, *self._looks(parts, saver), *self._probes(parts, saver), saver],
            )

    def _compile(self, parts: TrainingParts, steps: int) -> None:
        """Have what every step does compiled, where that pays; where the compiler fails, all runs as it is written."""
        run, micro_batches = self.config.run, self.config.micro_batches
        as_written = run.fsdp or run.activation_checkpointing or micro_batches > 1
        if not choose_compile(run.compile, self.device, steps, as_written)[0]:
            return
        self.logger.info("compiling the training passes: a minute or two")
        failed = compile_parts(parts, self.config, self.device) or self.loader.compile()
        if failed:
            self.logger.warning(f"the run goes on as it is written: the compiler failed ({failed})")

    @contextmanager
    def _reporting_an_end(self, parts: TrainingParts) -> Iterator[None]:
        try:
            yield
        except Ended as error:
            self.logger.info(f"stopped early: {error}")
        except Collapsed:
            self._finish(parts)
            broadcast_object(None)  # who left sooner would have torchrun end the one that writes
            raise
        except torch.OutOfMemoryError as error:
            raise UserError(out_of_memory(self.config, self.device, error)) from error
        except NotFinite as error:
            seen = error.seen | {"images": [self.source.name(index) for index in error.seen.get("images", ())]}
            weights = {
                name: str(float(full_tensor(each.detach()).norm())) for name, each in parts.student.named_parameters()
            }
            seen |= {"weights": weights}
            if self.first:
                write_text(self.folder.path / "not_finite.json", json.dumps(seen, indent=2) + "\n")
            raise type(error)(f"{error} ({self.folder.path}/not_finite.json says what was seen)") from None

    def _finish(self, parts: TrainingParts) -> None:
        """What a person looks at."""
        folder, config = self.folder, self.config
        student = whole_student(config, parts.student, self.device)
        if not self.first:
            return
        self._note_bad_images(self.bad)
        report_run(
            folder.path,
            config,
            self.source,
            student.encoder.backbone,
            preprocessing_of(config),
            self.device,
            student=student,
            logger=self.logger,
        )
        if self.bad:
            self.logger.warning(f"{len(self.bad)} images could not be decoded: {folder.path}/bad_images.txt lists them")

    def _monitor(self) -> Monitor:
        config = self.config
        return Monitor(
            config.group_counts,
            config.assigned_rows,
            config.learning_rate,
            log_steps=config.run.log_steps,
            write=self._write,
            device=self.device,
            stop_on_collapse=config.run.on_collapse == "stop",
        )

    def _saver(self, parts: TrainingParts, optimizer: torch.optim.Optimizer, monitor: Monitor) -> Checkpointer:
        look, inside = preprocessing_of(self.config), "encoder.backbone."

        def save_model(student: dict[str, Tensor]) -> Callable[[], None]:
            weights = {name.removeprefix(inside): each for name, each in student.items() if name.startswith(inside)}
            bad = dict(self.bad)

            def write() -> None:
                self._note_bad_images(bad)
                save_backbone(self.folder.model, weights, self.config.backbone, look.size, look.mean, look.std)

            return write

        threads = self.config.run.threads or torch.get_num_threads()
        return Checkpointer(
            self.folder.checkpoints,
            {"student": parts.student, "objective": parts.objective, "optimizer": optimizer, "monitor": monitor},
            monitor,
            steps=self.config.run.save_steps,
            minutes=self.config.run.save_minutes,
            also=save_model,
            extra={"threads": threads, "images": len(self.source), "bad": self.bad},
        )

    def _note_bad_images(self, bad: Mapping[int, str]) -> None:
        self.folder.write_bad_images((self.source.name(index), reason) for index, reason in bad.items())

    def _resume(self, saver: Checkpointer) -> int:
        start, passed_over = saver.resume()
        for line in passed_over:
            self.logger.warning(line)
        self.bad = saver.extra["bad"]
        torch.set_num_threads(saver.extra["threads"])
        if not self.config.run.early_stop:
            saver.extra.pop("ended", None)  # it was stopped as stale, and is now to go on
        return start

    def _filling(self) -> Iterator[tuple[Progress, Batch]]:
        """The pass that fills the memory before the first step."""
        steps = self.loader.steps_per_epoch
        return self.logger.progress(self._noting_bad(self.loader.fill_batches()), steps, "filling the memory")

    def _refuse_another_run(self) -> None:
        if not self.folder.config.exists() or not checkpoint.list_checkpoints(self.folder.checkpoints):
            return
        before, now = to_dict(from_dict(read_toml(self.folder.config))), to_dict(self.config)
        for each in (before, now):  # what changes the speed only, and pixels by what a blur rounds
            each.pop("run", None)
            each["views"].pop("engine", None)
        different = _first_difference(before, now)
        if different:
            raise BadRun(
                f"{self.folder.path} holds a run with other settings ({different}): choose another --out, or go on with "
                f"--config {self.folder.config}"
            )

    def _write(self, record: dict[str, Any]) -> None:
        if not self.first:
            return
        self.folder.append(record)
        self.logger.log_metrics(record, self.loader.total_steps)
        if "warning" in record:
            self.logger.warning(record["warning"])

    def _noting_bad(self, batches: Iterable[tuple[Progress, Batch]]) -> Iterator[tuple[Progress, Batch]]:
        for progress, batch in batches:
            self.bad.update(dict(batch.bad))
            yield progress, batch

    def _probes(self, parts: TrainingParts, saver: Checkpointer) -> list[Any]:
        """The probes with labels as an observer, if they are wanted."""
        pair, wanted = self.probe, self.config.probe
        if pair is None or wanted is None:
            return []

        def observe(progress: Progress, result: StepResult) -> None:
            ended = progress.step_in_epoch + 1 == progress.steps_per_epoch
            last = progress.step + 1 == progress.total_steps
            if not (last or (ended and (progress.epoch + 1) % wanted.every_epochs == 0)):
                return
            student = whole_student(self.config, parts.student, self.device)
            if self.first:
                saver.settle()  # processes are forked now, and a thread that writes may hold what they need
                network = student.encoder.backbone.eval()
                train, test = (
                    embed_source(
                        network, part, preprocessing_of(self.config), workers=self.loader.workers, device=self.device
                    )
                    for part in (pair.train, pair.test)
                )
                network.train()
                figures = probe_embeddings(wanted.probes, train, test, device=self.device, seed=self.config.seed)
                self._write({"step": progress.step, "epoch": progress.epoch, **figures})

        return [observe]

    def _looks(self, parts: TrainingParts, saver: Checkpointer) -> list[Any]:
        """The looks without labels as an observer, which also ends the run if nothing moves any more and that is wanted."""
        run = self.config.run
        if not run.snapshots:
            return []
        looks = Looks(
            self.folder.path,
            self.source,
            self.config,
            parts.student,
            self._write,
            workers=self.loader.workers,
            device=self.device,
        )

        def observe(progress: Progress, result: StepResult) -> None:
            if not looks.due(progress):
                return
            looks.student = whole_student(self.config, parts.student, self.device)
            if self.first:
                saver.settle()  # as above
                looks(progress, result)
            looks.student = parts.student
            if run.early_stop and (
                why := broadcast_object(plateau_reason(self.folder.records()) if self.first else None)
            ):
                saver.extra["ended"] = why

        return [observe]


def _first_difference(before: Any, now: Any, path: str = "") -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            found = _first_difference(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))
            if found:
                return found
        return ""
    return "" if before == now else f"{path}: {before} -> {now}"
