"""The verbs that use a run: each is the function of that name in :mod:`coterie.api`, with the same parameters and defaults."""

from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from coterie.cli.options import Sources, listed, named_set, show


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
    """Judge a run's backbone by labeled images.

    Parameters
    ----------
    run
        A run's folder, or a model.safetensors.
    train
        Labeled images that the probes learn from.
    test
        Labeled images that they are asked; without it, every fifth image of TRAIN.
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
    from coterie.cli.tables import figure_lines
    from coterie.cli.terminal import Terminal

    how = {"probes": listed(probes), "labels": labels, "seed": seed, "device": device, "workers": workers}
    with closing(Terminal()) as terminal:
        result = api.evaluate(run, train, test, **how, logger=terminal)  # type: ignore[arg-type]
    for line in figure_lines(result):
        show(line)


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
    """Judge a run's backbone on several other labeled sets: one table.

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
    from coterie.cli.tables import transfer_lines
    from coterie.cli.terminal import Terminal

    named = dict(named_set(each) for each in sets)
    how = {"probes": listed(probes), "labels": labels, "seed": seed, "device": device, "workers": workers}
    with closing(Terminal()) as terminal:
        table = api.transfer(run, named, **how, logger=terminal)  # type: ignore[arg-type]
    for line in transfer_lines(table):
        show(line)


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
    from coterie.cli.tables import selection_lines

    for line in selection_lines(api.select(run, by=by, out=out)):  # type: ignore[arg-type]
        show(line)


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
    from coterie.reporting.comparison import as_text

    show(as_text(api.compare(runs, out=out)))


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
    from coterie.cli.terminal import Terminal

    with closing(Terminal()) as terminal:
        page = api.report(run, device=device, logger=terminal)
    show(f"look at {page}")


def embed(
    run: Path,
    /,
    *data: str,
    out: Annotated[Path, Parameter(name="--out")],
    device: str = "auto",
    workers: int = -1,
    part_images: int = 65_536,
    ray: str | None = None,
    actors: int = 0,
) -> None:
    """Write name, label, embedding, group and its probability of each image, as parquet: a file, or a folder of parts.

    The same command again goes on with a folder where it was left; torchrun, or --ray, has many processes write it.

    Parameters
    ----------
    run
        A run's folder.
    data
        Folders, text lists of files, globs, *.parquet, *.tar.
    out
        A file, with .parquet at its end; or else a folder of parts.
    device
        auto, cpu or cuda.
    workers
        Processes that load images; -1: as many as there are cores to spare.
    part_images
        Of a folder: images of a part, a multiple of 256.
    ray
        Of a folder: local, to have it written by a Ray of its own on this machine; auto or an address: by a cluster.
    actors
        Of Ray, at most; 0: one for each GPU, or without GPUs one for every two cores.
    """
    from coterie import api
    from coterie.cli.terminal import Terminal

    how = {"device": device, "workers": workers, "part_images": part_images, "ray": ray, "actors": actors}
    with closing(Terminal()) as terminal:
        written = api.embed(run, data, out, **how, logger=terminal)  # type: ignore[arg-type]
    show(f"{out}: {written} images")
