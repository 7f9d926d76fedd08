"""A folder of parts: row by row the single table, whatever interrupts it, and never mixed with anything else."""

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

import coterie
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.loading.prefetch import PrefetchProcess
from coterie.data.sources.local_cache import cache_folder
from coterie.data.sources.open import open_source
from coterie.data.sources.source import Prefetchable, shard_layout
from coterie.embedding.embed import Embedder
from coterie.embedding.parquet import row_schema
from coterie.embedding.parts import TableParts
from coterie.embedding.rows import EmbeddingRows
from coterie.errors import BadRun, NoImages, UserError
from tests.data.store import tar
from tests.embedding.running import BROKEN, IMAGES, PART, PARTS, Made, assert_same_rows, stamps, until_begun

HOW = {"workers": 0, "part_images": PART}


class Recorder:
    """A logger that keeps messages and counts batches."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.steps = 0

    def info(self, text: str) -> None:
        self.messages.append(text)

    warning = info

    def log_metrics(self, record: dict, total_steps: int) -> None: ...

    def progress(self, items, total: int, what: str):
        for self.steps, item in enumerate(items, start=1):
            yield item
        assert self.steps == total


@pytest.fixture
def complete(made: Made, tmp_path: Path) -> Path:
    """A folder that has all its parts."""
    assert coterie.embed(made.run, made.images, tmp_path / "complete", **HOW) == IMAGES - len(BROKEN)
    return tmp_path / "complete"


def test_parts_are_the_single_table(made: Made, complete: Path) -> None:
    assert_same_rows(complete, made)
    assert pyarrow.dataset.dataset(complete).count_rows() == IMAGES - len(BROKEN)
    lengths = [pq.read_metadata(complete / name).num_rows for name in PARTS]
    assert lengths == [PART - 1, PART - 1, PART, PART, IMAGES - 4 * PART - 1]
    assert sorted(path.name for path in (complete / "_bad_images").iterdir()) == [
        f"part-0000000{number}.txt" for number in (0, 1, 4)
    ]


def test_only_missing_parts_are_written(made: Made, complete: Path) -> None:
    before, logger = stamps(complete), Recorder()
    coterie.embed(made.run, made.images, complete, **HOW, logger=logger)
    assert stamps(complete) == before
    assert logger.steps == 0
    (complete / PARTS[1]).unlink()
    (complete / f".{PARTS[1]}.4194305.part").write_bytes(b"what a killed process left")
    assert coterie.embed(made.run, made.images, complete, **HOW, logger=logger) == IMAGES - len(BROKEN)
    after = stamps(complete)
    assert {name for name in PARTS if after[name] != before[name]} == {PARTS[1]}
    assert logger.steps == 2
    assert "4 of 5 parts are there already" in logger.messages
    assert any(text.startswith("3 images could not be decoded") for text in logger.messages)
    assert_same_rows(complete, made)


def test_a_killed_process_is_resumed(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = made.started(out, "--workers", "1")
    until_begun(out, process, PARTS[2])
    process.kill()
    process.communicate()
    there = stamps(out)
    assert list(out.glob(".part-*.part")), "it was killed between two parts"
    assert there.keys() == {*PARTS[:2]}
    again = made.started(out, "--workers", "1")
    output, errors = again.communicate(timeout=200)
    assert (again.returncode, output) == (0, f"{out}: {IMAGES - len(BROKEN)} images\n"), errors
    assert "2 of 5 parts are there already" in errors
    assert {name: stamp for name, stamp in stamps(out).items() if name in there} == there
    assert_same_rows(out, made)


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_sigterm_stops_it_soon(made: Made, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    process = made.started(out, "--workers", "1")
    until_begun(*((out, process, PARTS[0]) if name == "out" else (tmp_path, process, name)))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143
    assert errors.splitlines()[-1].startswith("coterie: stopped by SIGTERM: ")
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob(".*.part"))


def refused(made: Made, out: Path, *, run: Path | None = None, images: Path | None = None, **how: Any) -> str:
    """The error message, one line; nothing in the folder has changed."""
    before = stamps(out) if out.is_dir() else {}
    with pytest.raises(UserError) as caught:
        coterie.embed(run or made.run, images or made.images, out, **{**HOW, **how})
    assert before == (stamps(out) if out.is_dir() else {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_that_contains_something_else_is_refused(made: Made, complete: Path, tmp_path: Path) -> None:
    assert "parts of another size" in refused(made, complete, part_images=256)
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(made.images).slice(1), few)
    assert "other images" in refused(made, complete, images=few)
    other = tmp_path / "run"
    few = made.run.parent / "few.parquet"
    coterie.pretrain(data=few, config=made.run / "config.toml", settings=["seed=1"], out=other)
    assert "other weights" in refused(made, complete, run=other)
    assert "something other" in refused(made, made.run)
    facts = complete / "_embedding.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"layout": 0}))
    assert "computed in another way" in refused(made, complete)
    facts.write_text("[")
    assert "damaged" in refused(made, complete)
    facts.unlink()
    assert "something other" in refused(made, complete)


def test_bad_paths_and_part_sizes_are_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(made, tmp_path / "file")
    assert "is a file" in refused(made, tmp_path / "file" / "below")
    assert "such as 1024" in refused(made, tmp_path / "out", part_images=1000)
    assert "such as 256" in refused(made, tmp_path / "out", part_images=-5)
    assert not (tmp_path / "out").exists()
    (tmp_path / "folder.parquet").mkdir()
    assert "Is a directory" in refused(made, tmp_path / "folder.parquet")
    assert "Ray writes a folder" in refused(made, tmp_path / "rows.parquet", ray="local")


def test_a_damaged_part_is_named(made: Made, complete: Path) -> None:
    part = complete / PARTS[3]
    part.write_bytes(part.read_bytes()[:-9])
    assert f"{part} is damaged: remove it" in refused(made, complete)
    part.unlink()
    coterie.embed(made.run, made.images, complete, **HOW)
    assert_same_rows(complete, made)


def test_several_processes_cannot_write_a_single_file(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "does not end in .parquet" in refused(made, tmp_path / "rows.parquet")
    assert "run it without torchrun" in refused(made, tmp_path / "out", ray="local")
    monkeypatch.setenv("RANK", "2")
    assert "start the processes with torchrun" in refused(made, tmp_path / "out")


def test_a_process_writes_its_own_parts_whatever_exists(
    made: Made, complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of three processes, on its own, at any time: no part is written twice, none is left out."""
    out = tmp_path / "out"
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, parts in ((1, [1, 4]), (0, [0, 3]), (2, [2])):
        before, logger = stamps(out) if out.exists() else {}, Recorder()
        monkeypatch.setenv("RANK", str(rank))
        coterie.embed(made.run, made.images, out, **HOW, logger=logger)
        after = stamps(out)
        assert after.keys() - before.keys() == {PARTS[number] for number in parts}
        assert before.items() <= after.items()
    assert logger.messages[-1] == "5 of 5 parts are there"
    assert_same_rows(out, made)


class Numbered:
    """Images of one gray value each, their number; those outside some ranges cannot be decoded."""

    classes = ()

    def __init__(self, *good: range) -> None:
        self.good = good

    def __len__(self) -> int:
        return 700

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        found = any(index in each for each in self.good)
        return np.full((8, 8, 3), index % 256, dtype=np.uint8) if found else b"none"

    def name(self, index: int) -> str:
        return f"image {index}"

    def label(self, index: int) -> None:
        return None

    def embedder(self) -> Embedder:
        def network(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return images[:, :, 0, 0], torch.zeros(len(images)), torch.ones(len(images))

        return Embedder(network, self, Preprocessing(8, 3, (0.0,) * 3, (1.0,) * 3), EmbeddingRows(3))


def test_a_part_without_a_decodable_image_exists(tmp_path: Path) -> None:
    parts = TableParts(tmp_path, Numbered(range(256, 300), range(690, 700)).embedder(), 256)
    parts.write(parts.missing())
    assert parts.missing() == []
    assert pq.read_schema(tmp_path / PARTS[0]).equals(row_schema(EmbeddingRows(3)), check_metadata=True)
    found = pq.read_table(tmp_path)
    assert found["name"].to_pylist() == [f"image {n}" for n in (*range(256, 300), *range(690, 700))]
    assert parts.count_images() == (54, 700 - 54)
    first = (tmp_path / "_bad_images" / "part-00000000.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in first] == [f"image {n}" for n in range(256)]


def test_an_outdated_list_of_bad_images_is_removed(tmp_path: Path) -> None:
    """For example of a store that was unavailable: the list was written, the part was not."""
    TableParts(tmp_path, Numbered(range(600)).embedder(), 256).write([0, 1, 2])
    (tmp_path / PARTS[2]).unlink()
    TableParts(tmp_path, Numbered(range(700)).embedder(), 256).write([2])
    assert not list((tmp_path / "_bad_images").iterdir())


def test_no_decodable_image_is_an_error(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"nothing")
    for out in (tmp_path / "out", tmp_path / "rows.parquet"):
        for _ in range(2):
            with pytest.raises(NoImages, match="not one of the 3 images"):
                coterie.embed(made.run, folder, out, workers=0)
    assert not (tmp_path / "rows.parquet").exists()


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses of four shards of 200 images, and an empty cache."""
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        (tmp_path / f"{number}.tar").write_bytes(tar(200 * number, 200))
    yield [f"file://{tmp_path}/{number}.tar" for number in range(4)]
    shutil.rmtree(tmp_path / "cache")


def copies() -> int:
    return sum(not path.name.startswith(".") for path in (cache_folder() / "copies").iterdir())


def test_shards_are_prefetched(far: list[str]) -> None:
    source = open_source(*far)
    for path in (cache_folder() / "copies").iterdir():
        if path.is_file():
            path.unlink()
    assert isinstance(source, Prefetchable)
    prefetcher, layout = PrefetchProcess(source), shard_layout(source)
    assert layout.overlapping(199, 200) == [(0, 200)]
    prefetcher.request(layout.overlapping(199, 200))
    wait_for(1)
    assert layout.overlapping(150, 401) == [(0, 200), (200, 400), (400, 600)]
    prefetcher.request([*layout.overlapping(150, 401), *layout.overlapping(401, 512)])  # of three shards
    wait_for(3)
    time.sleep(0.2)
    assert copies() == 3
    prefetcher.close()
    assert not prefetcher.process.is_alive()
    assert not shard_layout(Numbered(range(700))).remote


def wait_for(number: int) -> None:
    deadline = time.monotonic() + 60
    while copies() != number:
        assert time.monotonic() < deadline, copies()
        time.sleep(0.01)


def test_parts_of_shards_in_a_store(made: Made, far: list[str], tmp_path: Path) -> None:
    near = [address.removeprefix("file://") for address in far]
    coterie.embed(made.run, near, tmp_path / "near.parquet", workers=0)
    assert coterie.embed(made.run, far, tmp_path / "out", workers=1, part_images=256) == 800
    assert pq.read_table(tmp_path / "out").equals(pq.read_table(tmp_path / "near.parquet"))


def test_the_manifest_claims_the_folder(tmp_path: Path) -> None:
    TableParts(tmp_path, Numbered(range(5)).embedder(), 256)
    (tmp_path / ".hidden").write_text("of a file system")
    with pytest.raises(BadRun, match="another size"):
        TableParts(tmp_path, Numbered(range(5)).embedder(), 512)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "_embedding.json"]
