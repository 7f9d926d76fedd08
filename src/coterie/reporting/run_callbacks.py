"""The product's own callbacks in a run: its time and cores, label-free metrics, probes, the report."""

from coterie.config.from_options import Resolved
from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.evaluation.callbacks import LabelFreeCallback, ProbeCallback
from coterie.evaluation.given_sets import GivenSets, probe_pair
from coterie.evaluation.sample_size import label_free_images
from coterie.reporting.callback import ReportCallback
from coterie.reporting.run_report import report_images
from coterie.training.callback import Callback
from coterie.training.profiling.choose_threads import Rehearsed
from coterie.training.profiling.shared_cores import SharedCoresCallback
from coterie.training.profiling.time_callback import TimeCallback


def own_callbacks(
    config: PretrainConfig,
    wanted: Resolved,
    runtime: Runtime,
    probes: GivenSets | None,
    rehearsed: Rehearsed | None = None,
) -> list[Callback]:
    """Those of the product, in their order: what leaves the most behind comes first.

    Args:
        config: settings of the run.
        wanted: its images.
        runtime: where it computes.
        probes: the images of its probe, if they were given; None: they are opened by the settings.
        rehearsed: the rehearsal that chose its threads; None: there was none.

    Raises:
        UserError: the images of the probe are missing, or have no labels.
    """
    embedded = embedded_images(config, len(wanted.source), runtime)
    own: list[Callback] = [TimeCallback(config, wanted.source, runtime, rehearsed, **embedded)]
    if runtime.device.type == "cpu":
        own.append(SharedCoresCallback())
    if config.run.snapshots:
        own.append(LabelFreeCallback(config, wanted.source, runtime))
    if config.probe is not None:
        pair = probe_pair(config.probe, probes, config.columns, runtime.logger)
        own.append(ProbeCallback(config, config.probe, pair, runtime))
    return [*own, ReportCallback(config, wanted.source, runtime)]


def embedded_images(config: PretrainConfig, images: int, runtime: Runtime) -> dict[str, int]:
    """How many images the metrics and the report of a run embed, for estimates of its time."""
    report = report_images(config, images, runtime.device)
    return {"label_free_images": label_free_images(config, images), "report_images": report}
