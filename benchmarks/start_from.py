"""Going on from public weights: what a network knows before and after, on photographs of steel and micrographs of cells.

    python benchmarks/start_from.py [--data steel,cells] [--recipe own,fresh] [--method swav] [--seed 0,1,2] [--split test]
    python benchmarks/start_from.py --table

``own`` is what the product chooses; each other recipe changes a part of it (``RECIPES``), at the same crops and epochs. A row
is judged as ``coterie evaluate`` does it, by 20-NN and a linear probe, and leaves one JSON file in ``results/start_from``; one
that is there is not run again. Steel: trained on the training photographs, judged on the test photographs; with ``--split
tuning``, by which choices are made, trained on 480 of the training photographs and judged on 240 others. Cells: trained on all
300 without labels; the probes learn from four fifths of them and are tested on the fifth, in turn.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from alternating import RESULTS, SHARED, command, commit, limit_threads, machine, model, write_report

THREADS = limit_threads()

import numpy as np
import torch

import coterie
from coterie.config.toml import from_dict, read_toml, to_dict
from coterie.data.sources.columns import Columns
from coterie.data.sources.open import open_source
from coterie.embedding.embed import Embeddings, embed_source
from coterie.evaluation.probes.knn import knn
from coterie.evaluation.probes.linear import linear
from coterie.exporting.model import open_model

NETWORK = "tf_efficientnet_lite0"
FOLDS = 5
TUNING = 80, 40
"""Training photographs of each kind of defect to train on and to judge by, where choices are made."""
RECIPES: dict[str, tuple[str, ...]] = {
    "own": (),
    "without-regularizer": ("regularizer=none",),
    "moving-statistics": ("backbone.frozen_statistics=false",),
    "fresh": (
        "regularizer=none",
        "backbone.frozen_statistics=false",
        "optimizer.layer_decay=1",
        "learning_rate.peak=1.4e-3",
        "learning_rate.final=1.4e-5",
    ),
}
"""What is set differently from the product's own choice; ``fresh``: as for random weights, at the rate for small images."""
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=words, default=["steel", "cells"])
    parser.add_argument("--recipe", type=words, default=["own"], help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--method", type=words, default=["swav"])
    parser.add_argument("--seed", type=lambda text: list(map(int, words(text))), default=[0, 1, 2])
    parser.add_argument("--split", choices=("test", "tuning"), default="test", help="of steel; cells have folds")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="of all rows; wants --tag")
    parser.add_argument("--tag", default="", help="part of the names of the rows")
    parser.add_argument("--epochs", type=int, help="else the product's own choice")
    parser.add_argument("--size", type=int, help="pixels at which all are judged; else as evaluate does it")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--out", type=Path, default=RESULTS / "start_from", help="folder of the rows")
    parser.add_argument("--toy", action="store_true", help="made-up images and random weights")
    parser.add_argument("--table", action="store_true", help="print what is there")
    options = parser.parse_args()
    if options.table:
        sys.stdout.write(table(options.out))
        return
    if options.set and not options.tag:
        parser.error("--set makes another row: name it with --tag")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        if options.toy:
            options.shared = toy_data(Path(folder) / "toy")
        for name, measure in rows(options, Path(folder)):
            out = options.out / f"{name}.json"
            if not out.exists():
                write_report(out, about(options) | measure())
            sys.stdout.write(f"{name}: {json.loads(out.read_text())['figures']}\n")
            sys.stdout.flush()


def words(text: str) -> list[str]:
    return text.split(",")


def rows(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], Row]]]:
    """The name of each row, and what measures it."""
    tag = f"-{options.tag}" if options.tag else ""
    for data in options.data:
        split = f"_{options.split}" if data == "steel" else ""
        for row, how in (("before", None), ("before-bilinear", "bilinear")):  # a run resizes images bilinearly
            made = row, how, data
            yield (
                f"{data}{split}_{row}{tag}",
                lambda m=made: {"row": m[0]} | judged(weights(options), m[2], options, interpolation=m[1]),
            )
        for method in options.method:
            for recipe in options.recipe:
                for seed in options.seed:
                    what = data, method, recipe, seed, options, folder
                    yield f"{data}{split}_{method}_{recipe}{tag}_seed{seed}", lambda w=what: trained(*w)


def trained(data: str, method: str, recipe: str, seed: int, options: argparse.Namespace, folder: Path) -> Row:
    """Go on from the weights, and judge."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    settings = (*RECIPES[recipe], *options.set, f"run.threads={options.threads}", "run.workers=0", "run.snapshots=0")
    began = time.process_time()
    coterie.pretrain(
        method,
        training_images(data, options),
        out=run,
        backbone=NETWORK,
        start_from=weights(options),
        epochs=options.epochs,
        seed=seed,
        settings=settings,
        quiet=True,
    )
    spent, config = time.process_time() - began, to_dict(from_dict(read_toml(run / "config.toml")))
    about_run = {"row": recipe, "method": method, "seed": seed, "set": settings, "cpu_seconds": round(spent, 1)}
    chosen = {"config": {name: value for name, value in config.items() if name not in ("data", "run")}}
    return about_run | judged(str(run), data, options) | chosen


def judged(what: str, data: str, options: argparse.Namespace, interpolation: str | None = None) -> Row:
    """20-NN and a linear probe on the features of a MODEL, in percent."""
    opened = open_model(what, backbone=NETWORK, size=options.size, interpolation=interpolation)

    def embedded(paths: list[str], labels: Path | None = None) -> Embeddings:
        columns = Columns(labels=None if labels is None else str(labels))
        return embed_source(opened.network, open_source(*paths, columns=columns), opened.preprocessing)

    home = options.shared / "data" / data
    if data == "steel":
        pairs = [tuple(map(embedded, steel(options)))]
    else:
        pairs = folds(embedded([str(home / "images")], home / "classes.csv"))
    asked = np.array([len(test.labels) for _, test in pairs])
    votes = [knn(*probed(pair), neighbors=(20,))["k20_t0.07_top1"] for pair in pairs]
    figures = {"knn20": votes, "linear": [linear(*probed(pair))["top1"] for pair in pairs]}
    means = {name: round(float(np.average(each, weights=asked)), 2) for name, each in figures.items()}
    return {"data": data, "figures": means, "asked": int(asked.sum()), "images": str(opened.preprocessing)}


def probed(pair: tuple[Embeddings, Embeddings]) -> tuple[torch.Tensor, ...]:
    train, test = pair
    return train.rows, train.labels, test.rows, test.labels


def steel(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The photographs to learn from and those to be asked about."""
    home = options.shared / "data" / "steel"
    if options.split == "test":
        return [str(home / "train")], [str(home / "test")]
    first, then = TUNING
    kinds = [sorted(kind.glob("*.jpg")) for kind in sorted((home / "train").iterdir()) if kind.is_dir()]
    mixed = [[kind[place] for place in np.random.default_rng(0).permutation(len(kind))] for kind in kinds]
    parts = [each for kind in mixed for each in kind[:first]], [each for kind in mixed for each in kind[first:][:then]]
    return tuple([str(each) for each in part] for part in parts)  # type: ignore[return-value]


def training_images(data: str, options: argparse.Namespace) -> list[str]:
    return steel(options)[0] if data == "steel" else [str(options.shared / "data" / data / "images")]


def folds(found: Embeddings) -> list[tuple[Embeddings, Embeddings]]:
    """Each fifth of every class once to be asked about; a class of fewer images than folds is only learned from."""
    fold, generator = np.full(len(found.labels), -1), np.random.default_rng(0)
    for label in np.unique(found.labels):
        places = generator.permutation(np.flatnonzero(found.labels == label))
        if len(places) >= FOLDS:
            fold[places] = np.arange(len(places)) % FOLDS

    def part(chosen: np.ndarray) -> Embeddings:
        places = torch.from_numpy(np.flatnonzero(chosen))
        return Embeddings(found.index[places], found.rows[places], found.labels[places], ())

    return [(part(fold != each), part(fold == each)) for each in range(FOLDS)]


def weights(options: argparse.Namespace) -> str:
    return str(options.shared / "data" / "public_weights" / f"{NETWORK}.safetensors")


def about(options: argparse.Namespace) -> Row:
    return {
        "command": command(),
        **machine(("coterie", "numpy", "torch", "timm")),
        "model": model(),
        "commit": commit(),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "split": options.split,
        "tag": options.tag,
    }


def table(folder: Path) -> str:
    """Before and after in markdown: means over the seeds, with their standard errors."""
    groups: dict[str, list[Row]] = {}
    for path in sorted(folder.glob("*.json")):
        groups.setdefault(path.stem.partition("_seed")[0], []).append(json.loads(path.read_text()))
    lines = ["| row | seeds | 20-NN | linear | CPU seconds |", "| --- | --- | --- | --- | --- |"]
    for name, found in groups.items():
        cells = []
        for figure in ("knn20", "linear"):
            values = [each["figures"][figure] for each in found]
            error = f" ± {statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{error}")
        seconds = [each["cpu_seconds"] for each in found if "cpu_seconds" in each]
        spent = f"{statistics.mean(seconds):.0f}" if seconds else "-"
        lines.append(f"| {name} | {len(found)} | {cells[0]} | {cells[1]} | {spent} |")
    return "\n".join(lines) + "\n"


def toy_data(shared: Path) -> Path:
    """Stripes of two widths in the places of the photographs and the micrographs, and random weights."""
    from PIL import Image
    from safetensors.torch import save_file

    from coterie.models.backbone import BackboneConfig, build_backbone

    generator, home = np.random.default_rng(0), shared / "data"
    stripes = {kind: np.arange(120)[:, None] // width % 2 * 128 for kind, width in (("wide", 12), ("narrow", 3))}

    def write(path: Path, kind: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = stripes[kind] + generator.integers(0, 128, (120, 120))
        Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(path)

    names = [f"{number:03d}" for number in range(1, 13)]
    for place, name in enumerate(names):
        for part in ("train", "test"):
            write(home / "steel" / part / ("wide", "narrow")[place % 2] / f"{name}.jpg", ("wide", "narrow")[place % 2])
        write(home / "cells" / "images" / f"{name}.png", ("wide", "narrow")[place % 2])
    labels = "\n".join(f"{place + 1},{place % 2}" for place in range(len(names)))
    (home / "cells" / "classes.csv").write_text(f"image ID,class label\n{labels}\n")
    (home / "public_weights").mkdir()
    network = build_backbone(BackboneConfig(NETWORK), 64)
    save_file(network.state_dict(), weights(argparse.Namespace(shared=shared)))
    return shared


if __name__ == "__main__":
    main()
