"""Keeps rehearsals in the user's cache folder, so that a plan serves the run after it, and a run the next one.

A rehearsal is found again by everything that the time of a step depends on: the machine, the versions, the network, the
crops, the batch, the precision, the passes of the method, and the kind of the images. A file that cannot be read or written
is ignored: then there is no rehearsal.
"""

import hashlib
import json
import math
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image

from coterie.atomic import write_text
from coterie.config.hardware import Runtime, choose_compile
from coterie.config.schema import PretrainConfig
from coterie.config.toml import to_dict
from coterie.data.decoding.decode import StoredImage
from coterie.data.sources.local_cache import cache_folder
from coterie.data.sources.source import ImageSource, sample_indices, shard_layout
from coterie.distributed.processes import world_size
from coterie.errors import UserError
from coterie.training.profiling.cores import cores_of_others, processor
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.threads import threads_to_try
from coterie.training.profiling.wait_policy import current_policy
from coterie.usable_cores import usable_cores
from coterie.version import __version__

MOST_FILES = 500
"""The most recent so many are kept; each has about two kilobytes."""
SAMPLED_IMAGES = 16
WITHOUT_EFFECT = (
    "method",
    "data",
    "learning_rate",
    "epochs",
    "images",
    "seed",
    "temperature",
    "probe",
    "run",
    "custom",
)
"""Settings that do not change the time of a step, or do so through what is listed otherwise."""
NESTED_WITHOUT_EFFECT = (
    ("views", "mean"),
    ("views", "std"),
    ("backbone", "weights"),
    ("groups", "frozen_steps"),
    ("memory", "start_epoch"),
    ("assignment", "temperature"),
)


def rehearsal_key(config: PretrainConfig, source: ImageSource, runtime: Runtime) -> dict[str, Any]:
    """Everything that the time of a step depends on.

    Where a rehearsal chooses between numbers of threads, that is also what the cores are busy with now, for which a quarter
    of a second is waited.
    """
    run, settings, threads = config.run, to_dict(config), threads_to_try(config, runtime.device)
    for name in WITHOUT_EFFECT:
        settings.pop(name, None)
    for table, name in NESTED_WITHOUT_EFFECT:
        if isinstance(settings.get(table), dict):
            settings[table].pop(name, None)
    eager = run.fsdp or run.activation_checkpointing or config.micro_batches > 1
    key = {
        "processor": processor(),
        "cores": len(usable_cores()),
        "threads": threads,
        "waiting": current_policy() if max(threads) > 1 else None,
        "busy": cores_of_others() if len(threads) > 1 else 0,
        "processes": world_size(),
        "device": torch.cuda.get_device_name(runtime.device) if runtime.device.type == "cuda" else "cpu",
        "precision": str(runtime.autocast),
        "workers": runtime.workers,
        "compiled": choose_compile(run.compile, runtime.device, config.total_steps(len(source)), eager),
        "recomputed": run.activation_checkpointing,
        "sharded": run.fsdp,
        "versions": {"coterie": __version__, **{name: version(name) for name in ("torch", "timm")}},
        "memory_used": config.memory is not None and config.memory.start_epoch < config.epochs,
        "images": images_kind(source),
        "settings": settings,
    }
    return dict(json.loads(json.dumps(key)))  # as it is read again


def key_with_threads(key: dict[str, Any], threads: int) -> dict[str, Any]:
    """The key of the same run with a number of threads that is set."""
    return key | {"threads": [threads], "waiting": key["waiting"] if threads > 1 else None, "busy": 0}


def load_rehearsal(key: dict[str, Any]) -> Rehearsal | None:
    """The rehearsal of this key; None if there is none that can be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        saved = json.loads(_path(key).read_text())
        found = saved["rehearsal"]
        if saved["key"] == key and all(_is_plausible(found[each.name], each.default) for each in fields(Rehearsal)):
            return Rehearsal(**found | {"cached": True})
    return None


def save_rehearsal(key: dict[str, Any], rehearsal: Rehearsal) -> None:
    """Keep a rehearsal; where the folder cannot be written, do nothing."""
    path, content = _path(key), {"key": key, "rehearsal": asdict(replace(rehearsal, cached=False))}
    with suppress(OSError, UserError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=2) + "\n")
        oldest_first = sorted(path.parent.glob("*.json"), key=lambda each: each.stat().st_mtime)
        for each in oldest_first[:-MOST_FILES]:
            each.unlink(missing_ok=True)


def images_kind(source: ImageSource) -> dict[str, Any]:
    """How images are stored and about how large they are, in steps of the square root of two, from a sample."""
    kinds: Counter[str] = Counter()
    sides = []
    for index in sample_indices(SAMPLED_IMAGES, source).tolist():
        with suppress(Exception):  # an image that cannot be read or decoded says nothing
            kind, height, width = _kind(source[index])
            kinds[kind] += 1
            sides.append(math.sqrt(height * width))
    if not sides:
        return {}
    return {
        "kind": kinds.most_common(1)[0][0],
        "size": round(2 * math.log2(median(sides))),
        "remote": shard_layout(source).remote,
    }


def _kind(image: StoredImage) -> tuple[str, int, int]:
    if isinstance(image, np.ndarray):
        return "array", image.shape[0], image.shape[1]
    if isinstance(image, Image.Image):
        return "array", image.height, image.width
    with Image.open(BytesIO(image)) as opened:
        return str(opened.format), opened.height, opened.width


def _is_plausible(value: Any, default: Any) -> bool:
    """Whether a saved value can be a time, a size, a day or a flag."""
    if isinstance(default, bool) or isinstance(value, str):
        return isinstance(value, bool | str)
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0


def _path(key: dict[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder() / "rehearsals" / f"{name}.json"
