"""Cached embeddings: used again only for the same weights, the same images and the same preprocessing."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.open import open_source
from coterie.data.sources.source import Concatenated, ImageSource, Subset
from coterie.embedding.cache import EmbeddingCache, source_key, state_key, weights_key
from coterie.embedding.embed import Embeddings, embed_source

PREPROCESSING = Preprocessing(8, 3, (0.5,) * 3, (0.25,) * 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / "images" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 40 * number, dtype=np.uint8)).save(path)
    (tmp_path / "weights").write_bytes(b"one")
    return tmp_path


def making(source: ImageSource, calls: list[int]) -> Callable[[], Embeddings]:
    def make() -> Embeddings:
        calls.append(1)
        return embed_source(lambda images: images.flatten(1), source, PREPROCESSING)

    return make


def test_cached_embeddings_are_those_that_were_computed(folder: Path) -> None:
    calls: list[int] = []
    (folder / "images" / "class0" / "bad.png").write_bytes(b"no image")
    source = open_source(folder / "images")
    for _ in range(2):  # another cache over the same folder: another process
        cache = EmbeddingCache(folder / "cached", weights_key(folder / "weights"))
        found = cache.get(source, PREPROCESSING, making(source, calls))
        made = making(source, [])()
        assert torch.equal(found.rows, made.rows)
        assert np.array_equal(found.index, made.index)
        assert torch.equal(found.labels, made.labels)
        assert found.bad == made.bad
        assert len(found.bad) == 1
    assert len(calls) == 1


def test_other_images_orders_preprocessing_or_weights_are_computed_anew(folder: Path) -> None:
    calls: list[int] = []
    source = open_source(folder / "images")
    cache = EmbeddingCache(folder / "cached", weights_key(folder / "weights"))

    def made(of: ImageSource, preprocessing: Preprocessing = PREPROCESSING) -> int:
        cache.get(of, preprocessing, making(of, calls))
        return len(calls)

    assert made(source) == 1
    assert made(Subset(source, np.array([4, 1]))) == 2
    assert made(Subset(source, np.array([1, 4]))) == 3
    assert made(Concatenated([source, source])) == 4
    assert made(source, Preprocessing(8, 3, (0.4,) * 3, (0.25,) * 3)) == 5
    assert made(source) == 5
    os.utime(folder / "images" / "class0" / "2.png", ns=(1, 1))
    assert made(source) == 6
    assert len(list((folder / "cached").iterdir())) == 6
    (folder / "weights").write_bytes(b"two")
    cache = EmbeddingCache(folder / "cached", weights_key(folder / "weights"))
    assert made(source) == 7
    assert len(list((folder / "cached").iterdir())) == 1  # those of the weights before are gone


def test_labels_are_those_that_the_source_has_now(folder: Path) -> None:
    source = open_source(folder / "images")
    positions = np.arange(6)
    cache = EmbeddingCache(folder / "cached", weights_key(folder / "weights"))
    for labels in ([0, 1, 2, 0, 1, 2], [5, 4, 3, 2, 1, 0]):
        named = Subset(source, positions, np.array(labels))
        assert cache.get(named, PREPROCESSING, making(named, [])).labels.tolist() == labels


def test_a_damaged_file_is_written_again(folder: Path) -> None:
    calls: list[int] = []
    source = open_source(folder / "images")
    cache = EmbeddingCache(folder / "cached", weights_key(folder / "weights"))
    cache.get(source, PREPROCESSING, making(source, calls))
    (cached,) = (folder / "cached").iterdir()
    cached.write_bytes(cached.read_bytes()[:-7])
    cache.get(source, PREPROCESSING, making(source, calls))
    cache.get(source, PREPROCESSING, making(source, calls))
    assert len(calls) == 2


def test_a_source_that_does_not_list_its_files_is_not_cached(folder: Path) -> None:
    class Own:
        classes = ()

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> np.ndarray:
            return np.full((8, 8, 3), index, dtype=np.uint8)

        def name(self, index: int) -> str:
            return str(index)

        def label(self, index: int) -> None:
            return None

    calls: list[int] = []
    cache = EmbeddingCache(folder / "cached", weights_key(folder / "weights"))
    for _ in range(2):
        cache.get(Own(), PREPROCESSING, making(Own(), calls))
    assert len(calls) == 2
    assert source_key(Concatenated([Own(), open_source(folder / "images")])) is None


def test_the_key_of_a_network_is_that_of_its_values() -> None:
    state = {"a": torch.ones(2, 3), "b": torch.tensor(1)}
    key = state_key(state)
    assert state_key({name: value.clone() for name, value in state.items()}) == key
    turned = torch.ones(3, 2).T
    assert state_key(state | {"a": turned}) == key
    others = [{"a": torch.ones(3, 2)}, {"a": torch.ones(2, 3).double()}, {"b": torch.tensor(2)}]
    assert len({key, *(state_key(state | each) for each in others)}) == 4
