"""``coterie embed`` beside a plain script of timm and a DataLoader: CPU time in one process, one thread, taking turns.

    python benchmarks/embedding.py [--repeats 5] [--images 4000] [--photos 48] [--out benchmarks/results/embedding.json] [--toy]

Both read the same files, open the same weights, prepare the same pixels (timm's rules) and write a parquet file. The script is
what a good user writes: ``timm.create_model(num_classes=0).eval()``, timm's own transform on Pillow's images, batches of 64,
``inference_mode``. Coterie runs in float32 and as it comes (``auto``). A ratio is the median over the repeats of the ratio
within a repeat. Networks here have random weights, of which only the time matters.

Then with public weights (ImageNet's) on other images, steel at 224 pixels and CIFAR-10 at 64: the cosine between each test
row in bfloat16 and in float32, and 20-NN and a linear probe in both.
"""

import argparse
import io
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from alternating import RESULTS, SHARED, alternate, circumstances, compared, limit_threads, show_rows, write_report

limit_threads()

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import coterie
from coterie.config.hardware import choose_autocast
from coterie.embedding.embed import Embeddings
from coterie.evaluation.probes.embedding_probes import probe_embeddings

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCRIPT, FLOAT32, AUTO = "plain script", "coterie, float32", "coterie, as it comes"
PUBLIC = "data/public_weights/tf_efficientnet_lite0.safetensors"
PACKAGES = ("coterie", "numpy", "torch", "timm", "pillow", "simplejpeg", "pyarrow")


class Case(NamedTuple):
    """A network and its images."""

    backbone: str
    size: int
    crop: float
    interpolation: str


CASES = {
    "photographs, ResNet-50, 224 pixels": Case("resnet50", 224, 0.875, "bicubic"),
    "CIFAR-10, ResNet-18, 32 pixels": Case("resnet18", 32, 1.0, "bilinear"),
    "CIFAR-10, ResNet-18, 64 pixels": Case("resnet18", 64, 1.0, "bilinear"),
}


class Images(Dataset[Any]):
    """What a user's script has: files of a folder or the rows of a table, a transform, and a name for each."""

    def __init__(self, source: Path, transform: Callable[[Any], Tensor]) -> None:
        self.transform, self.table = transform, None
        if source.is_dir():
            self.names = [str(each) for each in sorted(source.iterdir())]
        else:
            self.table = pq.read_table(source).column("image").to_pylist()
            self.names = [str(number) for number in range(len(self.table))]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        file = self.names[index] if self.table is None else io.BytesIO(self.table[index]["bytes"])
        return self.transform(Image.open(file).convert("RGB")), self.names[index]


def script(case: Case, weights: Path, source: Path, out: Path) -> int:
    """The plain script."""
    network = timm.create_model(case.backbone, num_classes=0, checkpoint_path=str(weights)).eval()
    look = {"interpolation": case.interpolation, "mean": MEAN, "std": STD, "crop_pct": case.crop}
    images = Images(source, create_transform((3, case.size, case.size), **look))
    names: list[str] = []
    rows: list[Tensor] = []
    with torch.inference_mode():
        for batch, named in DataLoader(images, batch_size=64):
            rows.append(network(batch))
            names += named
    table = {"name": names, "embedding": list(torch.cat(rows).numpy())}
    pq.write_table(pa.table(table), out)
    return len(names)


def ours(case: Case, weights: Path, source: Path, out: Path, precision: str) -> int:
    """The same by Coterie, in this process."""
    look = {"size": case.size, "crop": case.crop, "interpolation": case.interpolation, "mean": MEAN, "std": STD}
    where = {"backbone": case.backbone, "precision": precision, "device": "cpu", "workers": 0, "quiet": True}
    return coterie.embed(weights, source, out, **look, **where)


def measure(case: Case, source: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """Times of the three, and how far their rows agree."""
    torch.manual_seed(0)
    weights = folder / f"{case.backbone}.safetensors"
    save_file(timm.create_model(case.backbone, num_classes=0, zero_init_last=False).state_dict(), weights)
    outs = {name: folder / f"{number}.parquet" for number, name in enumerate((SCRIPT, FLOAT32, AUTO))}
    contestants = {SCRIPT: partial(script, case, weights, source, outs[SCRIPT])}
    for name, precision in ((FLOAT32, "float32"), (AUTO, "auto")):
        contestants[name] = partial(ours, case, weights, source, outs[name], precision)
    for each in contestants.values():  # once before: imports, and the files come into memory
        each()
    times, counts = alternate(contestants, repeats)
    (count,) = set(counts.values())
    rows = {SCRIPT: times[SCRIPT].rounded()}
    rows |= {name: compared(times, name, {"script": SCRIPT}) for name in (FLOAT32, AUTO)}
    agreement = {f"cosine, {name}": cosines(outs[SCRIPT], outs[name]) for name in (FLOAT32, AUTO)}
    return {"images": count, **case._asdict(), "contestants": rows, **agreement}


def embeddings(path: Path) -> Tensor:
    """The rows of a file."""
    return torch.from_numpy(np.stack(pq.read_table(path)["embedding"].to_numpy()))


def cosines(path: Path, other: Path) -> dict[str, float]:
    """Of each row of a file with that of another: the least, and the mean."""
    found = nn.functional.cosine_similarity(embeddings(path).double(), embeddings(other).double())
    return {"least": round(float(found.min()), 7), "mean": round(float(found.mean()), 7)}


def agreement(model: Path, train: Path, test: Path, folder: Path, **look: Any) -> dict[str, Any]:
    """Of public weights in both precisions: each row, 20-NN and a linear probe."""
    found: dict[str, Any] = {}
    where = {"backbone": "tf_efficientnet_lite0", "device": "cpu", "workers": 0, "quiet": True}
    for precision in ("float32", "bfloat16"):
        rows = []
        for part, source in (("train", train), ("test", test)):
            out = folder / f"{part}-{precision}.parquet"
            coterie.embed(model, source, out, precision=precision, **look, **where)
            labels = torch.tensor(pq.read_table(out)["label"].to_pylist())
            rows.append(Embeddings(np.arange(len(labels)), embeddings(out), labels, ()))
        probes = probe_embeddings(("knn", "linear"), *rows)
        found[precision] = {"knn": probes["knn"]["k20_t0.07_top1"], "linear": probes["linear"]["top1"]}
    found["cosine"] = cosines(*(folder / f"test-{precision}.parquet" for precision in ("float32", "bfloat16")))
    return {"images": [len(each.index) for each in rows], **found}


def head_of(path: Path, images: int, out: Path) -> Path:
    """The first rows of a table of images."""
    pq.write_table(pq.read_table(path).slice(0, images), out)
    return out


def first_files(source: Path, count: int, folder: Path) -> Path:
    """A folder of links to the first files of another."""
    folder.mkdir()
    for each in sorted(source.glob("*.jpg"))[:count]:
        (folder / each.name).symlink_to(each.resolve())
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=4000, help="of CIFAR-10; a quarter at 64 pixels")
    parser.add_argument("--photos", type=int, default=48)
    parser.add_argument("--cases", default="", help="only those whose name contains this")
    parser.add_argument("--no-agreement", action="store_true", help="times alone")
    parser.add_argument("--toy", action="store_true", help="few images, small ones and a small network: a trial")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shared", default=str(SHARED))
    parser.add_argument("--out", type=Path, default=RESULTS / "embedding.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load, cases = os.getloadavg()[0], CASES
    if options.toy:
        cases = {name: each._replace(backbone="resnet10t", size=32) for name, each in CASES.items()}
        options.repeats, options.images, options.photos, options.no_agreement = 1, 40, 4, True
    shared = Path(options.shared)
    data, report = shared / "data", {"precision as it comes": str(choose_autocast("auto", torch.device("cpu")))}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        photos = first_files(data / "photos", options.photos, folder / "photos")
        cifar, quarter = data / "cifar10" / "test.parquet", options.images // 4
        small = head_of(cifar, options.images, folder / "cifar.parquet")
        fewer = head_of(cifar, quarter, folder / "fewer.parquet")
        sources = dict(zip(CASES, (photos, small, fewer), strict=True))
        for name, case in cases.items():
            if options.cases in name:
                report[name] = measure(case, sources[name], folder, options.repeats)
                show_rows({name: report[name]["contestants"][AUTO], "float32": report[name]["contestants"][FLOAT32]})
        if not options.no_agreement:
            steel, model = (data / "steel" / part for part in ("train", "test")), shared / PUBLIC
            report["agreement, steel"] = agreement(model, *steel, folder)
            some = (
                head_of(data / "cifar10" / f"{part}.parquet", 2 * quarter, folder / f"some-{part}.parquet")
                for part in ("train", "test")
            )
            report["agreement, CIFAR-10"] = agreement(model, *some, folder, size=64, crop=1.0)
            show_rows({name: report[name] for name in ("agreement, steel", "agreement, CIFAR-10")})
    write_report(options.out, {**circumstances(options, PACKAGES, load), **report})


if __name__ == "__main__":
    main()
