"""The site: built strictly, so that a broken link or a page without a place in the menu is an error; nothing from elsewhere."""

import os
import re
import subprocess
import sys

import pytest

from tests.docs.texts import ROOT


@pytest.mark.slow
def test_it_builds_and_fetches_nothing(tmp_path):
    pytest.importorskip("mkdocs", reason="scripts/install docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    reference = (tmp_path / "reference.html").read_text("utf-8")
    assert 'id="coterie.api.pretrain"' in reference
    assert 'id="coterie.grouping.sinkhorn' in reference
    first = (tmp_path / "index.html").read_text("utf-8")
    assert 'href="pretrain.html"' in first
    assert 'href="examples.html#own_loop"' in first
    fetched = re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?://[^"]+)', first)
    assert not fetched
