"""The report at the end of a run."""

from dataclasses import replace

from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.data.sources.source import ImageSource
from coterie.reporting.run_report import report_run
from coterie.training.callback import Callback, RunContext
from coterie.training.student import Student, preprocessing_of


class ReportCallback(Callback):
    """Writes ``report.html`` when the run has ended: after its last step, early, or because it collapsed."""

    name = "report"

    def __init__(self, config: PretrainConfig, source: ImageSource, runtime: Runtime) -> None:
        """Report on a run of these settings."""
        self.config, self.source, self.runtime = config, source, runtime
        self._run: RunContext | None = None

    def on_start(self, run: RunContext) -> None:
        """Remember where to write."""
        self._run = run

    def on_end(self, student: Student) -> None:
        """Write the page."""
        assert self._run is not None
        report_run(
            self._run.folder,
            self.config,
            self.source,
            student.encoder.backbone,
            preprocessing_of(self.config),
            replace(self.runtime, logger=self._run.logger),
            student=student,
        )
