"""The tutorials run as they stand, line by line, but for the minutes that their training takes."""

import re
import shlex

import numpy as np
import pytest
from PIL import Image

from coterie.cli.main import app
from tests.docs.texts import ROOT

TUTORIALS = ROOT / "docs" / "tutorials"
BLOCK = re.compile(r"```(sh|python)\n(.*?)```", re.DOTALL)
INSTEAD = {"--time 10m": "--epochs 2 --batch-size 16"}


def pictures(folder, number, seed):
    """Pictures of two kinds, red above and blue below, in a subfolder each."""
    random = np.random.default_rng(seed)
    for kind in ("above", "below"):
        (folder / kind).mkdir(parents=True)
        for index in range(number):
            pixels = random.integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[(slice(16) if kind == "above" else slice(16, 32)), :, 0 if kind == "above" else 2] += 150
            Image.fromarray(pixels).save(folder / kind / f"{index}.png")


@pytest.mark.slow
def test_the_tutorials_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, (name, number) in enumerate({"photos": 30, "labeled": 12, "labeled_test": 6}.items()):
        pictures(tmp_path / name, number, seed)
    said = {}
    for page in ("own_photographs", "few_labels"):  # the second goes on with the run of the first
        names: dict[str, object] = {}
        for kind, code in BLOCK.findall((TUTORIALS / f"{page}.md").read_text("utf-8")):
            if kind == "python":
                exec(compile(code, page, "exec"), names)
            for line in code.splitlines() if kind == "sh" else ():
                for long, short in INSTEAD.items():
                    line = line.replace(long, short)
                app(shlex.split(line)[1:], exit_on_error=False, print_error=False)
            said[code] = capsys.readouterr().out
    assert (tmp_path / "runs/first/report.html").exists()
    assert (tmp_path / "classifier/report.html").exists()
    assert {path.name for path in (tmp_path / "sorted").iterdir()} >= {"above", "below"}
    neighbors = next(out for code, out in said.items() if "cosines[place]" in code)
    assert len(re.findall(r"^[01]\.\d{3}  \S", neighbors, re.MULTILINE)) == 5
