"""Whatever a user names as a MODEL, with the preprocessing of its images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from coterie.data.loading.center_crop import Preprocessing, center_crop
from coterie.errors import UserError
from coterie.exporting.backbone_file import save_backbone
from coterie.exporting.model import open_beside, open_model
from coterie.logger import NullLogger
from coterie.models.backbone import BackboneConfig, build_backbone

SMALL = BackboneConfig("resnet18", width=0.125, stem="small")
VIT = "vit_tiny_patch16_224"


class Recorder(NullLogger):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = build_backbone(SMALL, 16).eval()
    save_backbone(tmp_path / "model.safetensors", network, SMALL, 16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    return tmp_path / "model.safetensors"


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of timm's, as ``torch.save`` writes it."""
    path = tmp_path_factory.mktemp("public") / "weights.pth"
    torch.save(timm.create_model("resnet10t").eval().state_dict(), path)
    return path


def test_a_file_is_opened_with_its_preprocessing(own: Path) -> None:
    model, described = open_model(own), build_backbone(SMALL, 16)
    described.load_state_dict(model.network.state_dict())
    images = torch.randn(2, 3, 16, 16)
    assert model.network(images).equal(described.eval()(images))
    assert model.run is None
    assert model.preprocessing == Preprocessing(16, 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert not model.untrained().eval()(images).equal(model.network(images))


def test_what_was_taken_and_the_preprocessing_are_said_in_two_lines(own: Path, public: Path) -> None:
    logger = Recorder()
    open_model(own, logger=logger)
    open_model(public, backbone="resnet10t", size=64, logger=logger)
    assert logger.lines[0] == f"{own}: a weights file of Coterie, a resnet18"
    assert logger.lines[1] == "images: 16 pixels, crop 1, bilinear, mean .1 .2 .3, std .4 .5 .6 (from the file)"
    assert logger.lines[2].startswith(f"{public}: took ")
    assert logger.lines[3] == (
        "images: 64 pixels, crop .875, bicubic, mean .485 .456 .406, std .229 .224 .225 (timm's configuration of "
        "resnet10t.c3_in1k; size as given)"
    )


def test_public_weights_give_timms_features(public: Path) -> None:
    theirs = timm.create_model("resnet10t", num_classes=0).eval()
    theirs.load_state_dict(torch.load(public, weights_only=True), strict=False)
    model, images = open_model(public, backbone="resnet10t.c3_in1k"), torch.randn(2, 3, 64, 64)
    assert model.network(images).equal(theirs(images))
    assert (model.preprocessing.size, model.backbone.name) == (176, "resnet10t.c3_in1k")


def test_images_are_prepared_as_timm_prepares_them(public: Path) -> None:
    """Of a size whose margin is odd; borders are interpolated differently."""
    look = open_model(public, backbone="resnet10t").preprocessing
    config = timm.data.resolve_data_config({}, model=timm.create_model("resnet10t"))
    theirs = timm.data.create_transform(**config, is_training=False)
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((400, 300), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(center_crop(np.asarray(image), look.size, look.crop, look.interpolation)).float() / 255
    ours = (pixels - torch.tensor(look.mean)[:, None, None]) / torch.tensor(look.std)[:, None, None]
    assert (ours - theirs(image))[:, 2:-2, 2:-2].abs().max() < 0.02


def test_options_replace_what_the_model_says(own: Path) -> None:
    model = open_model(own, size=24, mean=0.5, std=[0.1, 0.2, 0.3], crop=0.9, interpolation="Bicubic")
    assert model.preprocessing == Preprocessing(24, 3, (0.5,) * 3, (0.1, 0.2, 0.3), 0.9, "bicubic")
    assert model.image_size == 16


def test_a_transformer_takes_other_sizes_and_says_which(tmp_path: Path) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), tmp_path / "vit.pth")
    model = open_model(tmp_path / "vit.pth", backbone=VIT, size=96)
    assert model.network(torch.randn(1, 3, 96, 96)).shape == (1, 192)
    assert model.image_size == 96
    with pytest.raises(
        UserError, match="does not take images of 100 pixels: the nearest sizes that it takes are 96 and 112"
    ):
        open_model(tmp_path / "vit.pth", backbone=VIT, size=100)


def test_a_network_of_one_size_says_so(tmp_path: Path) -> None:
    torch.save(timm.create_model("mixer_s32_224").state_dict(), tmp_path / "mixer.pth")
    with pytest.raises(
        UserError, match="does not take images of 160 pixels with these weights, which are laid out for 224"
    ):
        open_model(tmp_path / "mixer.pth", backbone="mixer_s32_224", size=160)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        (
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
                "resample": 3,
                "do_center_crop": True,
            },
            (224, 0.875, "bicubic", 0.485),
        ),
        ({"size": {"height": 384, "width": 384}, "resample": 2, "image_mean": [0.5] * 3}, (384, 1.0, "bilinear", 0.5)),
        ({"size": 192, "crop_pct": 0.875, "resample": 3}, (192, 0.875, "bicubic", 0.485)),
        ({"size": 160, "do_normalize": False, "image_mean": [0.5] * 3}, (160, 1.0, "bilinear", 0.0)),
    ],
)
def test_a_folders_own_configuration_comes_first(tmp_path: Path, configuration: dict, expected: tuple) -> None:
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(configuration))
    look = open_model(tmp_path, backbone="resnet10t").preprocessing
    assert (look.size, look.crop, look.interpolation, look.mean[0]) == expected


def test_timms_folders_say_it_in_their_configuration(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet10t").state_dict(), tmp_path / "model.safetensors")
    about = {
        "mean": [0.1] * 3,
        "std": [0.2] * 3,
        "input_size": [3, 128, 128],
        "crop_pct": 0.9,
        "interpolation": "bilinear",
    }
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", "pretrained_cfg": about}))
    assert open_model(tmp_path).preprocessing == Preprocessing(128, 3, (0.1,) * 3, (0.2,) * 3, 0.9, "bilinear")


def test_channels_follow_the_network(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet10t", in_chans=1).state_dict(), tmp_path / "gray.pth")
    model = open_model(tmp_path / "gray.pth", backbone="resnet10t")
    assert model.preprocessing.mean == (pytest.approx(0.449),)
    assert model.network(torch.randn(1, 1, 64, 64)).shape == (1, 512)


def test_a_file_beside_another_is_opened_with_the_same_backbone(own: Path, public: Path) -> None:
    ours, theirs = open_beside([str(own), str(public)], "cpu", "resnet10t", 32)
    assert (ours.backbone.name, theirs.backbone.name) == ("resnet18", "resnet10t")
    assert ours.preprocessing.size == theirs.preprocessing.size == 32


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        (
            "missing.safetensors",
            {},
            r"there is no .*missing\.safetensors: name a run's folder, a model\.safetensors, a weights",
        ),
        (
            "empty",
            {},
            r"empty is not a run's folder: it has no config\.toml or model\.safetensors; name a run's folder",
        ),
        (
            "model.safetensors",
            {"backbone": "resnet50"},
            r"--backbone is resnet50, but .*model\.safetensors is a resnet18",
        ),
        ("model.safetensors#teacher", {}, r"holds the weights of the student only: leave out #teacher"),
        ("model.safetensors", {"size": 0}, r"--size is 0: give the side of the images in pixels, from 1 to 4096"),
        ("model.safetensors", {"size": 10**9}, r"--size is 1000000000: give"),
        (
            "model.safetensors",
            {"mean": (0.5, 0.5)},
            r"--mean has 2 values, and the network reads 3 channels: give 3, or one",
        ),
        ("model.safetensors", {"mean": (123.7, 116.3, 103.5)}, r"--mean is 123\.7, 116\.3, 103\.5.*divide .* by 255"),
        ("model.safetensors", {"std": 0.0}, r"--std is 0, 0, 0.*: give values from 0 to 1"),
        ("model.safetensors", {"std": float("nan")}, r"--std is nan"),
        ("model.safetensors", {"crop": 0.0}, r"--crop is 0: give the share"),
        (
            "model.safetensors",
            {"interpolation": "bicubical"},
            r"--interpolation is 'bicubical': .*did you mean bicubic",
        ),
        ("timm:resnet18", {"backbone": "resnet50"}, r"--backbone is resnet50, but the model is timm:resnet18"),
        ("weights.pth", {}, r"weights\.pth does not say which network it holds: name it with --backbone"),
        ("weights.pth", {"backbone": "resnet18"}, r"does not fit resnet18"),
        ("folder", {"backbone": "resnet10t"}, r"preprocessor_config\.json is damaged, or says in an unknown way"),
    ],
)
def test_every_mistake_is_one_line(own: Path, public: Path, name: str, options: dict, what: str) -> None:
    (own.parent / "empty").mkdir()
    shutil.copy(public, own.parent / "weights.pth")
    (own.parent / "folder").mkdir()
    shutil.copy(public, own.parent / "folder")
    (own.parent / "folder" / "preprocessor_config.json").write_text('{"size": "large"}')
    with pytest.raises(UserError, match=what) as caught:
        open_model(name if name.startswith("timm:") else own.parent / name, **options)
    assert "\n" not in str(caught.value)
