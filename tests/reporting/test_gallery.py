import numpy as np
import pytest
import torch

from coterie.reporting.gallery import GroupAssignment, Picture, group_galleries, group_members, neighbor_gallery


def show(row, right):
    return Picture(np.zeros((4, 4), np.uint8), caption=str(row), right=right)


def shown(gallery):
    return [[int(picture.caption) for picture in row.strips[0].pictures] for row in gallery.rows]


def grouped(sizes, count=None):
    """Groups of these sizes, shuffled so that rows of a group are not adjacent; scores decrease with the row."""
    group = torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)])
    order = torch.randperm(len(group), generator=torch.Generator().manual_seed(0))
    return GroupAssignment(group[order], torch.arange(len(group), 0, -1) / len(group), count or len(sizes))


def test_the_nearest_member_and_the_largest_group_come_first():
    found = group_members(
        GroupAssignment(torch.tensor([2, 0, 2, -1, 2, 0]), torch.tensor([0.1, 0.2, 0.9, 1.0, 0.5, 0.3]), 4)
    )
    assert [(each.group, each.rows) for each in found] == [(2, (2, 4, 0)), (0, (5, 1))]


def test_unlabeled_images_do_not_count_for_the_most_frequent_label_and_its_share():
    labels = torch.tensor([1, 0, 1, 1, -1])
    (found,) = group_members(GroupAssignment(torch.zeros(5, dtype=torch.long), torch.zeros(5), 1), labels)
    assert (found.label, found.share) == (1, 0.75)


def test_few_groups_are_all_shown_in_one_gallery():
    (gallery,) = group_galleries(grouped([3, 9, 5], 7), torch.full((17,), -1), (), show, sample="17 images")
    assert gallery.title == "Groups"
    assert [row.strips[0].name for row in gallery.rows] == [
        "group 1: 9 images", "group 2: 5 images", "group 0: 3 images",
    ]  # fmt: skip
    assert gallery.note.startswith("3 of 7 groups contain at least one of 17 images")
    assert [len(rows) for rows in shown(gallery)] == [8, 5, 3]
    assert all(rows == sorted(rows) for rows in shown(gallery))  # the nearest first: scores decrease with the row
    assert all(picture.right is None for row in gallery.rows for picture in row.strips[0].pictures)


def test_many_groups_give_the_largest_the_smallest_and_the_purest():
    groups = grouped(range(1, 21))
    labels = torch.where(groups.group == 6, 1, torch.arange(len(groups.group)) % 2)  # group 6 alone is pure
    largest, smallest, purest = group_galleries(groups, labels, ("no", "yes"), show, sample="210 images")
    assert largest.rows[0].strips[0].name.startswith("group 19: 20 images, ")
    assert smallest.rows[0].strips[0].name == "group 0: 1 image"
    assert smallest.rows[1].strips[0].name.startswith("group 1: 2 images, ")
    assert purest.rows[0].strips[0].name == "group 6: 7 images, 100 % yes"
    assert all(picture.right for picture in purest.rows[0].strips[0].pictures)
    marks = [picture.right for row in largest.rows for picture in row.strips[0].pictures]
    assert {True, False} == set(marks)
    assert {len(gallery.rows) for gallery in (largest, smallest, purest)} == {8}


def test_without_an_image_in_a_group_there_is_no_gallery():
    assert (
        group_galleries(
            GroupAssignment(torch.full((3,), -1), torch.zeros(3), 5), torch.zeros(3).long(), (), show, sample=""
        )
        == ()
    )


def test_neighbors_are_the_nearest_by_cosine_without_the_image_itself():
    angles = torch.tensor([0.0, 0.1, 0.3, 1.5, 3.0])
    rows = torch.stack([angles.cos(), angles.sin()], dim=1) * torch.tensor([[1.0], [5.0], [0.2], [3.0], [1.0]])
    gallery = neighbor_gallery(
        rows, torch.tensor([0, 0, 1, -1, 1]), ("a", "b"), show, sample="5 images", max_queries=5, max_pictures=2
    )
    assert [int(row.query.caption) for row in gallery.rows] == [0, 1, 2, 3, 4]
    assert shown(gallery) == [[1, 2], [0, 2], [1, 0], [2, 1], [3, 2]]
    marks = [[picture.right for picture in row.strips[0].pictures] for row in gallery.rows]
    assert marks == [[True, False], [True, False], [False, False], [None, None], [None, True]]


def test_the_query_images_are_random_and_the_same_for_a_seed():
    rows, none = torch.randn(200, 8), torch.full((200,), -1)
    queries = [
        [int(row.query.caption) for row in neighbor_gallery(rows, none, (), show, sample="", seed=seed).rows]
        for seed in (0, 0, 1)
    ]
    assert queries[0] == queries[1] != queries[2]
    assert len(set(queries[0])) == 8


@pytest.mark.parametrize("count", [0, 1])
def test_one_image_has_no_neighbors(count):
    assert neighbor_gallery(torch.ones(count, 4), torch.zeros(count).long(), (), show, sample="") is None
