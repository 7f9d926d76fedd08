import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.own_data import OwnData
from coterie.evaluation.classification import Answers, Share
from coterie.evaluation.classifier_figures import ClassifierFigures, UnknownFound
from coterie.exporting.model import Model
from coterie.models.backbone import BackboneConfig
from coterie.reporting.classifier_page import write_classifier_page

CHANCES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6], [0.1, 0.9]])
TRUTH = torch.tensor([0, 0, 1, 1, 0])


def page(path: Path, figures: ClassifierFigures) -> str:
    images = OwnData([np.full((8, 8, 3), 30 * number, np.uint8) for number in range(7)] + [b"no image"])
    look = Preprocessing(8, 3, (0.5,) * 3, (0.5,) * 3)
    model = Model("tiny", nn.Identity(), BackboneConfig("resnet18"), 8, look)
    write_classifier_page(path, figures, images, model, {"model": "tiny", "date": "2026-11-30"})
    return path.read_text()


def test_the_page_shows_what_is_confused(tmp_path: Path):
    unknown = (UnknownFound("dog", Share(3, 4)),)
    figures = ClassifierFigures(
        "held out", ("<cat>", "dog"), Answers(CHANCES, TRUTH), np.array([0, 1, 2, 3, 7]), 0.6, 0.2, unknown
    )
    text = page(tmp_path / "pets" / "report.html", figures)
    assert "pets: a classifier of 2 classes" in text
    assert "<cat>" not in text  # escaped
    cells = [re.sub("<[^>]+>", "", each) for each in re.findall("<td style=.*?</td>", text)]
    assert cells == ["1", "2", "1", "1"]
    linked = set(re.findall('href="#(cell-[0-9-]+)"', text))
    assert linked == {"cell-0-1", "cell-1-0"}
    assert linked == set(re.findall('id="(cell-[0-9-]+)"', text))
    assert (
        text.count("<figure") == 2 + 2 + 4
    )  # in cells, as mistakes, and to label; one of the images cannot be decoded
    assert "2026-11-30" in text
    assert "75.0 % (30.1 to 95.4)" in text
    assert re.search(r"%, labeled &lt;cat&gt;<span class=\"name\">[^<]+</span></figcaption>", text)
    assert "<script" not in text


def test_images_without_a_label_are_what_to_label_next(tmp_path: Path):
    guesses = np.array([[0.9, 0.1], [0.45, 0.55]])
    figures = ClassifierFigures(
        "held out",
        ("cat", "dog"),
        Answers(CHANCES[:2], TRUTH[:2] * 0 + torch.tensor([0, 1])),
        np.array([0, 1]),
        unlabeled=np.array([5, 6]),
        guesses=guesses,
    )
    text = page(tmp_path / "report.html", figures)
    titles = re.findall('title="([0-9]{8})"', text)
    assert titles == ["00000006", "00000005"]  # the one that can be decided least comes first
    assert "can decide least" in text
