"""``--start-from`` and tags: which settings follow from the weights, and what the user's own override."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coterie.cli.demo import write_patches
from coterie.config.facts import Facts
from coterie.config.from_options import Request, Resolved
from coterie.config.start_from import absolute_model, split_tag
from coterie.config.toml import to_dict
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import UserError
from coterie.exporting.backbone_file import save_backbone
from coterie.methods.presets import METHODS, plan_method
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.backbone_of_weights import FoundBackbone

TINY = BackboneConfig("resnet18", width=0.125, stem="small")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 160, 32))
    return str(path)


def saved(path: Path, config: BackboneConfig, size: int = 32) -> str:
    whitening = [0.5] * config.channels
    save_backbone(path, build_backbone(config, size), config, size, whitening, whitening)
    return str(path)


def resolved(*data: str, before: dict[str, Any] | None = None, method: str = "swav", **options: Any) -> Resolved:
    request = Request(method, data, options, methods=METHODS, plan_method=plan_method, saved=before)  # type: ignore[arg-type]
    return request.resolved()


def test_the_network_comes_from_the_weights(images: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "w.safetensors", TINY)
    run = resolved(images, start_from=Path(file))
    assert run.config.backbone == replace(TINY, weights=file, frozen_statistics=True)
    assert [crop.size for crop in run.config.views.crops] == [24, 16]
    reasons = {name: run.reasons[f"backbone.{name}"] for name in ("name", "stem", "width", "weights")}
    assert reasons == dict.fromkeys(("name", "stem", "width"), "from the weights") | {"weights": "requested"}


@pytest.mark.parametrize("method", METHODS)
def test_every_preset_takes_the_network_of_the_weights(method: str) -> None:
    start = FoundBackbone(replace(TINY, stem="standard"), 224, "a line")
    config, reasons = plan_method(method, Facts(50_000, 128), epochs=1, start=start)
    assert (config.backbone.name, config.backbone.width, config.backbone.stem) == ("resnet18", 0.125, "standard")
    assert config.backbone.mlp_norm == "layer"
    assert reasons["backbone.name"] == reasons["backbone.width"] == "from the weights"


def test_without_weights_presets_keep_their_networks() -> None:
    config, _ = plan_method("smog_imagenet_w2", Facts(50_000, 300), backbone="resnet101")
    assert (config.backbone.name, config.backbone.width) == ("resnet101", 2.0)
    config, _ = plan_method("smog_imagenet_swin_tiny", Facts(50_000, 300))
    assert (config.backbone.mlp_norm, config.backbone.drop_path) == ("batch", 0.2)


@pytest.mark.parametrize(
    ("side", "known", "sizes", "whole"),
    [
        (32, 224, [96, 64], 128),
        (32, None, [96, 64], 128),
        (64, 224, [168, 112], 224),
        (32, 32, [24, 16], 32),
        (96, 96, [72, 48], 96),
    ],
)
def test_a_standard_stem_sees_small_images_enlarged(side: int, known: int | None, sizes: list[int], whole: int) -> None:
    """To the size that the weights know, and at most four times; those of a small stem see them as they are."""
    start = FoundBackbone(BackboneConfig("resnet18"), known, "a line")
    config, reasons = plan_method("swav", Facts(50_000, side), start=start)
    assert ([crop.size for crop in config.views.crops], config.views.image_size) == (sizes, whole)
    assert ("enlarged" in reasons["views.crops"]) == (whole > side)
    small = FoundBackbone(TINY, 224, "a line")
    config, _ = plan_method("swav", Facts(50_000, side), start=small)
    assert config.views == plan_method("swav", Facts(50_000, side))[0].views


def test_what_the_user_sets_wins(images: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "w.safetensors", TINY)
    run = resolved(images, start_from=file, settings=["backbone.stem=standard", "backbone.width=0.25"])
    assert (run.config.backbone.stem, run.config.backbone.width) == ("standard", 0.25)
    with pytest.raises(UserError, match="does not fit vit_tiny_patch16_224"):
        resolved(images, start_from=file, backbone="vit_tiny_patch16_224")
    assert resolved(images, start_from=file, settings=["backbone.weights=none"]).config.backbone.weights is None


def test_gray_weights_see_gray_images_and_color_ones_what_there_is(images: str, tmp_path: Path) -> None:
    gray = saved(tmp_path / "gray.safetensors", replace(TINY, channels=1))
    config = resolved(images, start_from=gray).config
    assert (config.backbone.channels, config.views.channels, len(config.views.mean)) == (1, 1, 1)
    color = saved(tmp_path / "color.safetensors", TINY)
    config = resolved(images, start_from=color, settings=["views.channels=1"]).config
    assert (config.backbone.channels, config.views.channels) == (1, 1)


def test_none_is_random_weights(images: str) -> None:
    for none in ("none", "None"):
        run = resolved(images, start_from=none)
        assert run.config == resolved(images).config
        assert run.reasons["backbone.weights"] == "requested"


def test_a_run_keeps_what_it_started_from(images: str, tmp_path: Path) -> None:
    file = saved(tmp_path / "w.safetensors", TINY)
    config = resolved(images, start_from=file).config
    Path(file).unlink()
    before = to_dict(config)
    assert resolved(images, before=before).config == config
    assert resolved(images, before=before, start_from=file).config == config
    assert resolved(images, before=before, start_from="none").config.backbone.weights is None


def test_a_tag_is_short_for_timms_weights() -> None:
    model = "timm:resnet18.a1_in1k"
    plain = {"backbone.name": "resnet18", "epochs": 3}
    assert split_tag(plain | {"backbone.name": "resnet18.a1_in1k"}, [], {}) == (plain, [], model)
    override = [("backbone.name", "resnet18.a1_in1k"), ("seed", 1)]
    assert split_tag({}, override, {}) == ({}, [("backbone.name", "resnet18"), ("seed", 1)], model)
    assert split_tag(plain, [], {}) == (plain, [], None)
    assert split_tag({"backbone.name": "resnet81.a1_in1k"}, [], {})[2] is None  # refused as a network


def test_a_tag_is_refused_with_something_else_to_start_from(images: str) -> None:
    for more in ({"start_from": "none"}, {"start_from": "run"}, {"settings": ["backbone.weights=run"]}):
        with pytest.raises(
            UserError, match=r"--backbone resnet18.a1_in1k names weights by its tag: use --backbone resnet18"
        ):
            resolved(images, backbone="resnet18.a1_in1k", **more)


def test_a_run_of_an_earlier_version_whose_network_has_a_tag_goes_on(images: str) -> None:
    before = to_dict(resolved(images).config)
    before["backbone"]["name"] = "resnet18.a1_in1k"
    config = resolved(images, before=before, backbone="resnet18.a1_in1k").config
    assert (config.backbone.name, config.backbone.weights) == ("resnet18.a1_in1k", None)


def test_a_model_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.pth").touch()
    assert absolute_model("timm:resnet18.a1_in1k") == "timm:resnet18.a1_in1k"
    assert absolute_model("w.pth") == str(tmp_path / "w.pth")
    assert absolute_model("w.pth#teacher") == f"{tmp_path}/w.pth#teacher"
    assert absolute_model("gone.pth#teacher") == f"{tmp_path}/gone.pth#teacher"


def test_automatic_sizes_are_those_that_the_network_takes(images: str) -> None:
    run = resolved(images, backbone="vit_small_patch14_dinov2")
    assert {crop.size for crop in run.config.views.crops} == {run.config.views.image_size} == {28}
    assert run.reasons["views.crops"].endswith("rounded to the nearest sizes that vit_small_patch14_dinov2 takes")
    assert run.reasons["views.image_size"].startswith("32, rounded to")
    by_path = resolved(images, settings=["backbone.name=vit_small_patch14_dinov2"])
    assert by_path.config == run.config
    config, reasons = plan_method("swav_imagenet_256", Facts(50_000, 300), backbone="vit_small_patch14_dinov2")
    assert ([crop.size for crop in config.views.crops], config.views.image_size) == ([224, 98], None)
    assert reasons["views.crops"].startswith("as published; 2x224 + 6x96 rounded")
