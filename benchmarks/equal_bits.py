"""Whether two checkouts train the same bits: shows that moving and renaming has changed nothing that is learned.

    python benchmarks/equal_bits.py OLD NEW [--steps 10] [--only swav cell-learned]

Each checkout gets a process of its own, with one thread and this environment's packages. It trains every preset, a few presets
with other settings, and every cell of the checkout's own ``tests/matrix``, all of them tiny, through ``coterie.pretrain``. Then
what came out is compared value by value: the weights of the backbone and of the snapshots, the newest checkpoint, the lines of
the log, the figures without labels. Tensors in a checkpoint may have other names, which is said; nothing else may, unless
``RENAMED`` says so. The cells that a checkout refuses have to be refused by both, in whatever words.

The status is 0 if nothing differs, else 1. ``--only`` takes parts of the names of cases.
"""

import argparse
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

RENAMED: dict[str, str] = {}
"""Keys of log lines and of tables in checkpoints: old -> new."""
SETTINGS_RENAMED: dict[str, str] = {
    "run.looks": "run.snapshots",
    "run.checkpoint_activations": "run.activation_checkpointing",
    "clip": "clip_grad_norm",
    "views.engine=device": "views.engine=gpu",
}
"""Paths of settings, their beginnings, or whole ``path=value``: old -> new. Used by a checkout that refuses the old ones."""

TIMED = {"images_per_second", "data_wait"}
CHECKPOINT = ("student", "objective", "optimizer", "monitor")
SUMS = {"weights": ("model", "snapshots", *CHECKPOINT), "log": ("log",), "label-free": ("label_free",)}

IMAGES = {"small": (128, 32, "RGB", "png"), "large": (128, 128, "RGB", "jpg"), "grey": (144, 16, "L", "png")}
BATCH = {"small": 32, "large": 32, "grey": 36}
ALWAYS = "run.threads=1 run.workers=0 run.log_steps=3 run.looks=2"
TINY = "run.precision=float32 backbone.width=0.125"
CROPS = "views.crops.0.size=32 views.crops.1.size=16"
ONE_SIZE = "views.crops.0.size=32"
WIDE = "projector.hidden=[256] groups.counts=12"
FAMILIES = f"{CROPS} views.crops.2.size=32 views.crops.3.size=16"
HEADS = "groups.counts=[12,10,8]"
WARMUP = "learning_rate.warmup_epochs=1"
VIT = "run.precision=float32 backbone.name=vit_tiny_patch16_224"  # the Swin itself takes half a minute
PUBLISHED = {
    "swav_imagenet_256": f"{TINY} {CROPS} groups.counts=12 groups.frozen_steps=3 memory.length=64 memory.start_epoch=1",
    "swav_imagenet_4096": f"{TINY} {CROPS} groups.counts=12 groups.frozen_steps=3 {WARMUP}",
    "swav_imagenet_2x224": f"{TINY} {ONE_SIZE} groups.counts=12 groups.frozen_steps=3 {WARMUP}",
    "swav_imagenet_w2": f"{TINY} {WIDE} {CROPS} memory=none groups.frozen_steps=3 {WARMUP}",
    "swav_imagenet_w4": f"{TINY} {WIDE} {CROPS} memory.length=32 groups.frozen_steps=3 {WARMUP}",
    "swav_imagenet_w5": f"{TINY} {WIDE} {CROPS} memory.length=32 groups.frozen_steps=3 {WARMUP}",
    "deepcluster_v2_imagenet_2x224": f"{TINY} {ONE_SIZE} {HEADS} {WARMUP}",
    "deepcluster_v2_imagenet_400": f"{TINY} {CROPS} {HEADS} {WARMUP}",
    "deepcluster_v2_imagenet_800": f"{TINY} {CROPS} {HEADS} {WARMUP}",
    "sela_v2_imagenet_400": f"{TINY} {CROPS} {HEADS} groups.frozen_steps=3 {WARMUP}",
    "smog_imagenet": f"{TINY} {FAMILIES} {HEADS} {WARMUP}",
    "smog_imagenet_swin_tiny": f"{VIT} {FAMILIES} {HEADS} {WARMUP}",
    "smog_imagenet_w2": f"{TINY} backbone.width=0.25 {FAMILIES} {HEADS} {WARMUP}",
}
OTHERWISE = {
    "swav in bfloat16": f"{TINY} run.precision=bfloat16",
    "swav on the device": f"{TINY} views.engine=device",
    "swav with a queue": f"{TINY} groups.counts=40 memory.length=64 memory.start_epoch=1 groups.frozen_steps=3",
    "swav with probes": f"{TINY} probe.train=['IMAGES'] probe.probes=['knn','linear','clusters','retrieval']",
    "smog in micro-batches": f"{TINY} micro_batches=4",
    "simclr recomputed": f"{TINY} run.checkpoint_activations=true optimizer.kind=sgd clip=1",
}


class Case(NamedTuple):
    """One run: on which images, with a preset or with the settings of a file, and what is set besides."""

    images: str
    preset: str | None
    settings: str
    file: dict[str, Any] | None = None
    refused: bool = False


def cases() -> dict[str, Case]:
    """All cases of the checkout that this process imports."""
    try:
        presets = import_module("coterie.methods.presets").METHODS
    except ModuleNotFoundError:
        presets = import_module("coterie.methods").METHODS
    found = {name: Case("small", name, TINY) for name in presets if name not in PUBLISHED}
    found |= {f"{name} on large images": Case("large", name, f"{TINY} {CROPS}") for name in found}
    found |= {name: Case("large", name, settings) for name, settings in PUBLISHED.items() if name in presets}
    found |= {name: Case("small", name.split()[0], settings) for name, settings in OTHERWISE.items()}
    matrix: Any = import_module("tests.matrix.cells")
    matrix.IMAGES = IMAGES["grey"][0]  # so long are the memories
    for cell in matrix.CELLS:
        file = matrix.settings_of(cell) | {"method": "swav"}  # a file has to name a preset; nothing is taken from it
        found[f"cell-{cell}"] = Case("grey", None, "run.precision=float32", file, cell in matrix.REFUSED)
    return found


def train_all(folder: Path, steps: int, only: list[str]) -> dict[str, dict[str, Any]]:
    """What became of each case."""
    found: dict[str, dict[str, Any]] = {}
    for name, case in sorted(cases().items()):
        if only and not any(part in name for part in only):
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(dir=folder) as out:
            found[name] = outcome(case, Path(out), folder / case.images, steps)
        print(f"{name:<44} {time.monotonic() - began:5.1f} s  {told(found[name])}", flush=True)
    return found


def told(outcome: Mapping[str, Any]) -> str:
    """The beginnings of three SHA-256, each over values sorted by name; or why there are no values."""
    if "values" not in outcome:
        return "; ".join(f"{kind}: {text[:150]}" for kind, text in outcome.items())
    said = []
    for name, parts in SUMS.items():
        chosen = sorted(item for item in outcome["values"].items() if item[0].partition("/")[0] in parts)
        said.append(f"{name} {hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]}")
    return "  ".join(said)


def outcome(case: Case, out: Path, images: Path, steps: int) -> dict[str, Any]:
    """The values of a case, or why there are none: it was refused, or failed."""
    import coterie  # not above: the process that compares imports neither checkout

    try:
        try:
            run = train(case, out / "run", images, steps, {})
        except coterie.UserError:
            run = train(case, out / "again", images, steps, SETTINGS_RENAMED)
        return {"values": dict(values_of(run))}
    except coterie.UserError as error:
        return {"refused" if case.refused else "failed": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"}


def train(case: Case, run: Path, images: Path, steps: int, renamed: Mapping[str, str]) -> Path:
    """The folder of a run of so many steps."""
    import tomli_w

    import coterie

    settings = f"{ALWAYS} {case.settings}".replace("IMAGES", str(images)).split()
    for old, new in renamed.items():
        settings = [re.sub(rf"^{re.escape(old)}(?=[.=]|$)", new, each) for each in settings]
    file = None
    if case.file is not None:
        file = run.with_suffix(".toml")
        file.write_text(tomli_w.dumps(case.file))
    batch = BATCH[case.images]
    epochs = math.ceil(steps / (IMAGES[case.images][0] // batch))
    sizes: dict[str, Any] = {"batch_size": batch, "epochs": epochs, "images": steps * batch}
    return coterie.pretrain(case.preset, images, out=run, config=file, settings=settings, **sizes)


def values_of(run: Path) -> Iterator[tuple[str, str]]:
    """Name and value of everything that a run has left; of a tensor its SHA-256."""
    import torch
    from safetensors.torch import load_file

    saved = {RENAMED.get(name, name): part for name, part in torch.load(max(run.glob("*/step-*.pt"))).items()}
    found: dict[str, Any] = {part: saved[RENAMED.get(part, part)] for part in CHECKPOINT}
    found["model"] = load_file(run / "model.safetensors")
    found["snapshots"] = {path.stem: load_file(path) for path in sorted(run.glob("*/*.safetensors"))}
    found |= {"log": {}, "label_free": {}}
    records = []
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = {RENAMED.get(key, key): value for key, value in json.loads(line).items() if key not in TIMED}
        records.append(record | ({"warning": True} if "warning" in record else {}))  # its words may change
    for number, record in enumerate(sorted(records, key=lambda each: (each["step"], sorted(each)))):
        found["label_free" if RENAMED.get("label_free", "label_free") in record else "log"][number] = record
    for part, table in found.items():
        assert table or part == "objective", f"{run}: no {part}"  # SwAV's objective has nothing to keep
        for path, value in flat(table):
            if isinstance(value, torch.Tensor):
                content = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                value = hashlib.sha256(f"{value.dtype} {list(value.shape)} ".encode() + content).hexdigest()
            yield f"{part}/{path}", str(value)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Path and value of all that lies in tables and lists."""
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, inner in value.items():
        yield from flat(inner, f"{path}/{RENAMED.get(key, key)}".lstrip("/"))


def compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the outcomes of a case are the same, and what is to be said of it."""
    if "values" not in old or "values" not in new:
        same = "refused" in old and "refused" in new
        return same, "refused by both" if same else f"DIFFERENT\n    {told(old)}\n    {told(new)}"
    same, said = True, ""
    for part in dict.fromkeys(name.partition("/")[0] for name in old["values"]):
        ours, theirs = ({k: v for k, v in each["values"].items() if k.startswith(f"{part}/")} for each in (old, new))
        names = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        if names and part in CHECKPOINT and sorted(ours.values()) == sorted(theirs.values()):
            said += f" ({part}: other names)"
        elif names:
            same, first = False, " | ".join(each.get(names[0], "nothing")[:24] for each in (ours, theirs))
            said += f"\n    {len(names)} of {len(ours | theirs)} values of {part}, the first {names[0]}: {first}"
    return same, ("same" if same else "DIFFERENT") + said


def write_images(folder: Path) -> None:
    """Smooth random pictures, in four folders, for the probes."""
    import numpy as np
    from PIL import Image

    for name, (count, side, mode, kind) in IMAGES.items():
        generator = np.random.default_rng(0)
        for number in range(count):
            path = folder / name / str(number % 4) / f"{number:03d}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), np.uint8))
            coarse.resize((side, side), Image.Resampling.BICUBIC).convert(mode).save(path)


def ask(checkout: Path, folder: Path, words: list[str]) -> dict[str, dict[str, Any]]:
    """What became of each case in a process that imports this checkout."""
    print(f"\n{checkout}", flush=True)
    changes = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    changes |= {"PYTHONPATH": f"{checkout}/src{os.pathsep}{checkout}", "COTERIE_CACHE": f"{folder}/cache"}
    command = [sys.executable, "-P", __file__, str(checkout), str(folder), "--child", *words]
    subprocess.run(command, env=os.environ | changes, check=True)
    found: dict[str, dict[str, Any]] = json.loads((folder / "found.json").read_text())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="a checkout")
    parser.add_argument("new", type=Path, help="another")
    parser.add_argument("--steps", type=int, default=10, help="of each run")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of the cases that are wanted")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    old, new = options.old.resolve(), options.new.resolve()
    if options.child:  # of the checkout ``old``, in the folder ``new``
        module = import_module("coterie")
        assert old / "src" in Path(str(module.__file__)).parents, f"{module.__file__} is not of {old}"
        (new / "found.json").write_text(json.dumps(train_all(new, options.steps, options.only)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder))
        before, after = (ask(checkout, Path(folder), sys.argv[3:]) for checkout in (old, new))
    print()
    differing = 0
    for name in sorted(before | after):
        same, said = False, "only one of the checkouts has it"
        if name in before and name in after:
            same, said = compared(before[name], after[name])
        differing += not same
        print(f"{name:<44} {said}")
    print(f"{len(before | after)} cases, {differing} differ")
    return int(differing > 0 or not before)


if __name__ == "__main__":
    sys.exit(main())
