"""From options to images and complete settings: what overrides what, and which reasons remain."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from coterie.cli.demo import write_patches
from coterie.config import from_options as resolving
from coterie.config.from_options import Request, Resolved
from coterie.config.hardware import choose_engine
from coterie.config.toml import to_dict, to_toml
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import BadConfig, UserError
from coterie.methods.presets import METHODS, plan_method

IMAGES = 160


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", IMAGES, 16))
    return str(path)


def resolved(method: str | None, *data: str, more: dict[str, Any] | None = None, **options: Any) -> Resolved:
    request = Request(method, data, options, methods=METHODS, plan_method=plan_method, settings=more)  # type: ignore[arg-type]
    return request.resolved()


def test_set_overrides_options_which_override_the_preset(images: str) -> None:
    run = resolved("swav", images, epochs=7, seed=3, settings=["seed=4", "groups.counts=[10]"], more={"run.threads": 2})
    config = run.config
    assert len(run.source) == IMAGES
    assert (config.data, config.method) == ((images,), "swav")
    assert (config.epochs, config.seed, config.groups.counts, config.run.threads) == (7, 4, (10,), 2)
    reasons = {path: run.reasons[path] for path in ("epochs", "seed", "groups.counts", "run.threads")}
    assert reasons == {
        "epochs": "requested",
        "seed": "set by you",
        "groups.counts": "set by you",
        "run.threads": "requested",
    }
    assert run.reasons["backbone.name"].startswith("images of 16 pixels are small")


def test_a_crop_that_is_dropped_is_set_by_you(images: str) -> None:
    run = resolved("swav", images, settings=["views.crops.1=none"])
    assert len(run.config.views.crops) == 1
    assert run.reasons["views.crops"] == "set by you"
    assert "views.crops.1" not in run.reasons


def test_the_chosen_engine_is_written_with_its_reason(images: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = resolved("swav", images, settings=["run.device=cpu"])
    engine, reason = choose_engine("auto", torch.device("cpu"))
    assert (run.config.views.engine, run.reasons["views.engine"]) == (engine, reason) != ("auto", "set by you")
    monkeypatch.setattr(resolving, "choose_device", lambda name: torch.device("cuda"))
    run = resolved("swav", images)
    assert (run.config.views.engine, run.reasons["views.engine"]) == choose_engine("auto", torch.device("cuda"))
    assert run.config.views.engine == "gpu"
    run = resolved("swav", images, settings=["views.engine=cpu"])
    assert (run.config.views.engine, run.reasons["views.engine"]) == ("cpu", "set by you")


def test_a_config_file_stands_for_method_data_and_settings(images: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    config = resolved("swav", images, epochs=7, settings=["groups.counts=[10]"]).config
    file.write_text(to_toml(config))
    assert resolved(None, config=file).config == config
    assert resolved(None, config=file).reasons == {}
    assert resolved(None, config=file, epochs=3).config.epochs == 3
    with pytest.raises(BadConfig, match="'smog' is not the method of the config file: with --config, leave it out"):
        resolved("smog", config=file)


def test_mean_and_std_that_a_file_leaves_out_are_measured(images: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    config = resolved("swav", images).config
    content = to_dict(config)
    assert content["views"].pop("mean")
    assert content["views"].pop("std")
    file.write_text(tomli_w.dumps(content))
    assert resolved(None, config=file).config.views.mean == pytest.approx(config.views.mean)


def test_a_number_of_images_sets_the_epochs(images: str) -> None:
    assert resolved("swav", images, images=3 * IMAGES + 1).config.epochs == 4
    assert resolved("swav", images, images=3 * IMAGES, epochs=9).config.epochs == 9


def test_reasons_of_an_overridden_part_are_dropped(images: str) -> None:
    memory = ["memory.length=160", "memory.start_epoch=0", "refresh.every_epochs=1", "assignment.kind=nearest"]
    run = resolved("swav", images, settings=["groups.kind=kmeans", *memory])
    assert "groups.frozen_steps" not in run.reasons
    assert "groups.counts" in run.reasons  # the number stays
    run = resolved("swav", images, settings=["views.crops.0.size=20"])
    assert "views.crops" not in run.reasons


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("swaw", {}, "unknown method 'swaw'; did you mean swav"),
        (None, {}, "name a method before the images"),
        ("swav", {"batch_size": 1}, "batch_size is 1"),
        ("swav", {"settings": ["data=['x']"]}, "write METHOD DATA on the command line"),
        ("swav", {"settings": ["custom=['x']"]}, "write METHOD DATA on the command line"),
        ("swav", {"config": "/nowhere.toml"}, "there is no settings file /nowhere.toml"),
    ],
)
def test_what_is_refused(images: str, method: str | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        resolved(method, images, **options)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_images_must_be_named_and_their_name_must_fit_into_a_file() -> None:
    with pytest.raises(UserError, match="name the images"):
        resolved("swav")
    with pytest.raises(UserError, match="is not UTF-8"):
        resolved("swav", "folder/\udcff")
