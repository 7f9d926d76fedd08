"""A folder of parts: row for row the single table, whatever happens on the way, and nothing else's."""

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
from coterie.embedding.cache import state_key
from coterie.embedding.embed import Embedder
from coterie.embedding.parquet import row_schema, write_rows
from coterie.embedding.parts import EmbeddingParts
from coterie.errors import BadRun, NoImages, UserError
from tests.data.store import tar
from tests.embedding.running import BROKEN, IMAGES, PART, PARTS, Made, assert_same_rows, stamps, until_begun

HOW = {"workers": 0, "part_images": PART}


class Told:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps = 0

    def info(self, text: str) -> None:
        self.said.append(text)

    warning = info

    def log_metrics(self, record: dict, total_steps: int) -> None: ...

    def progress(self, items, total: int, what: str):
        for self.steps, item in enumerate(items, start=1):
            yield item
        assert self.steps == total


@pytest.fixture
def whole(made: Made, tmp_path: Path) -> Path:
    """A folder whose parts are all there."""
    assert coterie.embed(made.run, made.images, tmp_path / "whole", **HOW) == IMAGES - len(BROKEN)
    return tmp_path / "whole"


def test_parts_are_the_single_table(made: Made, whole: Path) -> None:
    assert_same_rows(whole, made)
    assert pyarrow.dataset.dataset(whole).count_rows() == IMAGES - len(BROKEN)
    lengths = [pq.read_metadata(whole / name).num_rows for name in PARTS]
    assert lengths == [PART - 1, PART - 1, PART, PART, IMAGES - 4 * PART - 1]
    assert sorted(path.name for path in (whole / "_bad_images").iterdir()) == [
        f"part-0000000{number}.txt" for number in (0, 1, 4)
    ]


def test_a_file_of_many_batches_is_in_few_groups_of_rows(tmp_path: Path) -> None:
    """5,000 rows in 20 batches: those of 16 batches are written together."""
    source = open_source_of(tmp_path, 1)
    batches = [(np.zeros(250, dtype=np.int64), (torch.ones(250, 2), torch.zeros(250), torch.ones(250)), ())] * 20
    assert write_rows(tmp_path / "rows.parquet", 2, source, batches) == (5_000, [])
    found = pq.ParquetFile(tmp_path / "rows.parquet").metadata
    assert [found.row_group(n).num_rows for n in range(found.num_row_groups)] == [4_250, 750]


def test_only_what_is_missing_is_made(made: Made, whole: Path) -> None:
    before, told = stamps(whole), Told()
    coterie.embed(made.run, made.images, whole, **HOW, logger=told)
    assert stamps(whole) == before
    assert told.steps == 0
    (whole / PARTS[1]).unlink()
    (whole / f".{PARTS[1]}.4194305.part").write_bytes(b"what a killed process left")
    assert coterie.embed(made.run, made.images, whole, **HOW, logger=told) == IMAGES - len(BROKEN)
    after = stamps(whole)
    assert {name for name in PARTS if after[name] != before[name]} == {PARTS[1]}
    assert told.steps == 2
    assert "4 of 5 parts are there already" in told.said
    assert any(text.startswith("3 images could not be decoded") for text in told.said)
    assert_same_rows(whole, made)


def test_killed_in_a_part_it_goes_on(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = made.started(out, "--workers", "1")
    until_begun(out, process, PARTS[2])
    process.kill()
    process.communicate()
    there = stamps(out)
    assert list(out.glob(".part-*.part")), "the kill came between two parts"
    assert there.keys() == {*PARTS[:2]}
    again = made.started(out, "--workers", "1")
    said, errors = again.communicate(timeout=200)
    assert (again.returncode, said) == (0, f"{out}: {IMAGES - len(BROKEN)} images\n"), errors
    assert "2 of 5 parts are there already" in errors
    assert {name: stamp for name, stamp in stamps(out).items() if name in there} == there
    assert_same_rows(out, made)


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_asked_to_stop_it_leaves_soon(made: Made, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    process = made.started(out, "--workers", "1")
    until_begun(*((out, process, PARTS[0]) if name == "out" else (tmp_path, process, name)))
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert time.monotonic() - began < 30
    assert errors.splitlines()[-1].startswith("coterie: stopped: ")
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob(".*.part"))


def refused(made: Made, out: Path, *, run: Path | None = None, images: Path | None = None, **how: Any) -> str:
    """The line; nothing in the folder has changed."""
    before = stamps(out) if out.is_dir() else {}
    with pytest.raises(UserError) as caught:
        coterie.embed(run or made.run, images or made.images, out, **{**HOW, **how})
    assert before == (stamps(out) if out.is_dir() else {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_of_something_else_is_refused(made: Made, whole: Path, tmp_path: Path) -> None:
    assert "parts of another size" in refused(made, whole, part_images=256)
    few = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(made.images).slice(1), few)
    assert "other images" in refused(made, whole, images=few)
    other = tmp_path / "run"
    few = made.run.parent / "few.parquet"
    coterie.pretrain(data=few, config=made.run / "config.toml", settings=["seed=1"], out=other)
    assert "other weights" in refused(made, whole, run=other)
    assert "something else" in refused(made, made.run)
    facts = whole / "_embedding.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"layout": 0}))
    assert "made in another way" in refused(made, whole)
    facts.write_text("[")
    assert "damaged" in refused(made, whole)
    facts.unlink()
    assert "something else" in refused(made, whole)


def test_wrong_places_and_sizes(made: Made, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(made, tmp_path / "file")
    assert "is a file" in refused(made, tmp_path / "file" / "below")
    assert "such as 1024" in refused(made, tmp_path / "out", part_images=1000)
    assert "such as 256" in refused(made, tmp_path / "out", part_images=-5)
    assert not (tmp_path / "out").exists()
    (tmp_path / "folder.parquet").mkdir()
    assert "Is a directory" in refused(made, tmp_path / "folder.parquet")
    assert "Ray writes a folder" in refused(made, tmp_path / "rows.parquet", ray="local")


def test_a_damaged_part_is_named(made: Made, whole: Path) -> None:
    part = whole / PARTS[3]
    part.write_bytes(part.read_bytes()[:-9])
    assert f"{part} is damaged: remove it" in refused(made, whole)
    part.unlink()
    coterie.embed(made.run, made.images, whole, **HOW)
    assert_same_rows(whole, made)


def test_several_processes_write_no_single_file(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "does not end in .parquet" in refused(made, tmp_path / "rows.parquet")
    assert "run it without torchrun" in refused(made, tmp_path / "out", ray="local")
    monkeypatch.setenv("RANK", "2")
    assert "start the processes with torchrun" in refused(made, tmp_path / "out")


def test_a_process_takes_its_own_parts_whatever_is_there(
    made: Made, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of three, on its own, at any time: no part twice, none left out."""
    out = tmp_path / "out"
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, parts in ((1, [1, 4]), (0, [0, 3]), (2, [2])):
        before, told = stamps(out) if out.exists() else {}, Told()
        monkeypatch.setenv("RANK", str(rank))
        coterie.embed(made.run, made.images, out, **HOW, logger=told)
        after = stamps(out)
        assert after.keys() - before.keys() == {PARTS[number] for number in parts}
        assert before.items() <= after.items()
    assert told.said[-1] == "5 of 5 parts are there"
    assert_same_rows(out, made)


def open_source_of(folder: Path, *broken_or_not: int):
    """A shard of so many images; 0: one that is none."""
    shard = folder / "images.tar"
    shard.write_bytes(tar(0, len(broken_or_not)))
    return open_source(shard)


class Flat:
    """Images that can be decoded or not, and a network that sees their numbers."""

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

        return Embedder(network, self, Preprocessing(8, 3, (0.0,) * 3, (1.0,) * 3), 3)


def test_a_part_without_an_image_is_there(tmp_path: Path) -> None:
    parts = EmbeddingParts(tmp_path, Flat(range(256, 300), range(690, 700)).embedder(), 256)
    parts.write(parts.missing())
    assert parts.missing() == []
    assert pq.read_schema(tmp_path / PARTS[0]).equals(row_schema(3), check_metadata=True)
    found = pq.read_table(tmp_path)
    assert found["name"].to_pylist() == [f"image {n}" for n in (*range(256, 300), *range(690, 700))]
    assert parts.held() == (54, 700 - 54)
    first = (tmp_path / "_bad_images" / "part-00000000.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in first] == [f"image {n}" for n in range(256)]


def test_what_can_be_decoded_again_is_no_longer_listed(tmp_path: Path) -> None:
    """A store that stayed away, say: the part was not there yet, its list was."""
    EmbeddingParts(tmp_path, Flat(range(600)).embedder(), 256).write([0, 1, 2])
    (tmp_path / PARTS[2]).unlink()
    EmbeddingParts(tmp_path, Flat(range(700)).embedder(), 256).write([2])
    assert not list((tmp_path / "_bad_images").iterdir())


def test_not_one_image(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"nothing")
    for out in (tmp_path / "out", tmp_path / "rows.parquet"):
        for _ in range(2):
            with pytest.raises(NoImages, match="not one of the 3 images"):
                coterie.embed(made.run, folder, out, workers=0)
    assert not (tmp_path / "rows.parquet").exists()


def test_the_key_of_a_network_is_that_of_its_values() -> None:
    state = {"a": torch.ones(2, 3), "b": torch.tensor(1)}
    key = state_key(state)
    assert state_key({name: value.clone() for name, value in state.items()}) == key
    turned = torch.ones(3, 2).T
    assert state_key(state | {"a": turned}) == key
    others = [{"a": torch.ones(3, 2)}, {"a": torch.ones(2, 3).double()}, {"b": torch.tensor(2)}]
    assert len({key, *(state_key(state | each) for each in others)}) == 4


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Four shards of 200 images behind an address, and an empty cache."""
    monkeypatch.setenv("COTERIE_CACHE", str(tmp_path / "cache"))
    for number in range(4):
        (tmp_path / f"{number}.tar").write_bytes(tar(200 * number, 200))
    yield [f"file://{tmp_path}/{number}.tar" for number in range(4)]
    shutil.rmtree(tmp_path / "cache")


def copies() -> int:
    return sum(not path.name.startswith(".") for path in (cache_folder() / "copies").iterdir())


def test_shards_are_fetched_before_they_are_asked_for(far: list[str]) -> None:
    source = open_source(*far)
    for path in (cache_folder() / "copies").iterdir():
        if path.is_file():
            path.unlink()
    assert isinstance(source, Prefetchable)
    fetching, layout = PrefetchProcess(source), shard_layout(source)
    assert layout.overlapping(199, 200) == [(0, 200)]
    fetching.request(layout.overlapping(199, 200))
    wait_for(1)
    assert layout.overlapping(150, 401) == [(0, 200), (200, 400), (400, 600)]
    fetching.request([*layout.overlapping(150, 401), *layout.overlapping(401, 512)])  # of three shards
    wait_for(3)
    time.sleep(0.2)
    assert copies() == 3
    fetching.close()
    assert not fetching.process.is_alive()
    assert not shard_layout(Flat(range(700))).remote


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


def test_the_folder_is_taken_by_what_it_is_of(tmp_path: Path) -> None:
    EmbeddingParts(tmp_path, Flat(range(5)).embedder(), 256)
    (tmp_path / ".hidden").write_text("of a file system")
    with pytest.raises(BadRun, match="another size"):
        EmbeddingParts(tmp_path, Flat(range(5)).embedder(), 512)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "_embedding.json"]
