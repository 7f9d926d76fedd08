"""Files for Detectron2 and OpenMMLab: their names, written down from their architectures, and the same features."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from coterie.classifier.exported_head import exportable_classifier
from coterie.errors import UserError
from coterie.exporting.export import export_model
from coterie.exporting.formats.exportable import Exportable
from coterie.exporting.model import Model, open_model
from tests.exporting.networks import small_classifier, small_model

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}


def read(folder: Path, name: str) -> dict:
    """The file as both libraries read it; weights_only: it holds tensors and plain values alone."""
    return torch.load(folder / name, weights_only=True)


def usage(folder: Path) -> str:
    """The Python of the card."""
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


def norm(name: str) -> list[str]:
    return [f"{name}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]


def detectron2_names(network: str) -> set[str]:
    """Those of its ResNet (``modeling/backbone/resnet.py``): a stem, ``res2`` to ``res5``, a norm within each convolution."""
    deep = network == "resnet50"
    convolutions = ["stem.conv1"]
    for stage, count in enumerate(BLOCKS[network], start=2):
        for block in range(count):
            name = f"res{stage}.{block}"
            convolutions += [f"{name}.conv{number}" for number in range(1, 4 if deep else 3)]
            if block == 0 and (deep or stage > 2):
                convolutions.append(f"{name}.shortcut")
    return {name for each in convolutions for name in (f"{each}.weight", *norm(f"{each}.norm"))}


def mmlab_resnet_names(network: str) -> set[str]:
    """Those of its ResNet (``models/backbones/resnet.py``), which are torchvision's, without a classifier."""
    deep = network == "resnet50"
    pairs = [("conv1", "bn1")]
    for stage, count in enumerate(BLOCKS[network], start=1):
        for block in range(count):
            name = f"layer{stage}.{block}"
            pairs += [(f"{name}.conv{number}", f"{name}.bn{number}") for number in range(1, 4 if deep else 3)]
            if block == 0 and (deep or stage > 1):
                pairs.append((f"{name}.downsample.0", f"{name}.downsample.1"))
    return {
        name
        for convolution, batch_norm in pairs
        for name in (f"{convolution}.weight", *norm(batch_norm), f"{batch_norm}.num_batches_tracked")
    }


@pytest.fixture(scope="module")
def wide() -> Model:
    """SwAV's wide ResNets are as wide everywhere, the stem too; this one is narrow."""
    return small_model("resnet50", width=0.125)


@pytest.fixture(scope="module")
def resnet18() -> Model:
    return small_model("resnet18")


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_detectron2_has_its_own_names(network: str, wide: Model, resnet18: Model, tmp_path: Path) -> None:
    model = wide if network == "resnet50" else resnet18
    done = export_model(Exportable(model), "detectron2", tmp_path / "out")
    assert done.files == ("README.md", "config.json", "detectron2.pth", "preprocessor_config.json")
    content = read(tmp_path / "out", "detectron2.pth")
    assert content.keys() == {"model", "__author__", "matching_heuristics"}
    assert content["matching_heuristics"] is True
    assert content["__author__"] != "Caffe2"  # whose names Detectron2 would convert
    assert content["model"].keys() == detectron2_names(network)
    own = model.network.state_dict()
    assert content["model"]["stem.conv1.norm.running_var"].equal(own["bn1.running_var"])
    assert content["model"]["res3.0.shortcut.norm.bias"].equal(own["layer2.0.downsample.1.bias"])
    assert content["model"]["res5.1.conv2.weight"].equal(own["layer4.1.conv2.weight"])
    assert (done.difference, done.library) == (0.0, "coterie's reader")


def test_its_config_builds_the_same_network(wide: Model, resnet18: Model, tmp_path: Path) -> None:
    """The lines of the card, and from them the widths as ``build_resnet_backbone`` derives them."""
    for name, model in (("wide", wide), ("narrow", resnet18)):
        export_model(Exportable(model), "detectron2", tmp_path / name)
        parts = ("INPUT", "MODEL")
        cfg = SimpleNamespace(**{part: SimpleNamespace() for part in parts})
        cfg.MODEL.RESNETS, cfg.MODEL.BACKBONE, cfg.MODEL.FPN = (SimpleNamespace() for _ in range(3))
        zoo = SimpleNamespace(get_config=lambda _, cfg=cfg: cfg)
        exec(usage(tmp_path / name).replace("from detectron2 import model_zoo\n", ""), {"model_zoo": zoo})
        resnet, tensors = cfg.MODEL.RESNETS, read(tmp_path / name, "detectron2.pth")["model"]
        assert (50 if name == "wide" else 18) == resnet.DEPTH
        assert not resnet.STRIDE_IN_1X1
        assert model.network.layer2[0].conv1.stride == ((1, 1) if name == "wide" else (2, 2))
        assert len(tensors["stem.conv1.weight"]) == resnet.STEM_OUT_CHANNELS
        for stage in range(4):
            middle = resnet.NUM_GROUPS * resnet.WIDTH_PER_GROUP * 2**stage
            assert len(tensors[f"res{stage + 2}.0.conv1.weight"]) == middle
            assert len(tensors[f"res{stage + 2}.1.conv{3 if name == 'wide' else 2}.weight"]) == (
                resnet.RES2_OUT_CHANNELS * 2**stage
            )
        assert (cfg.INPUT.FORMAT, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD) == ("RGB", [102.0] * 3, [51.0] * 3)
        assert cfg.MODEL.WEIGHTS == "FOLDER/detectron2.pth"


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_openmmlab_has_its_own_names(network: str, wide: Model, resnet18: Model, tmp_path: Path) -> None:
    model = wide if network == "resnet50" else resnet18
    assert export_model(Exportable(model), "mmlab", tmp_path / "out").difference == 0
    content = read(tmp_path / "out", "mmlab.pth")
    assert content.keys() == {"meta", "state_dict"}
    assert content["state_dict"].keys() == {f"backbone.{name}" for name in mmlab_resnet_names(network)}
    settings = configured(tmp_path / "out")
    assert (settings["backbone"]["style"], settings["data_preprocessor"]["bgr_to_rgb"]) == ("pytorch", True)
    assert settings["backbone"].get("base_channels", 64) == (8 if network == "resnet50" else 64)
    assert settings["neck"]["in_channels"] == ([32, 64, 128, 256] if network == "resnet50" else [64, 128, 256, 512])


def configured(folder: Path) -> dict:
    names: dict = {}
    exec(usage(folder).replace("FOLDER", str(folder)), names)
    return names["model"]


def test_names_of_openmmlabs_transformers(tmp_path: Path) -> None:
    model = small_model("test_vit", 48)
    assert export_model(Exportable(model), "mmlab", tmp_path / "vit").difference == 0
    tensors = read(tmp_path / "vit", "mmlab.pth")["state_dict"]
    layer = "ln1 ln2 attn.qkv attn.proj ffn.layers.0.0 ffn.layers.1".split()
    names = [f"layers.{number}.{each}" for number in range(len(model.network.blocks)) for each in layer]
    names = [f"{each}.{part}" for each in ("patch_embed.projection", "ln1", *names) for part in ("weight", "bias")]
    assert tensors.keys() == {f"backbone.{each}" for each in ("cls_token", "pos_embed", *names)}
    assert open_model(tmp_path / "vit" / "mmlab.pth", backbone="test_vit").network(torch.zeros(1, 3, 48, 48)).shape


def swin(tmp_path: Path, size: int = 224) -> Model:
    model = small_model("swin_tiny_patch4_window7_224", size)
    assert export_model(Exportable(model), "mmlab", tmp_path / "swin").difference == 0
    return model


@pytest.mark.slow
def test_names_of_openmmlabs_swin(tmp_path: Path) -> None:
    swin(tmp_path)
    tensors = read(tmp_path / "swin", "mmlab.pth")["state_dict"]
    block = "norm1 norm2 attn.w_msa.qkv attn.w_msa.proj ffn.layers.0.0 ffn.layers.1".split()
    names, depths = ["patch_embed.projection", "patch_embed.norm", "norm3"], (2, 2, 6, 2)
    names += [
        f"stages.{stage}.blocks.{row}.{each}" for stage in range(4) for row in range(depths[stage]) for each in block
    ]
    names += [f"stages.{stage}.downsample.norm" for stage in range(3)]
    names = [f"{each}.{part}" for each in names for part in ("weight", "bias")]
    names += [f"stages.{stage}.downsample.reduction.weight" for stage in range(3)]
    tables = "attn.w_msa.relative_position_bias_table"
    names += [f"stages.{stage}.blocks.{row}.{tables}" for stage in range(4) for row in range(depths[stage])]
    assert tensors.keys() == {f"backbone.{each}" for each in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "test_vit", "swin"])
@pytest.mark.filterwarnings("ignore")  # of their imports
def test_openmmlabs_own_networks_compute_the_same(name: str, wide: Model, tmp_path: Path) -> None:
    """By the lines of the card: the registry builds the backbone, and ``init_weights`` loads the file."""
    pytest.importorskip("mmpretrain")
    library = pytest.importorskip("mmdet.registry")
    if name == "swin":
        model = swin(tmp_path, 448)  # at 224, MMDetection shifts the one window of the last maps too
    else:
        model = wide if name == "resnet50" else small_model("test_vit", 48)
        export_model(Exportable(model), "mmlab", tmp_path / name)
    mmengine = pytest.importorskip("mmengine")
    settings = mmengine.ConfigDict(configured(tmp_path / name)["backbone"])
    settings.pop("_delete_")
    theirs = library.MODELS.build(settings)
    theirs.init_weights()
    theirs.eval()
    side = model.image_size if name != "resnet50" else 96
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = model.network.forward_features(images)
        found = theirs(images)[-1]
    if name == "test_vit":
        wanted = model.network(images)
    elif name == "swin":
        wanted = wanted.permute(0, 3, 1, 2)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize(
    ("form", "name", "settings", "line"),
    [
        (
            "detectron2",
            "resnet18",
            {"width": 0.125},
            "its ResNet-18s and -34s have 64 channels in the first stage; use",
        ),
        ("detectron2", "test_vit", {}, "it has no such network with this arithmetic; use --format timm, "),
        ("detectron2", "resnet18", {"stem": "small"}, "a stem of one 7x7 convolution over three channels; use"),
        ("mmlab", "resnet18", {"channels": 1, "width": 0.125}, "a stem of one 7x7 convolution over three channels"),
        ("mmlab", "test_convnext", {}, "it is written for ResNets, plain ViTs and Swins of three channels"),
        ("mmlab", "resnet10t", {}, "it has no such network with this arithmetic"),
    ],
)
def test_other_networks_are_refused_in_one_line(
    form: str, name: str, settings: dict, line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        export_model(Exportable(small_model(name, 32, **settings)), form, tmp_path / "out")
    assert line in str(caught.value)
    assert not any(tmp_path.iterdir())


def test_a_classifier_is_refused(wide: Model, tmp_path: Path) -> None:
    for form in ("detectron2", "mmlab"):
        with pytest.raises(UserError, match="resnet50 classifier: its file is that of a backbone, to which detectors"):
            export_model(exportable_classifier(small_classifier(wide)), form, tmp_path / "out")


def test_coterie_starts_from_detectron2s_files(wide: Model, tmp_path: Path) -> None:
    """Also from one of a whole detector, where the backbone is behind a prefix."""
    export_model(Exportable(wide), "detectron2", tmp_path / "out")
    tensors = read(tmp_path / "out", "detectron2.pth")["model"]
    state = {f"backbone.bottom_up.{name}": each for name, each in tensors.items()}
    torch.save({"model": {**state, "roi_heads.box_head.fc1.weight": torch.zeros(2, 2)}}, tmp_path / "detector.pth")
    opened = open_model(tmp_path / "detector.pth", backbone="resnet50")
    images = torch.rand(1, 3, 64, 64)
    assert opened.network(images).equal(wide.network(images))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["backbone"] == "resnet50"
