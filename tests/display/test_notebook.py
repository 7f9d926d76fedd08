"""A real notebook, run by a real kernel."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.display.images import small_images

SETTINGS = {"backbone.width": 0.25, "groups.counts": 4, "run.snapshots": 0, "run.workers": 0}


def outputs(*cells: str) -> list[list[Any]]:
    """What each cell shows."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300).execute()
    return [cell.outputs for cell in notebook.cells]


def texts(shown: list[Any]) -> list[str]:
    """The plain text of each output of a cell."""
    return [each["text"] if each["output_type"] == "stream" else each["data"]["text/plain"] for each in shown]


@pytest.mark.filterwarnings("ignore")  # of the kernel, about its connection
def test_a_notebook_shows_what_the_command_shows(tmp_path: Path) -> None:
    small_images(tmp_path / "images", 24)
    images = str(tmp_path / "images")
    call = f"coterie.pretrain('swav', {images!r}, epochs=2, batch_size=8, settings={SETTINGS}, out="
    quiet, shown, table, text = outputs(
        f"import coterie\nrun = {call}{str(tmp_path / 'quiet')!r}, quiet=True)",
        f"run = {call}{str(tmp_path / 'run')!r})",
        f"coterie.evaluate(run, {images!r}, workers=0, quiet=True)",
        f"print(coterie.evaluate(run, {images!r}, workers=0, quiet=True))",
    )
    assert quiet == []
    lines = texts(shown)
    assert any("24 images" in line for line in lines)  # the summary
    assert any(re.fullmatch(r"step 6/6  epoch 2/2  in 0:00:\d\d  loss .*", line) for line in lines), lines
    assert len([line for line in lines if line.startswith(("step", "0:0"))]) == 1  # one line, changed in place
    assert not any(len(line) > 80 for text in lines for line in text.splitlines())
    assert "<table>" in table[-1]["data"]["text/html"]
    assert "untrained network" in table[-1]["data"]["text/html"]
    assert re.search(r"^this model +\d", texts(text)[-1], re.MULTILINE)
