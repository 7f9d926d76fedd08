"""Every value of every published preset against what its release says, and the table of docs/methods.md against both."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from coterie.methods.imagenet import PUBLISHED

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "published.py"
NAMES = [make.__name__ for make in PUBLISHED]


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("published", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


published = script()
RELEASED = [name for name in NAMES if name not in published.written_down()["never_released"]]


@pytest.mark.parametrize("name", RELEASED)
def test_every_value_is_the_releases_or_differs_for_a_reason(name: str) -> None:
    ours, release = published.compared(name), published.said("release", name)
    assert ours.keys() == release.keys(), "a value that nobody looked up, or one that the preset has no more"
    different = {path for path, value in ours.items() if release[path] != value}
    reasons = published.written_down()["differs"]
    excused = {path for path in ours if isinstance(reasons.get(path), str)} | reasons.get(name, {}).keys()
    assert different == excused


def test_what_was_never_released_is_what_the_paper_says() -> None:
    """SeLa-v2: as DeepCluster-v2 but for the groups and their assignment, which are ours where the paper is silent."""
    ours, brother = published.compared("sela_v2_imagenet_400"), published.compared("deepcluster_v2_imagenet_400")
    other = {path for path in ours if ours[path] != brother.get(path)}
    assert {path.partition(".")[0] for path in other} == {"groups", "assignment"}
    for path, value in published.said("paper", "sela_v2_imagenet_400").items():
        assert ours[path] == value or isinstance(value, str), path


def test_where_the_paper_has_a_value_and_the_release_another_the_release_is_right() -> None:
    """Only where both are plain values: such as SMoG's gradient through the groups."""
    known = {
        "smog_imagenet": {"groups.gradient"},
        "smog_imagenet_w2": {"groups.gradient"},
        "smog_imagenet_swin_tiny": {"groups.gradient"},
        "swav_imagenet_w5": {"learning_rate.final"},
    }
    for name in RELEASED:
        paper, release = published.said("paper", name), published.said("release", name)
        plain = {path: value for path, value in paper.items() if not isinstance(value, str) or value == release[path]}
        assert {path for path, value in plain.items() if value != release[path]} == known.get(name, set()), name


def test_the_page_has_the_table_as_it_is_now() -> None:
    assert published.page() == published.PAGE.read_text("utf-8"), "run python scripts/published.py"
    assert published.table().count("\n") > 150


def test_every_preset_is_in_the_table_of_results_and_has_a_source() -> None:
    page = published.PAGE.read_text("utf-8")
    assert published.written_down()["sources"].keys() == set(NAMES)
    for name in NAMES:
        assert f"| `{name}` |" in page
