import io
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coterie.data.augmentation.view_plan import Crops, ViewPlan
from coterie.data.loading import sampler
from coterie.data.loading.loader import Loader
from coterie.data.loading.prefetch import WindowPrefetcher
from coterie.data.loading.sampler import BlockShuffleSampler
from coterie.data.sources import object_store, tar_index
from coterie.data.sources.local_cache import find_copy
from coterie.data.sources.object_store import retry
from coterie.data.sources.open import open_source
from coterie.data.sources.remote_parquet import RemoteTable
from coterie.data.sources.source import Concatenated, Prefetchable, label_matrix, labels, shard_layout
from coterie.data.sources.tar import TarShards
from coterie.embedding.cache import source_key
from coterie.errors import BadImage, NoImages, UserError
from tests.data.store import Store, breaking_line, png, tar

pytest.importorskip("moto.server", reason="moto is not installed: scripts/install test-remote")
s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: scripts/install test-remote")

PLAN = ViewPlan(crops=(Crops(2, 8, (0.5, 1.0)),), mean=(0.5,) * 3, std=(0.5,) * 3)
SHARD = len(tar(0, 20))


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        started = Store()
        yield started
        started.stop()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "copies"


@pytest.fixture
def store(server, monkeypatch) -> Store:
    reach(server.port, monkeypatch)
    return server


def reach(port: int, monkeypatch) -> None:
    """Direct whatever is opened from now on to this port."""
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")


@pytest.fixture
def shards(store, request) -> str:
    """Six shards of 20 images each, with the seeds 0 to 119."""
    bucket = f"b{abs(hash(request.node.name)) % 10**9}"
    for number in range(6):
        store.put(f"{bucket}/shards/{number}.tar", tar(20 * number, 20))
    return f"s3://{bucket}/shards/*.tar"


def table(images: list[bytes | None], group: int = 10, **columns: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"image": images} | columns), file, row_group_size=group)
    return file.getvalue()


def copies(cache: Path) -> int:
    return sum(not path.name.startswith(".") for path in cache.iterdir()) if cache.exists() else 0


def images(source) -> list[bytes]:
    return [source[number] for number in range(len(source))]


def seen(source, workers: int = 0, start: int = 0, **settings) -> list[list[int]]:
    settings = {"batch_size": 20, "epochs": 2, "seed": 0} | settings
    batches = [batch for _, batch in Loader(source, PLAN, workers=workers, **settings).batches(start)]
    assert all(batch.bad == () for batch in batches)
    return [batch.index.tolist() for batch in batches]


def one_line(kind: type[UserError], words: str, call: Callable[[], object]) -> str:
    with pytest.raises(kind, match=words) as found:
        call()
    assert len(str(found.value).splitlines()) == 1
    return str(found.value)


def test_tar_shards(shards, cache):
    source = open_source(shards)
    assert isinstance(source, TarShards)
    assert images(source) == [png(seed) for seed in range(120)]
    assert source.name(25) == "00025.png"
    assert source.files()[0].startswith(b"s3://")
    assert shard_layout(source).starts.tolist() == list(range(0, 121, 20))
    assert copies(cache) == 6
    some = open_source(shards.replace("*", "2"))
    assert images(some) == images(source)[40:60]
    assert images(pickle.loads(pickle.dumps(some))) == images(some)


def test_labels_of_shards(store):
    for number, label in enumerate(["dog", "cat"]):
        store.put(f"labeled/{number}.tar", tar(number, 1, cls=label))
    store.put("labeled/2.tar", tar(2, 1))
    source = open_source("s3://labeled/*.tar")
    assert (source.classes, labels(source).tolist()) == (("cat", "dog"), [1, 0, -1])


def test_embeddings_of_a_replaced_shard_are_not_reused(store):
    store.put("once/0.tar", tar(0, 2))
    before = source_key(open_source("s3://once/*.tar"))
    assert before == source_key(open_source("s3://once/*.tar"))
    store.put("once/0.tar", tar(1, 2))
    assert before != source_key(open_source("s3://once/*.tar"))


def test_an_index_is_read_once_and_images_are_then_read_one_by_one(shards, cache, monkeypatch):
    monkeypatch.setattr(tar_index, "MIN_SAVED_IMAGES", 1)
    open_source(shards)
    for copy in cache.iterdir():
        if copy.is_file():
            copy.unlink()
    again = open_source(shards)
    assert [again[number] for number in range(0, 120, 7)] == [png(seed) for seed in range(0, 120, 7)]
    assert copies(cache) == 0  # neither opening it nor reading a few images copied a shard
    for number in range(20, 40):
        assert again[number] == png(number)
    assert copies(cache) == 1  # reading many of one shard did


def test_parquet_tables(store, cache):
    rows = [png(seed) for seed in range(30)]
    pictures = [{"bytes": data, "path": f"{seed}.png"} for seed, data in enumerate(rows)]
    store.put("tables/0.parquet", table(pictures, label=["cat", "dog", None] * 10))
    store.put("tables/1.parquet", table([*rows[:9], None]))
    store.put("tables/notes.json", b"{}")
    source = open_source("s3://tables/*")
    assert isinstance(source, Concatenated)
    assert (len(source), source.classes, labels(source)[:3].tolist()) == (40, ("cat", "dog"), [0, 1, -1])
    assert [source.name(row) for row in (3, 29, 31)] == ["3.png", "29.png", "1/00000001"]
    first = source.sources[0]
    assert isinstance(first, RemoteTable)
    assert [first[row] for row in (3, 5, 9)] == [rows[3], rows[5], rows[9]]
    assert copies(cache) == 0  # one row group was enough
    assert images(first) == rows
    assert copies(cache) == 1
    assert images(pickle.loads(pickle.dumps(first))) == rows
    assert source[38] == rows[8]
    with pytest.raises(BadImage, match="no bytes"):
        source[39]
    with pytest.raises(IndexError):
        first[30]
    store.put("tables/several.parquet", table(rows[:2], labels=[["a", "b"], []]))
    assert label_matrix(open_source("s3://tables/several.parquet")).rows.tolist() == [[True, True], [False, False]]
    assert sorted(chain.from_iterable(seen(first, workers=2, batch_size=15, epochs=1))) == list(range(30))


def test_a_run_over_a_store(shards, cache):
    source = open_source(shards)
    whole = seen(source)
    assert len(whole) == 12
    for epoch in (whole[:6], whole[6:]):
        assert sorted(chain.from_iterable(epoch)) == list(range(120))
    assert seen(source, workers=2) == whole
    assert seen(source, workers=2, start=7) == whole[7:]
    shared = [seen(open_source(shards), rank=rank, world_size=2) for rank in range(2)]
    assert [a + b for a, b in zip(*shared, strict=True)] == whole


def test_a_cache_that_holds_two_shards_of_six(shards, cache, monkeypatch):
    whole = seen(open_source(shards))
    monkeypatch.setattr(sampler, "WINDOW_BLOCKS", 2)
    monkeypatch.setattr(sampler, "WINDOW_IMAGES", 20)
    wide = seen(open_source(shards))
    assert wide != whole
    for copy in cache.iterdir():
        if copy.is_file():
            copy.unlink()
    monkeypatch.setenv("COTERIE_CACHE_GIB", str((2 * SHARD + 100) / 2**30))
    assert seen(open_source(shards), workers=2) == wide
    assert sum(path.stat().st_size for path in cache.iterdir() if path.is_file()) <= 2 * SHARD


def test_copies_that_vanish_under_a_run(shards, cache):
    source = open_source(shards)
    whole = seen(source)
    batches = iter(Loader(source, PLAN, batch_size=20, epochs=2, seed=0).batches())
    found = []
    for _, batch in batches:
        found.append(batch.index.tolist())
        assert batch.bad == ()
        for copy in cache.iterdir():
            if copy.is_file():
                copy.unlink(missing_ok=True)
    assert found == whole


def test_a_store_that_fails_and_recovers(shards, store, cache, monkeypatch):
    monkeypatch.setattr(tar_index, "MIN_SAVED_IMAGES", 1)
    source = open_source(shards)
    for copy in cache.iterdir():
        if copy.is_file():
            copy.unlink()
    store.stop()
    back = threading.Timer(2.0, store.start)
    back.start()
    try:
        assert source[3] == png(3)
        assert isinstance(source, Prefetchable)
    finally:
        back.join()
    source.prefetch(0, 120)
    assert copies(cache) == 6


def test_a_store_that_does_not_answer_ends_the_run_in_one_line(shards, store, cache, monkeypatch):
    monkeypatch.setattr(tar_index, "MIN_SAVED_IMAGES", 1)
    monkeypatch.setattr(object_store, "READ_RETRY_SECONDS", 1.0)
    monkeypatch.setattr(object_store, "OPEN_RETRY_SECONDS", 1.0)
    source = open_source(shards)
    for copy in cache.iterdir():
        if copy.is_file():
            copy.unlink()
    store.stop()
    try:
        said = one_line(UserError, r"the store has not answered for \d+ seconds", lambda: seen(source, workers=2))
        assert "run the same command again to resume" in said
        one_line(UserError, "the store has not answered.*check the network", lambda: open_source(shards))
    finally:
        store.start()
    assert len(seen(source, workers=2)) == 12


def test_a_connection_that_breaks(shards, store, cache, monkeypatch):
    expected = images(open_source(shards))
    large = b"".join(tar(0, 20)[:-10240] for _ in range(40)) + bytes(10240)
    store.put("large/x.tar", large)
    with breaking_line(store.port, cuts=12, after=100_000) as (port, answers):
        reach(port, monkeypatch)
        source = open_source("s3://large/x.tar")
        assert [source[row] for row in (0, 399, 799)] == [expected[0], expected[19], expected[19]]
    assert sum(100_000 < passed < 200_000 for passed in answers) >= 12
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_shard_that_disappears_or_changes_under_the_run(shards, store, cache, monkeypatch):
    monkeypatch.setattr(tar_index, "MIN_SAVED_IMAGES", 1)
    source = open_source(shards)
    for copy in cache.iterdir():
        if copy.is_file():
            copy.unlink()
    bucket = shards.removeprefix("s3://").removesuffix("*.tar")
    store.delete(f"{bucket}0.tar")
    for row in (0, 1):
        one_line(BadImage, r"shards/0\.tar no longer exists", lambda row=row: source[row])
        store.put(f"{bucket}0.tar", tar(0, 20))  # too late: the store is not asked again for each image
    store.put(f"{bucket}1.tar", tar(500, 20))
    one_line(BadImage, "has changed", lambda: source.prefetch(20, 40))
    assert source[40] == png(40)
    (_, batch), *_ = Loader(source, PLAN, batch_size=120, epochs=1, seed=0).batches()
    assert {row for row, _ in batch.bad} >= set(range(20))


def test_windows_are_prefetched(shards, cache, monkeypatch):
    monkeypatch.setattr(sampler, "WINDOW_BLOCKS", 2)
    monkeypatch.setattr(sampler, "WINDOW_IMAGES", 20)
    monkeypatch.setattr(tar_index, "MIN_SAVED_IMAGES", 1)
    source = open_source(shards)
    for copy in cache.iterdir():
        if copy.is_file():
            copy.unlink()
    arranged = BlockShuffleSampler(0, shard_layout(source))
    assert isinstance(source, Prefetchable)
    prefetcher = WindowPrefetcher(source, arranged)
    prefetcher.move_to(0, 0)
    wanted = {run[0] // 20 for window in (0, 1) for run in arranged.ranges(0, window)}

    def here() -> set[int]:
        return {number for number, shard in enumerate(source._shards) if find_copy(shard.key)}

    until(lambda: here() == wanted)
    assert len(wanted) == 4
    prefetcher.move_to(0, 100)  # the last window of the epoch: the next is the first of the next epoch
    wanted |= {run[0] // 20 for run in [*arranged.ranges(0, 2), *arranged.ranges(1, 0)]}
    until(lambda: here() == wanted)
    process = prefetcher.prefetching.process
    prefetcher.close()
    assert not process.is_alive()


def until(condition: Callable[[], bool], seconds: float = 100.0) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it does not happen"
        time.sleep(0.01)


def be_killed_while_prefetching(url: str, pids) -> None:
    source = open_source(url)
    prefetcher = WindowPrefetcher(source, BlockShuffleSampler(0, shard_layout(source)))
    prefetcher.move_to(0, 0)
    pids.put(prefetcher.prefetching.process.pid)
    time.sleep(0.5)
    os.kill(os.getpid(), 9)


def test_the_prefetch_process_ends_with_the_run_however_that_ends(shards):
    context = get_context("fork")
    pids = context.Queue()
    process = context.Process(target=be_killed_while_prefetching, args=(shards, pids))
    process.start()
    helper = pids.get(timeout=100)
    process.join()
    until(lambda: not Path(f"/proc/{helper}").exists() or "Z" in Path(f"/proc/{helper}/stat").read_text().split()[2])


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_other_stores(scheme, tmp_path, cache):
    import fsspec

    place = f"{scheme}://{tmp_path}"
    for number in range(2):
        with fsspec.open(f"{place}/{number}.tar", "wb") as file:
            file.write(tar(20 * number, 20))
        with fsspec.open(f"{place}/{number}.parquet", "wb") as file:
            file.write(table([png(seed) for seed in range(20 * number, 20 * number + 20)]))
    for kind in ("tar", "parquet"):
        source = open_source(f"{place}/*.{kind}")
        assert shard_layout(source).remote
        assert images(source) == [png(seed) for seed in range(40)]
        assert copies(cache) in (2, 4)
        assert sorted(chain.from_iterable(seen(source, workers=1, epochs=1))) == list(range(40))


def test_every_mistake_is_one_plain_line(store):
    store.put("mistakes/broken.tar", b"no tar" * 500)
    store.put("mistakes/broken.parquet", b"no parquet" * 500)
    store.put("mistakes/empty.parquet", table([], image=pa.array([], pa.binary())))
    store.put("mistakes/notes.txt", b"hello")
    for spec, kind, words in (
        ("s3://mistakes/broken.tar", UserError, "not a complete tar"),
        ("s3://mistakes/broken.parquet", UserError, "not a readable parquet file"),
        ("s3://mistakes/empty.parquet", NoImages, "no rows"),
        ("s3://mistakes/missing.tar", NoImages, "nothing is there"),
        ("s3://mistakes/x*.tar", NoImages, "nothing is there"),
        ("s3://mistakes/notes.txt", NoImages, "whole shards"),
        ("s3://mistakes", NoImages, r"whole shards, such as 's3://mistakes/\*\.tar'"),
        ("gs://bucket/*.tar", UserError, r"pip install 'coterie\[remote\]'"),
        ("nothing://bucket/*.tar", UserError, "not an address that fsspec can read"),
    ):
        assert spec in one_line(kind, words, lambda spec=spec: open_source(spec))


def test_no_room_for_a_shard(shards, monkeypatch):
    monkeypatch.setenv("COTERIE_CACHE_GIB", "0")
    one_line(UserError, "COTERIE_CACHE_GIB", lambda: open_source(shards))
    monkeypatch.setenv("COTERIE_CACHE_GIB", "64")
    assert len(open_source(shards)) == 120
    monkeypatch.setenv("COTERIE_CACHE_GIB", "lots")
    one_line(UserError, "a number of GiB", lambda: open_source(shards))  # although all copies exist


def test_calls_are_retried():
    tries = []

    def fail(error: Exception) -> Callable[[], None]:
        def call() -> None:
            tries.append(error)
            if len(tries) < 3 or not isinstance(error, TimeoutError):
                raise error

        return call

    retry("x://y", fail(TimeoutError("slow\nstore")), 10)
    assert len(tries) == 3
    for error, kind, words in (
        (FileNotFoundError("x"), FileNotFoundError, "x"),
        (PermissionError("secret\nwrong"), UserError, "secret wrong.: check its credentials"),
        (OSError(28, "No space left"), OSError, "No space"),
        (NoImages("plain"), NoImages, "plain"),
    ):
        tries.clear()
        with pytest.raises(kind, match=words):
            retry("x://y", fail(error), 10)
        assert len(tries) == 1
    with pytest.raises(UserError, match=r"x://y: the store has not answered for \d seconds \(ConnectionError: off\)"):
        retry("x://y", fail(ConnectionError("off")), 1)
