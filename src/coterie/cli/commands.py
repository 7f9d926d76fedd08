"""The commands: each calls the function of its name in :mod:`coterie.api`, with the same parameters and defaults.

What a command needs is imported when it runs, so that ``coterie --help`` does not wait for torch.
"""

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from coterie.cli.importing import importing
from coterie.cli.leaving import kept_of_run
from coterie.cli.parsing import (
    EmbedFlags,
    EvaluationFlags,
    Images,
    Method,
    Model,
    RunFlags,
    Sources,
    Trackers,
    comma_separated,
    refuse_unknown_method,
    show,
)
from coterie.cli.waiting import wait_as_is_fastest
from coterie.config.option_values import Whole
from coterie.signals import if_stopped


def plan(method: Method = None, /, *data: Images, options: RunFlags = None) -> None:
    """Print what pretrain would train, why each automatic value, how long it takes and how much memory; train nothing."""
    refuse_unknown_method(method, options)
    wait_as_is_fastest(options)
    with importing():
        from coterie import api
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        found = api.plan(method, data, logger=terminal, **(options or {}))
    show(str(found))


def profile(method: Method = None, /, *data: Images, options: RunFlags = None, seconds: float = 20.0) -> None:
    """Print where the time of a step goes, and what to change: a short run, of which nothing is kept.

    Parameters
    ----------
    seconds
        Seconds of steps; warm-up and the rest take some more.
    """
    refuse_unknown_method(method, options)
    wait_as_is_fastest(options)
    with importing():
        from coterie import api
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        found = api.profile(method, data, seconds=seconds, logger=terminal, **(options or {}))
    show(str(found))


def pretrain(
    method: Method = None,
    /,
    *data: Images,
    out: Annotated[Path, Parameter(name="--out")],
    options: RunFlags = None,
    probe: Sources = (),
    probe_test: Sources = (),
    on_collapse: Literal["warn", "stop"] | None = None,
    early_stop: bool | None = None,
    track: Trackers = (),
) -> None:
    """Pretrain a backbone on unlabeled images. Run the same command again to resume.

    Parameters
    ----------
    out
        The run's folder: config.toml, metrics.jsonl, model.safetensors, checkpoint, report.html.
    probe
        Labeled images for a kNN probe during training. [default: none]
    probe_test
        Labeled images to test the probe on; without it, a random fifth of --probe. [default: none]
    on_collapse
        What to do when the run looks collapsed: warn (and continue) or stop. [default: warn]
    early_stop
        Stop early when the label-free metrics plateau. [default: no]
    track
        Pass the log on to TensorBoard or Weights & Biases, each an extra of its name. [default: none]
    """
    refuse_unknown_method(method, options)
    with if_stopped(partial(kept_of_run, out)):
        wait_as_is_fastest(options)
        with importing():
            from coterie import api
            from coterie.display.terminal import Terminal

        with closing(Terminal()) as terminal:
            folder = api.pretrain(
                method,
                data,
                out=out,
                probe=probe,
                probe_test=probe_test,
                on_collapse=on_collapse,
                early_stop=early_stop,
                track=track,
                logger=terminal,
                **(options or {}),
            )
    show(f"{folder}: the backbone is in {folder / 'model.safetensors'}; open {folder / 'report.html'} in a browser")


def evaluate(
    model: Model,
    /,
    *train: str,
    test: Sources = (),
    probes: str = "knn,linear",
    beside: Sources = (),
    details: bool = False,
    options: EvaluationFlags = None,
) -> None:
    """Evaluate a network on labeled images, beside raw pixels, the untrained network and other models; or a classifier.

    Parameters
    ----------
    train
        Labeled images that the probes learn from; of a classifier, a detector or a segmenter, those to test it on.
    test
        Labeled images to test the probes on; without it, a random fifth of TRAIN. [default: none]
    probes
        Separated by commas: knn, linear, linear_published, clusters, retrieval, svm, low_shot, linear_blocks, linear_images,
        finetune.
    beside
        Other models to compare; --backbone and --size are theirs too. [default: none]
    details
        Print every metric: each k and temperature of kNN, top 5, mean per class.
    """
    with importing():
        from coterie import api
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        names, opened = comma_separated(probes), options or {}
        result = api.evaluate(
            model, train, test, probes=names, beside=beside, details=details, logger=terminal, **opened
        )
    show(str(result))


def select(run: Path, /, *, by: Literal["label_free", "knn"] = "label_free", out: Path | None = None) -> None:
    """Select one of the snapshots of a run, without labels, and say why.

    Parameters
    ----------
    run
        A run's folder.
    by
        label_free, or knn: the accuracy of the run's own probe.
    out
        A file to copy its weights to, in bfloat16 as a run keeps them. [default: none]
    """
    with importing():
        from coterie import api

    show(str(api.select(run, by=by, out=out)))


def compare(*runs: Path, out: Path | None = None) -> None:
    """Compare runs side by side: one table, and one page.

    Parameters
    ----------
    runs
        Two or more runs' folders.
    out
        An HTML file: the table, and one chart per metric with the curves of all runs. [default: none]
    """
    with importing():
        from coterie import api

    show(str(api.compare(runs, out=out)))


def report(run: Path, /, *, images: Sources = (), device: str = "auto") -> None:
    """Rewrite a run's report.html from what its folder holds by now.

    Parameters
    ----------
    run
        A run's folder.
    images
        The run's images, if they have moved; without it, they are looked for where the run found them. [default: none]
    device
        One of auto (CUDA if there is a usable GPU), cpu, cuda, cuda:N.
    """
    with importing():
        from coterie import api
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        page = api.report(run, images=images, device=device, logger=terminal)
    show(f"open {page} in a browser")


def embed(
    model: Model,
    /,
    *data: str,
    out: Annotated[Path, Parameter(name="--out")],
    features: Literal["pooled", "patch", "map"] = "pooled",
    arrays: Literal["parquet", "npy"] = "parquet",
    options: EmbedFlags = None,
) -> None:
    """Write name, label, embedding, group and its probability of each image: one file, or a folder of parts.

    Run the same command again to complete a folder of parts; torchrun or --ray writes it with many processes.

    Parameters
    ----------
    data
        Folders, text lists of files, globs, *.parquet, *.tar.
    out
        A file ending in .parquet or .npy, or else a folder of parts.
    features
        pooled: an embedding of each image; patch or map: what the network computes last before it pools, as rows or as a map.
    arrays
        For a folder: whether the parquet parts hold the features, or an .npy file for each in _arrays.
    """
    with importing():
        from coterie import api
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        written = api.embed(
            model,
            data,
            out,
            features=features,
            arrays=arrays,
            logger=terminal,
            **(options or {}),
        )
    show(f"{out}: {written} images")


def demo(*, out: Annotated[Path, Parameter(name="--out")] = Path("demo"), seed: Whole = 0) -> None:
    """Run the whole workflow on built-in photographs: offline, on a CPU, in minutes.

    Parameters
    ----------
    out
        Where the run and its report.html go.
    seed
        Seed for weights, data order and augmentation.
    """
    wait_as_is_fastest(None)
    with importing():
        from coterie.cli.demo import demo as run_demo
        from coterie.display.terminal import Terminal

    with closing(Terminal()) as terminal:
        lines = run_demo(out, seed=seed, logger=terminal)
    show(*lines)


def schema() -> None:
    """Print the JSON schema of config.toml, with which an editor completes and checks settings."""
    import json

    from coterie.config.json_schema import config_schema

    show(json.dumps(config_schema(), indent=2))
