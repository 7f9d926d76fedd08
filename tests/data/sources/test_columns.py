import pytest

from coterie.data.sources.columns import IMAGE_NAMES, LABEL_NAMES, choice_remark, find_columns, plain
from coterie.errors import BadConfig


def test_common_names_are_spelled_plainly_and_once() -> None:
    for names in (IMAGE_NAMES, LABEL_NAMES):
        assert [plain(name) for name in names] == list(dict.fromkeys(names))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["img", "fine_label", "coarse_label"], ["fine_label", "coarse_label"]),
        (["Coarse Label", "FineLabel"], ["FineLabel", "Coarse Label"]),
        (["Y", "TARGET", "x"], ["TARGET", "Y"]),
        (["class-name", "Class Label"], ["class-name", "Class Label"]),
        (["a", "b"], []),
    ],
)
def test_labels_are_found_in_a_stated_order(names: list[str], found: list[str]) -> None:
    assert find_columns(names, LABEL_NAMES, None, "label", "t") == found


def test_the_column_that_is_wanted() -> None:
    assert find_columns(["A b", "a_b"], LABEL_NAMES, "a_b", "label", "t") == ["a_b"]
    assert find_columns(["A b"], LABEL_NAMES, "a-B", "label", "t") == ["A b"]
    with pytest.raises(
        BadConfig, match=r"t.csv: no column 'lable' \(--label-column\); did you mean label\?; the columns are: "
    ):
        find_columns(["image", "label"], LABEL_NAMES, "lable", "label", "t.csv")


def test_a_choice_is_told() -> None:
    assert choice_remark("label", [], "label") == ()
    (line,) = choice_remark("fine_label", ["'coarse_label'"], "label")
    assert (
        line
        == "labels are from column 'fine_label', although 'coarse_label' would do as well: choose with --label-column"
    )
