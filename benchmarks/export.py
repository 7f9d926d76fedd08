"""Which network goes into which format, how far what the other library computes is from our own code, and ONNX Runtime's speed.

    python benchmarks/export.py [--networks resnet50 vit_small_patch16_224] [--formats onnx timm] [--out FILE]

Random weights from seed 0 (batch norms and layer scales too), images of 224 pixels. The difference is the one that
``coterie export`` itself checks: the largest of a batch, as a share of its largest value. Seconds are CPU time of one thread,
with the check. Speed: batches of eight images, from float pixels to features, alternating; CPU time of torch's eager mode, with
normalization, over that of the exported file.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from alternating import RESULTS, alternate, circumstances, limit_threads, ratio, write_report

THREADS = limit_threads()  # before torch comes in

import torch

from coterie.data.loading.center_crop import Preprocessing
from coterie.errors import UserError
from coterie.exporting.export import FORMATS, export_model
from coterie.exporting.formats.exportable import Exportable
from coterie.exporting.model import Model
from coterie.models.backbone import BackboneConfig, build_backbone

NETWORKS = (
    "resnet18 resnet50 resnet50:w0.25 resnet18:small vit_small_patch16_224 vit_base_patch16_224 vit_small_patch14_dinov2 "
    "swin_tiny_patch4_window7_224 convnext_tiny efficientnet_lite0"
).split()
"""A name of timm; ``:wN`` for a width, ``:small`` for the small stem."""
SIZE = 224


def exportable(text: str, size: int) -> Exportable:
    """A network with random weights, none of them at its neutral value."""
    name, _, change = text.partition(":")
    width = float(change[1:]) if change.startswith("w") else 1.0
    config = BackboneConfig(name, width=width, stem="small" if change == "small" else "standard")
    torch.manual_seed(0)
    network = build_backbone(config, size)
    with torch.no_grad():
        for tensor_name, each in network.state_dict().items():
            if each.is_floating_point() and each.ndim == 1:
                each += torch.rand_like(each) * (0.5 if tensor_name.endswith("running_var") else 0.1)
    look = Preprocessing(size, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return Exportable(Model(text, network.eval(), config, size, look))


def exported(what: Exportable, form: str, work: Path) -> dict[str, Any]:
    """Export once; a refusal is a row too."""
    began = time.process_time()
    try:
        done = export_model(what, form, work / form)
    except UserError as error:
        return {"refused": str(error)}
    size = sum(each.stat().st_size for each in done.folder.iterdir())
    seconds = round(time.process_time() - began, 2)
    found = {
        "difference": done.difference,
        "any_size": done.any_size,
        "cpu_seconds": seconds,
        "mib": round(size / 2**20, 1),
    }
    return found | {"library": done.library}


def speed(what: Exportable, work: Path, repeats: int) -> dict[str, float]:
    """How many times as fast as eager torch the files are that need no code of ours."""
    pixels = torch.rand(8, 3, what.model.preprocessing.size, what.model.preprocessing.size)
    contestants = {"eager": lambda: what.reference(pixels, "features")}
    if (work / "onnx").exists():
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(
            work / "onnx" / "model.onnx", options, providers=["CPUExecutionProvider"]
        )
        contestants["onnx"] = lambda: session.run(None, {"images": pixels.numpy()})
    if (work / "torch_export").exists():
        program = torch.inference_mode()(torch.export.load(work / "torch_export" / "model.pt2").module().forward)
        contestants["torch_export"] = lambda: program(pixels)
    for each in contestants.values():
        each()
    times, _ = alternate(contestants, repeats)
    return {name: ratio(times, name, "eager", "cpu") for name in contestants if name != "eager"}


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "export.json")
    options = parser.parse_args()
    load, rows = os.getloadavg()[0], {}
    for name in options.networks:
        what = exportable(name, options.size)
        with tempfile.TemporaryDirectory(prefix="coterie-export-") as work:
            row: dict[str, Any] = {form: exported(what, form, Path(work)) for form in options.formats}
            row["times_as_fast_as_eager_cpu"] = speed(what, Path(work), options.repeats)
        rows[name] = row
        sys.stdout.write(f"{name}: {json.dumps(row)}\n")
        sys.stdout.flush()
        write_report(options.out, circumstances(options, ("torch", "timm", "torchvision"), load) | {"networks": rows})


if __name__ == "__main__":
    main()
