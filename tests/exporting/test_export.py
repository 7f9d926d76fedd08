"""What is exported computes the same in the library that it is for, or is refused in one line."""

import dataclasses
import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

from coterie.classifier.classifier_file import open_classifier
from coterie.classifier.exported_head import exportable_classifier
from coterie.classifier.heads import KnnHead
from coterie.data.loading.center_crop import center_crop
from coterie.errors import UserError
from coterie.exporting.backbone_file import load_backbone, save_backbone
from coterie.exporting.export import export_model
from coterie.exporting.formats.exportable import Exportable
from coterie.exporting.model import Model, open_model
from coterie.models.own_backbone import OwnBackbone
from tests.exporting.networks import CLASSES, photographs, small_classifier, small_model
from tests.models.official_swav import OfficialSwav

WITHOUT_HEAD = "projection_head.", "prototypes."


@pytest.fixture(scope="module")
def resnet() -> Model:
    return small_model("resnet18", 36, width=0.125)


@pytest.fixture(scope="module")
def vit() -> Model:
    return small_model("test_vit", 48, crop=2 / 3)


def pixels(count: int, side: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def test_timm_loads_a_classifier_with_its_preprocessing(vit: Model, tmp_path: Path) -> None:
    classifier = small_classifier(vit, threshold=0.4)
    done = export_model(exportable_classifier(classifier), "timm", tmp_path / "out")
    assert done.files == ("README.md", "config.json", "model.safetensors")
    assert (done.difference, done.output, done.library) == (0.0, "logits", f"timm {timm.__version__}")
    network = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    (path,) = photographs(tmp_path / "images", 1)
    look = timm.data.resolve_data_config({}, model=network)
    assert look["input_size"] == (3, 48, 48)
    theirs = timm.data.create_transform(**look)(Image.open(path))
    ours = torch.from_numpy(center_crop(np.asarray(Image.open(path)), 48, 2 / 3, "bicubic")).float() / 255
    assert ((ours - 0.4) / 0.2 - theirs).abs().max() < 0.05  # two of 255
    with torch.no_grad():
        expected = classifier.probabilities(vit.network(theirs[None]))
        assert network(theirs[None]).softmax(1).allclose(expected, atol=1e-6)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["label_names"] == list(CLASSES)


@pytest.mark.parametrize("own", [False, True], ids=["public weights", "a file of ours"])
def test_our_own_file_keeps_how_images_are_prepared(own: bool, resnet: Model, tmp_path: Path) -> None:
    """Size, crop and interpolation, whatever the user asked for: the card and other commands say the same of it."""
    asked = dataclasses.replace(resnet.preprocessing, size=40, crop=0.95, interpolation="lanczos")
    export_model(Exportable(dataclasses.replace(resnet, preprocessing=asked)), "safetensors", tmp_path / "out")
    model = open_model(tmp_path / "out" / "model.safetensors", size=48 if own else None)
    assert model.preprocessing == dataclasses.replace(asked, size=48 if own else 40)
    if own:
        export_model(Exportable(model), "safetensors", tmp_path / "again")
        assert open_model(tmp_path / "again" / "model.safetensors").preprocessing == model.preprocessing


def test_torchvision_loads_it(tmp_path: Path) -> None:
    model = small_model("resnet18")
    classifier = small_classifier(model)
    assert export_model(exportable_classifier(classifier), "torchvision", tmp_path / "out").difference < 1e-5
    network = torchvision.models.resnet18(num_classes=3).eval()
    network.load_state_dict(torch.load(tmp_path / "out" / "model.pth", weights_only=True))
    images = pixels(2, 48)
    expected = classifier.probabilities(model.network(images))
    assert network(images).softmax(1).allclose(expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("resnet18", 32, {"width": 0.125, "channels": 1}),
        ("resnet50", 32, {"width": 0.0625}),
        ("test_vit", 64, {}),
        *(
            pytest.param(name, size, {}, marks=pytest.mark.slow)  # tens of millions of parameters
            for name, size in [
                ("vit_small_patch14_dinov2", 56),
                ("swin_tiny_patch4_window7_224", 224),
                ("convnext_atto", 64),
            ]
        ),
    ],
)
def test_transformers_loads_it(name: str, size: int, settings: dict, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = small_model(name, size, **settings)
    images = (pixels(2, size, model.backbone.channels) - 0.4) / 0.2
    wanted = model.network(images)
    assert export_model(Exportable(model), "transformers", tmp_path / "backbone").difference < 1e-5
    network = transformers.AutoModel.from_pretrained(tmp_path / "backbone").eval()
    with torch.no_grad():
        found = network(images)
    features = found.last_hidden_state[:, 0] if name == "test_vit" else found.pooler_output.flatten(1)
    assert (features - wanted).abs().max() < 1e-5 * wanted.abs().max()
    classifier = small_classifier(model, multi_label=True)
    assert export_model(exportable_classifier(classifier), "transformers", tmp_path / "classes").difference < 1e-5
    network = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "classes").eval()
    with torch.no_grad():
        assert network(images).logits.sigmoid().allclose(classifier.probabilities(wanted), atol=1e-5)
    assert network.config.id2label == dict(enumerate(CLASSES))


def test_transformers_prepares_images_as_we_do(resnet: Model, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_model(Exportable(resnet), "transformers", tmp_path / "out")
    (path,) = photographs(tmp_path / "images", 1)
    theirs = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")(Image.open(path), return_tensors="pt")
    ours = torch.from_numpy(center_crop(np.asarray(Image.open(path)), 36, None, "bicubic")).float() / 255
    assert ((ours - 0.4) / 0.2 - theirs["pixel_values"][0]).abs().max() < 0.05
    assert open_model(tmp_path / "out", backbone="resnet18").preprocessing.size == 36  # and we read it back


def test_transformers_reads_timms_folder(vit: Model, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    classifier = small_classifier(vit)
    export_model(exportable_classifier(classifier), "timm", tmp_path / "out")
    network = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    images = pixels(2, 48)
    with torch.no_grad():
        found = network(images).logits.softmax(1)
    assert found.allclose(classifier.probabilities(vit.network(images)), atol=1e-6)
    assert network.config.id2label == dict(enumerate(CLASSES))


def test_swavs_authors_read_it(tmp_path: Path) -> None:
    """As their ``eval_linear.py`` does: the prefix is cut, and what is missing is only said."""
    model = small_model("resnet50", 64, width=0.125)
    assert export_model(Exportable(model), "swav", tmp_path / "out").difference == 0
    theirs = OfficialSwav(8, (3, 4, 6, 3), 4, 4, 4).eval()
    state = torch.load(tmp_path / "out" / "swav.pth", weights_only=True)
    state = {name.replace("module.", ""): value for name, value in state.items()}
    said = theirs.load_state_dict(state, strict=False)
    assert not said.unexpected_keys
    assert all(name.startswith(WITHOUT_HEAD) for name in said.missing_keys)
    images = pixels(2, 64)
    assert theirs.forward_backbone(images).allclose(model.network(images), rtol=1e-5, atol=1e-6)


def test_torch_export_holds_any_head_and_takes_bytes(resnet: Model, tmp_path: Path) -> None:
    knn = KnnHead(torch.randn(4, 64), torch.tensor([0, 1, 2, 1]), 3, k=2)
    classifier = small_classifier(resnet, knn)
    done = export_model(exportable_classifier(classifier), "torch_export", tmp_path / "out", bytes_in=True)
    assert (done.any_size, done.output) == (True, "probabilities")
    assert done.difference < 1e-6
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    images = torch.randint(0, 256, (5, 40, 33, 3), dtype=torch.uint8)
    normalized = (images.permute(0, 3, 1, 2).float() / 255 - 0.4) / 0.2
    assert program(images).detach().allclose(classifier.probabilities(resnet.network(normalized)), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "free"), [("resnet18", True), pytest.param("test_convnext", False, marks=pytest.mark.slow)]
)
def test_torch_export_of_maps_of_one_pixel(tmp_path: Path, name: str, free: bool) -> None:
    """Their size of 1 must not become a condition of the program; where it does, the program has one size, and says so."""
    model = small_model(name, **({"width": 0.125} if name == "resnet18" else {}))
    assert model.network.forward_features(pixels(1, 32)).shape[2:] == (1, 1)
    done = export_model(Exportable(model), "torch_export", tmp_path / "out")
    assert (done.any_size, done.difference < 1e-6) == (free, True)


def test_our_own_file_rebuilds_model_and_classifier(resnet: Model, tmp_path: Path) -> None:
    assert export_model(Exportable(resnet), "safetensors", tmp_path / "backbone").difference == 0
    images = pixels(2, 36)
    assert load_backbone(tmp_path / "backbone")(images).equal(resnet.network(images))
    classifier = small_classifier(resnet, threshold=0.5)
    assert export_model(exportable_classifier(classifier), "safetensors", tmp_path / "classifier").difference == 0
    opened = open_classifier(tmp_path / "classifier")
    assert (opened.classes, opened.threshold) == (CLASSES, 0.5)


class Tiny(nn.Module):
    """A user's own network."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images).relu().mean(dim=(2, 3))


def test_a_network_of_the_users_own(tmp_path: Path) -> None:
    own, look = OwnBackbone(Tiny(), 3, 16).eval(), small_model("test_vit", 64).preprocessing
    config = small_model("test_vit", 64).backbone
    config = type(config)("python:Tiny")
    save_backbone(tmp_path / "model.safetensors", own, config, 64, look.mean, look.std)
    model = open_model(tmp_path / "model.safetensors", backbone=Tiny())
    assert export_model(Exportable(model), "safetensors", tmp_path / "own").difference == 0
    assert export_model(Exportable(model), "torch_export", tmp_path / "program").difference < 1e-6
    with pytest.raises(
        UserError, match="this Tiny of your own: the network was given in Python; use --format onnx, torch"
    ):
        export_model(Exportable(model), "timm", tmp_path / "timm")


@pytest.mark.parametrize(
    ("form", "settings", "line"),
    [
        (
            "timm",
            {"width": 0.125},
            "timm cannot hold this resnet18: its width is not timm's; use --format transformers, onnx",
        ),
        (
            "torchvision",
            {"width": 0.125},
            "no width, and this one is 0.125 times as wide; use --format transformers, onnx, ",
        ),
        ("torchvision", {"stem": "small", "width": 0.125}, "torch_export or safetensors"),
        ("torchvision", {"channels": 1, "width": 0.125}, "its networks take 3 channels, and this one 1; use"),
        (
            "transformers",
            {"stem": "small", "width": 0.125},
            "a stem of one 7x7 convolution; use --format onnx, torch_export",
        ),
        ("swav", {"width": 0.125}, "SwAV's layout cannot hold this resnet18: their networks are ResNet-50s"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_with_those_that_can(
    form: str, settings: dict, line: str, tmp_path: Path
) -> None:
    if form == "transformers":
        pytest.importorskip("transformers")
    with pytest.raises(UserError, match=re.escape(line)):
        export_model(Exportable(small_model("resnet18", **settings)), form, tmp_path / "new" / "out")
    assert not any(tmp_path.iterdir())


def test_heads_that_are_not_linear_and_other_networks(resnet: Model, vit: Model, tmp_path: Path) -> None:
    knn = KnnHead(torch.randn(4, 64), torch.tensor([0, 1, 2, 1]), 3)
    voting = exportable_classifier(small_classifier(vit, knn))
    with pytest.raises(
        UserError, match="timm cannot hold this test_vit classifier: its head is not linear; use --format onnx"
    ):
        export_model(voting, "timm", tmp_path / "out")
    with pytest.raises(
        UserError, match="torchvision cannot hold this test_vit: it has no such network; use --format timm, t"
    ):
        export_model(Exportable(vit), "torchvision", tmp_path / "out")
    with pytest.raises(UserError, match="that of a backbone, to which their script adds a classifier"):
        export_model(exportable_classifier(small_classifier(resnet)), "swav", tmp_path / "out")


def test_other_arithmetic_is_refused_and_nothing_is_left(resnet: Model, tmp_path: Path) -> None:
    """Names and shapes are those of a ResNet, one activation is not."""
    pytest.importorskip("transformers")
    other = small_model("resnet18", width=0.125)
    other.network.act1 = nn.SiLU()
    with pytest.raises(
        UserError, match=r"computes something else .*: it differs by .* at most 1e-05 is allowed; nothing is"
    ):
        export_model(Exportable(other), "transformers", tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(resnet: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"the disk is full: .*out"):
        export_model(Exportable(resnet), "safetensors", tmp_path / "new" / "out")
    assert not any(tmp_path.iterdir())


def test_bad_requests_are_refused_before_anything_is_written(resnet: Model, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    for words, line in [
        (("onx", "out", False), "--format is 'onx': use one of timm, .*; did you mean onnx?"),
        (("timm", "out", True), "--uint8 is for --format onnx and torch_export"),
        (("timm", "taken", False), "taken exists: remove it, or choose another --out"),
        (("onnx", "model.onnx", False), "name a folder"),
    ]:
        form, out, bytes_in = words
        with pytest.raises(UserError, match=line):
            export_model(Exportable(resnet), form, tmp_path / out, bytes_in=bytes_in)
    assert [each.name for each in tmp_path.rglob("*")] == ["taken", "notes.txt"]
    (tmp_path / "empty").mkdir()
    assert export_model(Exportable(resnet), "safetensors", tmp_path / "empty").folder == tmp_path / "empty"


def test_padding_that_depends_on_the_size_has_one_size(tmp_path: Path) -> None:
    """Torch simplified the formulas of a network with many such layers for minutes."""
    own = Tiny()
    own.layer = timm.layers.Conv2dSame(3, 4, 3, stride=2)
    config = dataclasses.replace(small_model("test_vit", 64).backbone, name="python:Tiny")
    look = dataclasses.replace(small_model("test_vit", 64).preprocessing, size=16)
    done = export_model(
        Exportable(Model("own", OwnBackbone(own, 3, 16).eval(), config, 16, look)), "torch_export", tmp_path / "out"
    )
    assert not done.any_size
    assert done.difference < 1e-6
