"""Groups of images: predicted from images, or assigned to embeddings that were computed before."""

from collections.abc import Iterator

import torch

from coterie.config.toml import from_dict
from coterie.grouping.chunks import CHUNK_ELEMENTS
from coterie.training import student as students
from coterie.training.build import build_student
from coterie.training.student import Student, assigned_groups, nearest_groups, preprocessing_of
from tests.matrix.cells import GROUPS, MEAN, SIDE, STD, Cell, settings_of

CONFIG = from_dict(settings_of(Cell("learned", "sinkhorn", "same", "batch")))
LASTING_NOT = from_dict(settings_of(Cell("batch", "identity", "same", "batch")))


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def predicted(student: Student, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = student.encoder.backbone(images(count))
    return rows, *nearest_groups(student, 0.1)(rows)


@torch.inference_mode()
def test_an_image_belongs_to_the_center_nearest_to_its_projection() -> None:
    student = build_student(CONFIG).eval()
    rows, groups, probabilities = predicted(student, 12)
    z = student.encoder.project(student.encoder.backbone(images(12)))
    expected = (z @ student.groups.centers()[0].T / 0.1).softmax(dim=1)
    assert torch.equal(groups, expected.argmax(dim=1))
    torch.testing.assert_close(probabilities, expected.max(dim=1).values)
    assert rows.shape == (12, student.encoder.backbone(images(1)).shape[1])
    assert 1 < len(groups.unique()) <= GROUPS


def test_without_lasting_groups_there_are_none() -> None:
    student = build_student(LASTING_NOT).eval()
    rows, groups, probabilities = predicted(student, 3)
    assert len(rows) == 3
    assert groups.tolist() == [-1, -1, -1]
    assert probabilities.tolist() == [0, 0, 0]
    assert assigned_groups(student, rows.detach()) is None


def test_embeddings_are_assigned_in_chunks_and_the_student_stays_as_it_was(monkeypatch) -> None:
    student = build_student(CONFIG).eval()
    with torch.inference_mode():
        rows, groups, _ = predicted(student, 12)
    sizes, chunked = [], students.chunked

    def small_chunks(rows: torch.Tensor, width: int) -> Iterator[torch.Tensor]:
        for each in chunked(rows, CHUNK_ELEMENTS // 5):
            sizes.append(len(each))
            yield each

    monkeypatch.setattr(students, "chunked", small_chunks)
    student.train()
    assigned = assigned_groups(student, rows.clone())
    assert assigned is not None
    assert torch.equal(assigned[0], groups)
    assert assigned[1].abs().max() <= 1 + 1e-6  # a cosine
    assert sizes == [5, 5, 2]
    assert student.training
    assert student.encoder.projector.training


def test_whole_images_are_prepared_as_the_views_were() -> None:
    how = preprocessing_of(CONFIG)
    assert (how.size, how.channels, how.mean, how.std) == (CONFIG.views.center_crop_size, 1, MEAN, STD)
