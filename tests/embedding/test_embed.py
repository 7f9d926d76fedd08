import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.config.hardware import Runtime
from coterie.data.loading.center_crop import Preprocessing, center_crop_batches
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.source import Subset
from coterie.embedding.embed import EMBED_BATCH_SIZE, Embedder, embed_source, embedded_batches
from coterie.embedding.rows import EmbeddingRows
from coterie.errors import NoImages
from coterie.logger import NullLogger

PREPROCESSING = Preprocessing(8, 3, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
COUNT = 2 * EMBED_BATCH_SIZE + 40
BROKEN = (3, EMBED_BATCH_SIZE, COUNT - 1)


class Images(Arrays):
    """Random images, of which some cannot be decoded."""

    def __init__(self, count: int = COUNT, broken: tuple[int, ...] = BROKEN) -> None:
        super().__init__(np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8))
        self.broken = broken

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        return b"no image" if index in self.broken else super().__getitem__(index)


class Recorder(NullLogger):
    def __init__(self) -> None:
        self.tasks: list[tuple[int, str]] = []

    def progress(self, items, total, what):  # type: ignore[no-untyped-def]
        self.tasks.append((total, what))
        return iter(items)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def normalized(source: Arrays, positions: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(np.stack([Arrays.__getitem__(source, int(each)) for each in positions])).double() / 255
    mean, std = (torch.tensor(each, dtype=torch.float64) for each in (PREPROCESSING.mean, PREPROCESSING.std))
    return ((pixels - mean) / std).permute(0, 3, 1, 2).flatten(1).float()


def test_every_decodable_image_is_embedded_in_order() -> None:
    labels = np.arange(COUNT) % 5 - 1
    source = Images()
    found = embed_source(flat, Subset(source, np.arange(COUNT), labels), PREPROCESSING)
    expected = np.setdiff1d(np.arange(COUNT), BROKEN)
    assert found.index.tolist() == expected.tolist()
    torch.testing.assert_close(found.rows, normalized(source, expected))
    assert found.rows.dtype == torch.float32
    assert found.labels.tolist() == labels[expected].tolist()
    assert [position for position, _ in found.bad] == [*BROKEN]
    assert all(reason for _, reason in found.bad)


def test_batches_are_bounded_and_the_logger_sees_each() -> None:
    sizes, logger = [], Recorder()
    stream = embedded_batches(
        lambda images: (flat(images), images.mean(dim=(1, 2, 3))),
        Images(),
        PREPROCESSING,
        Runtime(logger=logger),
        what="test",
    )
    for positions, (rows, means), bad in stream:
        sizes.append((len(positions), len(bad)))
        assert len(rows) == len(means) == len(positions)
        torch.testing.assert_close(rows.mean(dim=1), means)
        assert not rows.requires_grad
    assert sizes == [(EMBED_BATCH_SIZE - 1, 1), (EMBED_BATCH_SIZE - 1, 1), (39, 1)]
    assert logger.tasks == [(3, "test")]


def test_a_batch_without_a_decodable_image_has_no_rows() -> None:
    source = Images(EMBED_BATCH_SIZE + 5, broken=tuple(range(EMBED_BATCH_SIZE)))
    first, second = embedded_batches(flat, source, PREPROCESSING)
    assert (len(first[0]), len(first[2])) == (0, EMBED_BATCH_SIZE)
    assert second[0].tolist() == list(range(EMBED_BATCH_SIZE, EMBED_BATCH_SIZE + 5))
    assert len(embed_source(flat, source, PREPROCESSING).rows) == 5


def test_no_decodable_image_is_an_error() -> None:
    with pytest.raises(NoImages, match="not one of the 2 images can be decoded; the first: "):
        embed_source(flat, Images(2, broken=(0, 1)), PREPROCESSING)


def test_low_precision_embeddings_become_float32() -> None:
    found = embed_source(lambda images: flat(images).bfloat16(), Images(4, ()), PREPROCESSING)
    assert found.rows.dtype == torch.float32


def embedder(source: Arrays) -> Embedder:
    return Embedder(
        lambda images: (flat(images), torch.zeros(len(images)), torch.ones(len(images))),
        source,
        PREPROCESSING,
        EmbeddingRows(192),
    )


def test_ranges_of_an_embedder_are_its_batches() -> None:
    """Batch by batch the same images, so that the embeddings are the same to the bit."""
    whole = list(embedder(Images()).batches())
    ranges = list(embedder(Images()).range_batches([(0, EMBED_BATCH_SIZE), (2 * EMBED_BATCH_SIZE, COUNT)]))
    assert len(ranges) == 2
    for (positions, outputs, bad), (expected, rows, expected_bad) in zip(ranges, [whole[0], whole[2]], strict=True):
        assert positions.tolist() == expected.tolist()
        assert all(map(torch.equal, outputs, rows))
        assert bad == expected_bad


def test_images_are_prepared_by_the_preprocessing() -> None:
    source = Images(6, ())
    (batch,) = center_crop_batches(
        source, size=8, channels=3, mean=PREPROCESSING.mean, std=PREPROCESSING.std, batch_size=6, workers=0
    )
    assert torch.equal(embed_source(flat, source, PREPROCESSING).rows, flat(batch.views[0]))


def test_large_images_are_encoded_in_parts_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.embedding.forward.CPU_PIXELS", 10 * 8 * 8)
    sizes = []

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(images))
        return flat(images), images.mean(dim=(1, 2, 3))

    source = Images(25, ())
    ((positions, (rows, means), _),) = embedded_batches(network, source, PREPROCESSING)
    assert sizes == [10, 10, 5]
    torch.testing.assert_close(rows, normalized(source, positions))
    torch.testing.assert_close(means, rows.mean(dim=1))
