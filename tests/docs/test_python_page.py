"""The code of docs/python.md runs as it stands, one piece after another."""

import re
from pathlib import Path

import pytest

import coterie

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def pieces(heading: str) -> list[str]:
    section = PAGE.read_text("utf-8").partition(f"\n## {heading}\n")[2]
    assert section
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.mark.slow
def test_images_and_a_backbone_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = pieces("Images of your own")
    assert len(code) == 3
    names: dict[str, object] = {}
    for each in code:
        exec(compile(each, str(PAGE), "exec"), names)
    assert (tmp_path / "squares.parquet").exists()
    assert coterie.describe_backbone("runs/tiny").backbone.name == "python:Tiny"
    assert not names["network"].training  # type: ignore[attr-defined]
    assert "knn" in names["results"]  # type: ignore[operator]
