import numpy as np
import pytest
import torch
from torch import Tensor

from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.source import Subset
from coterie.embedding.embed import Embeddings
from coterie.errors import BadImage
from coterie.reporting.gallery import GroupAssignment
from coterie.reporting.pictures import make_picture, nearest_pictures, report_pictures

COUNT, CLASSES = 30, ("red", "green", "blue")
PREPROCESSING = Preprocessing(16, 3, (0.5,) * 3, (0.2,) * 3)


def source(count: int = COUNT, labeled: bool = True) -> Subset:
    """Images of one color each: red, green and blue in turn, darker from image to image."""
    pixels = np.zeros((count, 20, 28, 3), dtype=np.uint8)
    for number in range(count):
        pixels[number, ..., number % 3] = 250 - number
    labels = np.arange(count) % 3 if labeled else np.full(count, -1)
    return Subset(Arrays(pixels), np.arange(count), labels, CLASSES if labeled else ())


def embeddings(labeled: bool = True) -> Embeddings:
    """One direction for each color, and some noise."""
    noise = 0.1 * torch.randn(COUNT, 8, generator=torch.Generator().manual_seed(0))
    rows = torch.eye(3, 8)[torch.arange(COUNT) % 3] + noise
    return Embeddings(np.arange(COUNT), rows, torch.arange(COUNT) % 3 if labeled else torch.full((COUNT,), -1), ())


def by_color(rows: Tensor) -> GroupAssignment:
    return GroupAssignment(rows[:, :3].argmax(dim=1), rows[:, :3].max(dim=1).values, 5)


def test_a_picture_is_the_middle_of_the_image_and_small_ones_are_enlarged() -> None:
    picture = make_picture(source(), 4, PREPROCESSING, "green", True, "4.png")
    assert picture.pixels.shape == (64, 64, 3)
    assert picture.pixels.reshape(-1, 3).tolist() == [[0, 246, 0]] * 64**2
    assert (picture.caption, picture.right, picture.name) == ("green", True, "4.png")
    large = make_picture(source(), 4, Preprocessing(100, 3, (0.5,) * 3, (0.2,) * 3))
    assert large.pixels.shape == (100, 100, 3)


@pytest.mark.parametrize(("channels", "shape"), [(1, (64, 64)), (3, (64, 64, 3)), (5, (64, 64))])
def test_of_other_channels_than_colors_the_first_is_shown(channels: int, shape: tuple[int, ...]) -> None:
    pixels = np.zeros((1, 16, 16, channels), dtype=np.uint8)
    pixels[..., 0] = 200
    picture = make_picture(Arrays(pixels), 0, Preprocessing(16, channels, (0.5,) * channels, (0.2,) * channels))
    assert picture.pixels.shape == shape
    assert picture.pixels.max() == 200


def test_an_image_that_cannot_be_decoded_has_no_picture() -> None:
    class Broken(Arrays):
        def __getitem__(self, index: int) -> bytes:
            return b"no image"

    with pytest.raises(BadImage):
        make_picture(Broken(np.zeros((1, 8, 8, 3), np.uint8)), 0, PREPROCESSING)


def test_the_nearest_images_come_first_and_are_marked_by_their_label() -> None:
    train = embeddings()
    query = 7 * train.rows[5]  # the length does not matter
    pictures = nearest_pictures(query, train, source(), PREPROCESSING, 12, label=2)
    cosines = torch.nn.functional.cosine_similarity(train.rows, query[None])
    expected = cosines.argsort(descending=True)[:12].tolist()
    assert [250 - int(picture.pixels.max()) for picture in pictures] == expected
    assert [picture.right for picture in pictures] == [row % 3 == 2 for row in expected]
    assert expected[0] == 5
    assert {picture.right for picture in nearest_pictures(query, train, source(), PREPROCESSING, 3)} == {None}


def test_a_report_has_a_map_groups_and_neighbors_of_finite_embeddings() -> None:
    seen = embeddings()
    seen.rows[3], seen.rows[7, 2] = torch.nan, torch.inf
    found = report_pictures(seen, source(), PREPROCESSING, by_color)
    assert [gallery.title for gallery in found.galleries] == ["Groups", "Nearest neighbors"]
    assert "28 images (2 more are left out: NaN or infinity in their embeddings)" in found.galleries[0].note
    shown = [picture for row in found.galleries[0].rows for picture in row.strips[0].pictures]
    assert {picture.caption for picture in shown} == set(CLASSES)
    assert all(picture.right for picture in shown)  # groups are colors here
    names = {picture.name for picture in shown}
    assert not names & {source().name(3), source().name(7)}
    assert found.map is not None
    assert found.map.legend == CLASSES
    assert len(found.map.points) == 28
    assert found.map.note.startswith("28 images, by t-SNE")
    assert found.map.note.endswith("Colors: classes.")


def test_without_labels_the_map_is_colored_by_group_and_without_groups_not_at_all() -> None:
    grouped = report_pictures(embeddings(labeled=False), source(labeled=False), PREPROCESSING, by_color, max_points=16)
    assert grouped.map is not None
    assert grouped.map.legend == ("group 0", "group 1", "group 2")
    assert len(grouped.map.points) == 16
    plain = report_pictures(embeddings(labeled=False), source(labeled=False), PREPROCESSING)
    assert [gallery.title for gallery in plain.galleries] == ["Nearest neighbors"]
    assert plain.map is not None
    assert plain.map.legend == ()
    assert (plain.map.colors == -1).all()
    assert "Colors" not in plain.map.note


def test_no_finite_embedding_leaves_nothing_to_show() -> None:
    seen = embeddings()
    seen.rows[:] = torch.nan
    found = report_pictures(seen, source(), PREPROCESSING, by_color)
    assert (found.map, found.galleries) == (None, ())
