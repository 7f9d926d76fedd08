"""The command: each verb is the function of that name in :mod:`coterie.api`, with the same parameters and defaults."""

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from coterie.arguments import listed, named_set
from coterie.errors import UserError
from coterie.version import __version__

app = App(
    name="coterie",
    help="Learn visual features from unlabelled images by grouping them.",
    version=__version__,
    help_format="markdown",
    result_action="return_value",
)

_PROCESS = os.environ.get("RANK", "0")

Sources = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())]
Settings = Annotated[tuple[str, ...], Parameter(name="--set", negative=())]


@app.command
def plan(
    method: str | None = None,
    /,
    *data: str,
    backbone: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: Path | None = None,
    settings: Settings = (),
) -> None:
    """Say what pretrain would train, why each automatic value, how long it takes and how much memory; train nothing.

    Parameters
    ----------
    method
        A preset, as of pretrain. May be left out with --config.
    data
        Folders, text lists of files, globs, *.parquet with an image column, *.tar shards.
    backbone
        Any network of timm, such as resnet50, vit_small_patch16_224, convnext_tiny.
    epochs
        Passes over the images.
    batch_size
        Images a step.
    seed
        Of weights, order and views.
    config
        A config.toml, of a run or of your own, in place of the preset.
    settings
        Override a setting: --set groups.counts=300. May be given several times.
    """
    from coterie import api
    from coterie.terminal import Terminal, plan_lines

    wishes = {"backbone": backbone, "epochs": epochs, "batch_size": batch_size, "seed": seed, "config": config}
    with closing(Terminal()) as terminal:
        found = api.plan(method, data, **wishes, settings=settings, listener=terminal)  # type: ignore[arg-type]
    for line in plan_lines(found):
        _print(line)


@app.command
def profile(
    method: str | None = None,
    /,
    *data: str,
    backbone: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: Path | None = None,
    settings: Settings = (),
    seconds: float = 20.0,
) -> None:
    """Say where the time of a step goes, and what to change: a short run, of which nothing is kept.

    Parameters
    ----------
    method
        A preset, as of pretrain. May be left out with --config.
    data
        Folders, text lists of files, globs, *.parquet with an image column, *.tar shards.
    backbone
        Any network of timm, such as resnet50, vit_small_patch16_224, convnext_tiny.
    epochs
        Passes over the images.
    batch_size
        Images a step.
    seed
        Of weights, order and views.
    config
        A config.toml, of a run or of your own, in place of the preset.
    settings
        Override a setting: --set run.workers=8. May be given several times.
    seconds
        So many seconds of steps; the warm-up and the rest take some more.
    """
    from coterie import api
    from coterie.bottlenecks import profile_lines
    from coterie.terminal import Terminal

    wishes = {"backbone": backbone, "epochs": epochs, "batch_size": batch_size, "seed": seed, "config": config}
    with closing(Terminal()) as terminal:
        found = api.profile(method, data, **wishes, settings=settings, seconds=seconds, listener=terminal)  # type: ignore[arg-type]
    for line in profile_lines(found):
        _print(line)


@app.command
def pretrain(
    method: str | None = None,
    /,
    *data: str,
    out: Annotated[Path, Parameter(name="--out")],
    backbone: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: Path | None = None,
    settings: Settings = (),
    probe: Sources = (),
    probe_test: Sources = (),
    on_collapse: str | None = None,
    stop_when: str | None = None,
) -> None:
    """Pretrain a backbone on images without labels. The same command again goes on where a stopped run was.

    Parameters
    ----------
    method
        A preset: swav, smog, deepcluster_v2, sela_v2, simclr, resa, or one as published, such as smog_imagenet
        (docs/methods.md has them all). May be left out with --config.
    data
        Folders, text lists of files, globs, *.parquet with an image column, *.tar shards.
    out
        The run's folder: config.toml, metrics.jsonl, model.safetensors, checkpoint, report.html.
    backbone
        Any network of timm, such as resnet50, vit_small_patch16_224, convnext_tiny.
    epochs
        Passes over the images.
    batch_size
        Images a step.
    seed
        Of weights, order and views.
    config
        A config.toml, of a run or of your own, in place of the preset.
    settings
        Override a setting: --set groups.counts=300. May be given several times.
    probe
        Labelled images for a kNN probe while the run goes on.
    probe_test
        Labelled images that the probe is asked; without it, every fifth of --probe.
    on_collapse
        What to do when the run looks collapsed: warn (and go on) or stop.
    stop_when
        stale: end when the figures without labels say that nothing moves any more; never: at the last epoch.
    """
    from coterie import api
    from coterie.terminal import Terminal

    wishes = {"backbone": backbone, "epochs": epochs, "batch_size": batch_size, "seed": seed, "config": config}
    probes = {"probe": probe, "probe_test": probe_test, "on_collapse": on_collapse, "stop_when": stop_when}
    with closing(Terminal()) as terminal:
        folder = api.pretrain(method, data, out=out, **wishes, settings=settings, **probes, listener=terminal)  # type: ignore[arg-type]
    _print(f"{folder}: the backbone is in {folder / 'model.safetensors'}, look at {folder / 'report.html'}")


@app.command
def evaluate(
    run: Path,
    /,
    *train: str,
    test: Sources = (),
    probes: str = "knn",
    labels: str = "10%",
    seed: int = 0,
    device: str = "auto",
    workers: int = -1,
) -> None:
    """Judge a run's backbone by labelled images.

    Parameters
    ----------
    run
        A run's folder, or a model.safetensors.
    train
        Labelled images that the probes learn from.
    test
        Labelled images that they are asked; without it, every fifth image of TRAIN.
    probes
        Separated by commas: knn, linear, linear_published, clusters, retrieval, svm, low_shot, linear_images, finetune.
    labels
        For finetune: a share of the training labels, such as 1%, or so many a class, such as 5.
    seed
        Of what a probe draws.
    device
        auto, cpu or cuda.
    workers
        Processes that load images; -1: as many as there are cores to spare.
    """
    from coterie import api
    from coterie.terminal import Terminal, figure_lines

    how = {"probes": listed(probes), "labels": labels, "seed": seed, "device": device, "workers": workers}
    with closing(Terminal()) as terminal:
        result = api.evaluate(run, train, test, **how, listener=terminal)  # type: ignore[arg-type]
    for line in figure_lines(result):
        _print(line)


@app.command
def transfer(
    run: Path,
    /,
    *sets: str,
    probes: str = "linear",
    labels: str = "10%",
    seed: int = 0,
    device: str = "auto",
    workers: int = -1,
) -> None:
    """Judge a run's backbone on several other labelled sets: one table.

    Parameters
    ----------
    run
        A run's folder, or a model.safetensors.
    sets
        Each NAME=TRAIN, of which every fifth image is asked, or NAME=TRAIN,TEST.
    probes
        As of evaluate, separated by commas.
    labels
        As of evaluate.
    seed
        Of what a probe draws.
    device
        auto, cpu or cuda.
    workers
        Processes that load images; -1: as many as there are cores to spare.
    """
    from coterie import api
    from coterie.terminal import Terminal, transfer_lines

    named = dict(named_set(each) for each in sets)
    how = {"probes": listed(probes), "labels": labels, "seed": seed, "device": device, "workers": workers}
    with closing(Terminal()) as terminal:
        table = api.transfer(run, named, **how, listener=terminal)  # type: ignore[arg-type]
    for line in transfer_lines(table):
        _print(line)


@app.command
def select(run: Path, /, *, by: str = "label_free", out: Path | None = None) -> None:
    """Choose one of the snapshots that a run has kept, without labels, and say why.

    Parameters
    ----------
    run
        A run's folder.
    by
        label_free, or knn: the accuracy of the run's own probe.
    out
        A file to copy its weights to.
    """
    from coterie import api
    from coterie.terminal import selection_lines

    for line in selection_lines(api.select(run, by=by, out=out)):  # type: ignore[arg-type]
        _print(line)


@app.command
def compare(*runs: Path, out: Path | None = None) -> None:
    """Set runs side by side: one table, and one page.

    Parameters
    ----------
    runs
        Two or more runs' folders.
    out
        An HTML file: the table, and the curves of all runs in one drawing each.
    """
    from coterie import api
    from coterie.evaluation.comparison import as_text

    _print(as_text(api.compare(runs, out=out)))


@app.command
def report(run: Path, /, *, device: str = "auto") -> None:
    """Write a run's report.html again, with what is known of it by now.

    Parameters
    ----------
    run
        A run's folder.
    device
        auto, cpu or cuda.
    """
    from coterie import api
    from coterie.terminal import Terminal

    with closing(Terminal()) as terminal:
        page = api.report(run, device=device, listener=terminal)
    _print(f"look at {page}")


@app.command
def embed(
    run: Path,
    /,
    *data: str,
    out: Annotated[Path, Parameter(name="--out")],
    device: str = "auto",
    workers: int = -1,
) -> None:
    """Write name, label, embedding, group and its probability of each image to a parquet file.

    Parameters
    ----------
    run
        A run's folder.
    data
        Folders, text lists of files, globs, *.parquet, *.tar.
    out
        The parquet file.
    device
        auto, cpu or cuda.
    workers
        Processes that load images; -1: as many as there are cores to spare.
    """
    from coterie import api
    from coterie.terminal import Terminal

    with closing(Terminal()) as terminal:
        written = api.embed(run, data, out, device=device, workers=workers, listener=terminal)
    _print(f"{out}: {written} images")


@app.command
def demo(*, out: Annotated[Path, Parameter(name="--out")] = Path("demo"), seed: int = 0) -> None:
    """The whole way on a built-in set of real photographs, offline, on a CPU, in minutes.

    Parameters
    ----------
    out
        Where the run and its report.html go.
    seed
        Of weights, order and views.
    """
    from coterie.demonstration import demo as run_demo
    from coterie.terminal import Terminal

    with closing(Terminal()) as terminal:
        lines = run_demo(out, seed=seed, listener=terminal)
    for line in lines:
        _print(line)


def main() -> None:
    """Run the command; a mistake that a person can mend is one plain line and exit status 2."""
    # Threads that wait asleep cost a CPU run 5 % alone, and save it two thirds of its time beside another busy process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _fail(" ".join(str(error).split()) + " (coterie --help)")
    except UserError as error:
        _fail(str(error), error.status)
    except KeyboardInterrupt:
        _fail("stopped", 130)


def _print(text: str) -> None:
    if _PROCESS == "0":  # of those that torchrun started, one speaks
        sys.stdout.write(text + "\n")


def _fail(text: str, status: int = 2) -> None:
    which = "" if _PROCESS == "0" else f" (process {_PROCESS})"
    sys.stderr.write(f"coterie{which}: {text}\n")
    raise SystemExit(status)
