"""The notebooks run from top to bottom, but for the epochs that their training takes."""

import os

import pytest

from tests.docs.texts import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


@pytest.mark.slow
def test_the_notebooks_run(tmp_path, monkeypatch):
    for package in ("nbclient", "ipykernel", "skimage", "pandas"):
        pytest.importorskip(package, reason="scripts/install test,test-recipes")
    import nbclient
    import nbformat

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    printed = ""
    assert len(NOTEBOOKS) == 2
    for path in reversed(NOTEBOOKS):  # the second goes on with the run of the first
        book = nbformat.read(path, as_version=4)
        assert not any(cell.get("outputs") for cell in book.cells), "kept without results, which would grow old"
        for cell in book.cells:
            cell.source = cell.source.replace("epochs=30", "epochs=2")
        nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
        printed += "".join(each.get("text", "") for cell in book.cells for each in cell.get("outputs", ()))
    assert "of 200 patches are right" in printed
    assert (tmp_path / "runs/patches/report.html").exists()
