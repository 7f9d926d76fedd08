"""What a source of very many images takes: time to open it, memory of each process, the order, and how well it mixes.

    python benchmarks/index.py [--millions 1,10,100,1000] [--workers 8] [--out benchmarks/results/index.json]

Tar: made-up shards of 10,000 images. The shards are sparse files, so that nothing but their index is real; it is written to
the cache folder as opening writes it, 44 bytes an image. From 200 million on, shards share index files by hard links (the
times and the counts are real, the page cache is not). Parquet: as many ``file://`` addresses of tables of 10,000 rows in row
groups of 1,000, all links to one file; footers are not kept, so that no more than 10 million rows are opened, and the rest
follows from them. Each measurement has a process of its own. Memory is the proportional set size (PSS): ``own`` is what the
process would free, ``mapped`` its share of mapped files, which the system drops when it needs the room; both above what a
source of one shard takes. Of the forked workers, which read at random in the 16 shards of a window, it is their mean.

What comes first in the life of a set, reading the headers of its shards, is measured on real shards of images and labels,
in turn with Python's tarfile alone (which keeps nothing of what it reads), and by one process and several.
"""

import argparse
import gc
import os
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from alternating import RESULTS, write_report
from loader_memory import hardware

SHARD = 10_000
BATCH = 256
STEPS = 400  # of a walk through an epoch
DISTINCT = 20_000  # shards that have index files of their own
MOST_TABLES = 1000
REPEATS = 3


def memory() -> np.ndarray:
    """MiB of this process: its own, and its share of mapped files."""
    lines = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()]
    return np.array([int(line[1]) / 1024 for name in ("Pss_Anon:", "Pss_File:") for line in lines if line[0] == name])


def made_up_batch() -> Any:
    """The index of a shard of images of about 100 kB."""
    import pyarrow as pa

    from coterie.data.sources.tar_index import _SCHEMA

    sizes = np.random.default_rng(0).integers(60_000, 140_000, SHARD)
    steps = 512 + -(-sizes // 512) * 512
    offsets = 512 + np.concatenate([[0], np.cumsum(steps)[:-1]])
    names = [f"{number:09d}.jpg".encode() for number in range(SHARD)]
    return pa.record_batch([names, offsets, sizes, pa.nulls(SHARD, pa.large_string())], schema=_SCHEMA)


def make_shards(folder: Path, shards: int) -> None:
    """Sparse shards and their index, in ``folder``."""
    from coterie.data.sources.shards import _local_shard
    from coterie.data.sources.tar_index import _path, save_index

    batch = made_up_batch()
    end = batch.column(1)[SHARD - 1].as_py() + batch.column(2)[SHARD - 1].as_py() + 10240
    for number in range(shards):
        path = folder / f"{number:06d}.tar"
        with path.open("wb") as file:
            file.truncate(end)
        key = _local_shard(str(path)).key
        if number < DISTINCT or number % 10_000 == 0:
            assert save_index(key, batch)
            last = _path(key)
        else:
            _path(key).parent.mkdir(parents=True, exist_ok=True)
            os.link(last, _path(key))


def walk(source: Any) -> tuple[Any, dict[str, float]]:
    """Some steps in the middle of an epoch: the order, which stays in memory, and where each image lies."""
    from coterie.data.loading.sampler import BlockShuffleSampler
    from coterie.data.sources.source import shard_layout

    began = time.perf_counter()
    order = BlockShuffleSampler(0, shard_layout(source))
    middle = len(source) // 2 // BATCH * BATCH
    order.indices(3, middle, middle + BATCH)
    first = time.perf_counter()
    for step in range(STEPS):
        position = (middle + step * BATCH) % (len(source) - BATCH)
        for index in order.indices(3, position, position + BATCH):
            source.name(int(index))
    each = (time.perf_counter() - first) / STEPS / BATCH
    return order, {"first_batch_seconds": first - began, "microseconds_an_image": each * 1e6}


def tar_source(folder: str, shards: int) -> Any:
    from coterie.data.sources.tar import TarShards

    return TarShards([f"{folder}/{number:06d}.tar" for number in range(shards)])


def table_source(folder: str, tables: int) -> Any:
    from coterie.data.sources.open import open_source

    return open_source(*[f"file://{folder}/{number:06d}.parquet" for number in range(tables)])


def wander(source: Any, finished: Any, measured: Any, results: Any) -> None:
    gc.collect()
    before = memory()
    rng = np.random.default_rng(os.getpid())
    shards = rng.integers(0, len(source) // SHARD, 16)  # the blocks of a window
    for _ in range(20_000):
        source.name(int(rng.choice(shards) * SHARD + rng.integers(SHARD)))
    gc.collect()
    finished.wait()
    results.put(memory() - before)
    measured.wait()


def opened(kind: Callable[[str, int], Any], folder: str, blocks: int, workers: int) -> dict[str, Any]:
    """Open, measure, walk, and measure the forked workers too."""
    kind(folder, 1)  # imports, and the first of everything
    gc.collect()
    before = memory()
    began = time.perf_counter()
    source = kind(folder, blocks)
    found: dict[str, Any] = {"images": len(source), "open_seconds": time.perf_counter() - began}
    gc.collect()
    found["open_mib"] = dict(zip(("own", "mapped"), (memory() - before).tolist(), strict=True))
    if kind is not tar_source:
        return found
    order, figures = walk(source)
    found |= figures
    gc.collect()
    found["run_mib"] = dict(zip(("own", "mapped"), (memory() - before).tolist(), strict=True))
    context = get_context("fork")
    finished, measured, results = context.Barrier(workers + 1), context.Barrier(workers + 1), context.Queue()
    processes = [context.Process(target=wander, args=(source, finished, measured, results)) for _ in range(workers)]
    for process in processes:
        process.start()
    finished.wait()
    grown = np.mean([results.get() for _ in processes], axis=0)
    found["worker_mib"] = dict(zip(("own", "mapped"), grown.tolist(), strict=True))
    measured.wait()
    for process in processes:
        process.join()
    assert order.count == len(source)
    return found


def real_shard(path: Path, form: int, mtime: float) -> None:
    """With members for an image and its label, as WebDataset's writers write them."""
    with tarfile.open(path, "w", format=form) as tar:
        for number in range(SHARD):
            for kind, size in (("jpg", 512), ("cls", 1)):
                member = tarfile.TarInfo(f"{number:09d}.{kind}")
                member.size, member.mtime = size, mtime
                tar.addfile(member, open("/dev/zero", "rb"))  # noqa: PTH123, SIM115


def headers(folder: Path) -> dict[str, Any]:
    """Reading the headers of a real shard, in turn with tarfile alone; and opening it again by its index. CPU time."""
    from coterie.data.sources.tar import TarShards
    from coterie.data.sources.tar_index import read_index

    def by_tarfile(path: Path) -> None:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while tar.next() is not None:
                tar.members.clear()

    def by_us(path: Path) -> None:
        with path.open("rb") as file:
            read_index(file, str(path))

    found: dict[str, Any] = {}
    for name, form, mtime in (("ustar", tarfile.USTAR_FORMAT, 0), ("pax_with_times", tarfile.PAX_FORMAT, 0.5)):
        path = folder / f"{name}.tar"
        real_shard(path, form, mtime)
        seconds: dict[str, list[float]] = {"tarfile": [], "coterie": []}
        for _ in range(REPEATS + 1):
            for who, read in (("tarfile", by_tarfile), ("coterie", by_us)):
                began = time.process_time()
                read(path)
                seconds[who].append((time.process_time() - began) / SHARD * 1e6)
        ratios = [old / new for old, new in zip(seconds["tarfile"][1:], seconds["coterie"][1:], strict=True)]
        found[name] = {f"{who}_microseconds_an_image": each[1:] for who, each in seconds.items()} | {"ratios": ratios}
    TarShards([str(path)])
    began = time.process_time()
    TarShards([str(path)])
    return found | {"again_microseconds_a_shard": (time.process_time() - began) * 1e6}


def indexing(folder: Path, many: int) -> dict[str, Any]:
    """Opening real shards for the first time, by one process and by one for each core, in turn. Wall time."""
    from coterie.data.sources import shards as shard
    from coterie.data.sources.tar import TarShards

    found: dict[str, Any] = {"shards": many, "one_process_seconds": [], "processes_seconds": []}
    worth = shard._MIN_SHARDS
    for repeat in range(REPEATS):
        for which, least in (("one_process", many + 1), ("processes", worth)):
            place = folder / f"{which}-{repeat}"
            place.mkdir()
            for number in range(many):
                (place / f"{number:04d}.tar").hardlink_to(folder / "ustar.tar")
            shard._MIN_SHARDS = least
            began = time.perf_counter()
            TarShards([str(path) for path in sorted(place.iterdir())])
            found[f"{which}_seconds"].append(time.perf_counter() - began)
    return found


def mixing(shards: int) -> dict[str, float]:
    """How well an epoch over so many shards is mixed; 1 is a permutation of all images."""
    from coterie.data.loading.sampler import BlockShuffleSampler
    from coterie.data.sources.shard_layout import ShardLayout

    order = BlockShuffleSampler(0, ShardLayout(np.arange(shards + 1) * SHARD, True))
    middle = order.count // 2 // BATCH * BATCH
    batches = order.indices(0, middle, min(order.count, middle + 100 * BATCH)).reshape(-1, BATCH)
    drawn = np.mean([len(np.unique(batch // SHARD)) for batch in batches])
    images = order.indices(0, 0, order.count) if shards <= 1000 else None
    found = {"shards_in_a_batch": float(drawn), "shards_in_a_window": shards / order.windows, "windows": order.windows}
    window = order.count / order.windows
    found["neighbors_meet_times_as_often"] = float(order.count / window)
    if images is not None:
        moved = np.abs(images - np.arange(order.count)).mean()
        found["distance_moved"] = float(moved / (order.count / 3))
    return found


def tables(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [bytes(8)] * SHARD}), folder / "table", row_group_size=1000)
    for number in range(MOST_TABLES):
        (folder / f"{number:06d}.parquet").symlink_to(folder / "table")


def fresh(call: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def main() -> int:
    parser = argparse.ArgumentParser(description="What a source of very many images takes.")
    parser.add_argument("--millions", default="1,10,100,1000")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--many", type=int, default=32, help="shards that are opened for the first time")
    parser.add_argument("--out", type=Path, default=RESULTS / "index.json")
    given = parser.parse_args()
    found: dict[str, Any] = {"tar": {}, "parquet": {}, "mixing": {}}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["COTERIE_CACHE"] = f"{folder}/cache"
        found["headers"] = fresh(headers, Path(folder))
        found["indexing"] = fresh(indexing, Path(folder), given.many)
        scales = [round(float(each) * 1e6) // SHARD for each in given.millions.split(",")]
        fresh(make_shards, Path(folder), max(scales))
        fresh(tables, Path(folder))
        for shards in scales:
            name = f"{shards * SHARD / 1e6:g} million"
            found["tar"][name] = fresh(opened, tar_source, folder, shards, given.workers)
            if shards <= MOST_TABLES:
                found["parquet"][name] = fresh(opened, table_source, folder, shards, given.workers)
            found["mixing"][name] = fresh(mixing, shards)
            print(name, *(found[kind].get(name) for kind in ("tar", "parquet", "mixing")), sep="\n  ", flush=True)
    result = {
        "what": "time and memory of a source of very many images, by the number of images",
        "command": f"python benchmarks/index.py --millions {given.millions} --workers {given.workers}",
        "shard": SHARD,
        **found,
        "hardware": hardware(),
    }
    write_report(given.out, result)
    print(found["headers"], found["indexing"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
