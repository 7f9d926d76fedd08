"""The command: each verb is the function of that name in :mod:`coterie.api`, with the same parameters and defaults."""

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from coterie.cli.commands import compare, embed, evaluate, report, select, transfer
from coterie.cli.options import PROCESS, Sources, show
from coterie.errors import UserError
from coterie.version import __version__

app = App(
    name="coterie",
    help="Learn visual features from unlabeled images by grouping them.",
    version=__version__,
    help_format="markdown",
    result_action="return_value",
)
for verb in (evaluate, transfer, select, compare, report, embed):
    app.command(verb)

Settings = Annotated[tuple[str, ...], Parameter(name="--set", negative=())]


@app.command
def plan(
    method: str | None = None,
    /,
    *data: str,
    backbone: str | None = None,
    epochs: int | None = None,
    images: int | None = None,
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
    images
        End after so many, in the middle of an epoch if need be.
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
    from coterie.cli.tables import plan_lines
    from coterie.cli.terminal import Terminal

    wishes: dict[str, object] = {"backbone": backbone, "epochs": epochs, "images": images, "batch_size": batch_size}
    wishes |= {"seed": seed, "config": config}
    with closing(Terminal()) as terminal:
        found = api.plan(method, data, **wishes, settings=settings, logger=terminal)  # type: ignore[arg-type]
    for line in plan_lines(found):
        show(line)


@app.command
def profile(
    method: str | None = None,
    /,
    *data: str,
    backbone: str | None = None,
    epochs: int | None = None,
    images: int | None = None,
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
    images
        End after so many, in the middle of an epoch if need be.
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
    from coterie.cli.tables import profile_lines
    from coterie.cli.terminal import Terminal

    wishes: dict[str, object] = {"backbone": backbone, "epochs": epochs, "images": images, "batch_size": batch_size}
    wishes |= {"seed": seed, "config": config}
    with closing(Terminal()) as terminal:
        found = api.profile(method, data, **wishes, settings=settings, seconds=seconds, logger=terminal)  # type: ignore[arg-type]
    for line in profile_lines(found):
        show(line)


@app.command
def pretrain(
    method: str | None = None,
    /,
    *data: str,
    out: Annotated[Path, Parameter(name="--out")],
    backbone: str | None = None,
    epochs: int | None = None,
    images: int | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    config: Path | None = None,
    settings: Settings = (),
    probe: Sources = (),
    probe_test: Sources = (),
    on_collapse: str | None = None,
    early_stop: bool | None = None,
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
    images
        End after so many, in the middle of an epoch if need be.
    batch_size
        Images a step.
    seed
        Of weights, order and views.
    config
        A config.toml, of a run or of your own, in place of the preset.
    settings
        Override a setting: --set groups.counts=300. May be given several times.
    probe
        Labeled images for a kNN probe while the run goes on.
    probe_test
        Labeled images that the probe is asked; without it, every fifth of --probe.
    on_collapse
        What to do when the run looks collapsed: warn (and go on) or stop.
    early_stop
        Stop early when the label-free metrics plateau.
    """
    from coterie import api
    from coterie.cli.terminal import Terminal

    wishes: dict[str, object] = {"backbone": backbone, "epochs": epochs, "images": images, "batch_size": batch_size}
    wishes |= {"seed": seed, "config": config}
    probes = {"probe": probe, "probe_test": probe_test, "on_collapse": on_collapse, "early_stop": early_stop}
    with closing(Terminal()) as terminal:
        folder = api.pretrain(method, data, out=out, **wishes, settings=settings, **probes, logger=terminal)  # type: ignore[arg-type]
    show(f"{folder}: the backbone is in {folder / 'model.safetensors'}, look at {folder / 'report.html'}")


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
    from coterie.cli.demo import demo as run_demo
    from coterie.cli.terminal import Terminal

    with closing(Terminal()) as terminal:
        lines = run_demo(out, seed=seed, logger=terminal)
    for line in lines:
        show(line)


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


def _fail(text: str, status: int = 2) -> None:
    which = "" if PROCESS == "0" else f" (process {PROCESS})"
    sys.stderr.write(f"coterie{which}: {text}\n")
    raise SystemExit(status)
