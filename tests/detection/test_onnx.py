"""Detectors as ONNX: ONNX Runtime finds the same objects in images of any size, without torch or torchvision's code."""

import json

import numpy as np
import pytest
import torch

import coterie
from coterie.data.decoding.decode import decode
from coterie.detection.detector import DetectorSettings
from coterie.detection.detector_file import new_detector
from coterie.detection.onnx_file import export_detector
from coterie.errors import UserError
from coterie.exporting.model import open_model

onnxruntime = pytest.importorskip("onnxruntime")


def run(folder, image):
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image.numpy()})


def test_a_trained_detector_finds_the_same(trained, drawn, tmp_path):
    said = coterie.export(trained, out=tmp_path / "out", format="onnx", quiet=True)
    assert said.files == ("README.md", "config.json", "model.onnx")
    assert said.same >= 0.98 * said.compared > 0
    assert "of any size" in str(said)
    detector = coterie.open_detector(trained)
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (content["categories"], content["category_ids"]) == (["bar", "square"], [3, 4])
    seen = 0
    for name in ("00.png", "03.png"):
        pixels = decode((drawn / name).read_bytes(), 3).astype(np.float32) / 255
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        with torch.no_grad():
            (wanted,) = detector.network([image])
        boxes, labels, scores = run(tmp_path / "out", image)
        assert len(boxes) == len(wanted["boxes"])
        assert np.allclose(boxes, wanted["boxes"], atol=0.05)
        assert np.array_equal(labels, wanted["labels"] - 1)
        assert np.allclose(scores, wanted["scores"], atol=1e-4)
        seen += len(boxes)
    assert seen


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_other_kinds(weights, tmp_path, kind):
    torch.manual_seed(0)
    settings = DetectorSettings(kind, (64,), 128, 16, 16, 16, 50)
    detector = new_detector(open_model(weights), settings, ("a", "b"), (1, 2), "cpu", {})
    with torch.no_grad():  # as if they were trained: otherwise all scores are alike
        for name, each in detector.network.named_parameters():
            if "cls" in name or "bbox" in name or "mask_fcn" in name:
                each += 0.05 * torch.randn_like(each)
    detector.network.eval()
    before = {name: each.clone() for name, each in detector.network.state_dict().items()}
    said = export_detector(detector, "onnx", tmp_path / "out", bytes_in=False, licensed="mit")
    assert said.same >= 0.98 * said.compared > 40
    assert detector.network.state_dict().keys() == before.keys()
    assert all(torch.equal(each, before[name]) for name, each in detector.network.state_dict().items())
    found = run(tmp_path / "out", torch.rand(3, 70, 90))
    assert len(found) == (4 if kind == "mask_rcnn" else 3)
    if kind == "mask_rcnn":
        assert found[3].shape[1:] == (1, 70, 90)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"format": "timm"}, "--format is timm: a detector is exported as onnx; for others, export the MODEL"),
        ({"format": "onnx", "uint8": True}, "--uint8 is for networks and classifiers"),
        ({"format": "onnx", "size": 64}, "--size is for a MODEL"),
    ],
)
def test_what_a_detector_is_not_exported_as(trained, tmp_path, more, said):
    with pytest.raises(UserError, match=said):
        coterie.export(trained, out=tmp_path / "out", quiet=True, **more)
    assert not (tmp_path / "out").exists()
