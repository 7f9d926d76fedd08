"""A module of the user's own as backbone: trained from its weights, saved, resumed and loaded by giving it again."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import coterie
from coterie.cli.demo import write_patches
from coterie.config.toml import from_dict, read_toml
from coterie.data.sources.builtin_photos import photo_patches
from coterie.errors import BadConfig, UserError
from coterie.training.callback_runner import CallbackError
from coterie.training.loaded_run import load_run
from coterie.types import Progress, StepResult
from tests.faults.running import assert_same_runs

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=2 groups.counts=[8] memory=none "
    "run.threads=1 run.workers=0 run.log_steps=2 run.save_minutes=1000 run.snapshots=2 run.device=cpu"
).split()


class Tiny(nn.Module):
    """Features of 12 numbers, or maps of them; nothing says how many."""

    def __init__(self, channels: int = 3, width: int = 12, maps: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.maps = maps

    def forward(self, images: Tensor) -> Tensor:
        found = torch.relu(self.norm(self.stem(images)))
        return found if self.maps else found.mean(dim=(2, 3))


class Viewing(nn.Module):
    """Takes pixels apart with ``view``, which works in one memory layout only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 9, 3, padding=1), nn.BatchNorm2d(9), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.stem(images).view(len(images), 9, -1).amax(dim=2)


class Named(Tiny):
    """Has a num_features that means something else."""

    num_features = 3


class Stop(coterie.Callback):
    """Ends the process, as it were, after the fourth step, which is after a snapshot."""

    def on_step_end(self, progress: Progress, result: StepResult) -> None:
        if progress.step == 3:
            raise InterruptedError


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "patches.parquet"
    write_patches(path, photo_patches("train", 48, 16))
    return path


def train(images: Path, out: Path, backbone: Any, *settings: str, method: str = "swav", **more: Any) -> Path:
    chosen = [*SETTINGS, *settings]
    options = {"epochs": 2, "batch_size": 16, "settings": chosen} | more
    return coterie.pretrain(method, images, out=out, backbone=backbone, quiet=True, **options)


@pytest.fixture(scope="module")
def module() -> Tiny:
    torch.manual_seed(3)
    return Tiny()


@pytest.fixture(scope="module")
def run(images: Path, module: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(images, tmp_path_factory.mktemp("run") / "run", module)


def test_a_copy_is_trained_and_saved_under_its_own_names(run: Path, module: Tiny) -> None:
    torch.manual_seed(3)
    before = Tiny().state_dict()
    assert all(torch.equal(each, before[name]) for name, each in module.state_dict().items())
    saved = safetensors.torch.load_file(run / "model.safetensors")
    assert saved.keys() == before.keys()
    assert not torch.equal(saved["stem.weight"], before["stem.weight"])
    assert (saved["stem.weight"] - before["stem.weight"]).norm() < 0.5 * before["stem.weight"].norm()  # it began there
    config = from_dict(read_toml(run / "config.toml"))
    assert config.backbone.name == "python:Tiny"
    assert config.custom == (f"backbone={__name__}.Tiny",)
    assert coterie.describe_backbone(run).backbone.name == "python:Tiny"


def test_weights_are_loaded_into_a_module(run: Path) -> None:
    given = Tiny()
    loaded = coterie.load_backbone(run, into=given)
    assert loaded is given
    assert not loaded.training
    saved = safetensors.torch.load_file(run / "model.safetensors")
    assert all(torch.equal(each, saved[name]) for name, each in loaded.state_dict().items())
    with pytest.raises(UserError, match=r"holds the weights of a Tiny of your own: give a module of it"):
        coterie.load_backbone(run)
    with pytest.raises(
        UserError, match=r"not those of this Tiny: stem.weight is \[12, 3, 3, 3\] in the file and \[9, "
    ):
        coterie.load_backbone(run, into=Tiny(width=9))
    features = load_run(run, backbone=Tiny()).student.encoder.backbone(torch.zeros(2, 3, 16, 16))
    torch.testing.assert_close(features, loaded(torch.zeros(2, 3, 16, 16)))


def test_a_stopped_run_resumes_bitwise_with_the_module(images: Path, run: Path, module: Tiny, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(CallbackError):
        train(images, out, module, callbacks=[Stop()])
    for other, message in (
        (None, r"backbone=.*Tiny.*a backbone of your own as backbone=module"),
        (Named(), r"has custom parts \(backbone=.*Tiny\): pass the same"),
        (Tiny(width=9), r"not those of this Tiny: stem.weight"),
    ):
        with pytest.raises(UserError, match=message) as raised:
            coterie.pretrain(data=images, out=out, backbone=other, quiet=True)
        assert "\n" not in str(raised.value)
    coterie.pretrain(data=images, out=out, backbone=Tiny(), quiet=True)  # its weights are those of the checkpoint
    assert_same_runs(out, run)


@pytest.mark.parametrize(
    ("build", "width"),
    [
        (lambda: Tiny(maps=True), 12),
        (Named, 12),
        (lambda: Viewing(), 9),
        (lambda: nn.Sequential(nn.Conv2d(3, 7, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 7),
    ],
    ids=["maps", "another num_features", "a view", "a sequence"],
)
def test_features_of_any_module(build: Callable[[], nn.Module], width: int, images: Path, tmp_path: Path) -> None:
    out = train(images, tmp_path / "run", build(), epochs=1)
    backbone = load_run(out, backbone=build()).student.encoder.backbone
    assert backbone(torch.rand(3, 3, 8, 8)).shape == (3, width)


def test_a_network_of_timm_given_as_a_module_trains_as_by_its_name(images: Path, tmp_path: Path) -> None:
    """The same weights, and the same numbers for the heads."""
    from coterie.models.backbone import BackboneConfig, build_backbone

    torch.manual_seed(0)
    network = build_backbone(BackboneConfig("convnext_atto"), 16)
    named, own = ("views.crops.0.size=32", "views.crops.1.size=32", "views.image_size=32"), tmp_path / "own"
    train(images, own, copy.deepcopy(network), *named, epochs=1)
    weights = coterie.load_backbone(own, into=network).state_dict()
    assert all(torch.isfinite(each).all() for each in weights.values())


class Words(nn.Module):
    """What is no backbone, by what it returns."""

    def __init__(self, returned: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight, self.returned = nn.Parameter(torch.ones(1)), returned

    def forward(self, images: Tensor) -> Any:
        return self.returned(images * self.weight)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "a class": (lambda: Tiny, "backbone is the class Tiny: give the name of a network of timm, or a torch.nn.Module"),
    "a function": (lambda: torch.relu, "backbone is a builtin_function_or_method: give the name"),
    "nothing to train": (nn.Flatten, "this Flatten has no parameters to train"),
    "tokens": (
        lambda: Words(lambda x: x.flatten(2)),
        r"this Words returns \[1, 3, 256\] for one image: let it return a tensor",
    ),
    "a dictionary": (lambda: Words(lambda x: {"x": x}), "this Words returns a dict for one image"),
    "one channel": (lambda: Tiny(1), r"this Tiny cannot take images \[1, 3, 16, 16\] .*set views.channels"),
    "one size": (lambda: Words(lambda x: x.view(1, 768)), "python:Words cannot take images of 8 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_backbone_is_refused_in_one_line(name: str, images: Path, tmp_path: Path) -> None:
    build, message = BAD[name]
    with pytest.raises(BadConfig, match=message) as raised:
        train(images, tmp_path / "run", build())
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch_norm_scope=joint", "not for a Tiny: set batch_norm_scope to resolution"),
        ("backbone.width=0.5", "backbone.width is for networks of timm, not for a Tiny of your own"),
        ("backbone.trainable=last:2", "the layers of a Tiny of your own have no numbers"),
        ("run.activation_checkpointing=true", "does not support it for a Tiny"),
    ],
)
def test_settings_that_need_a_network_of_timm(setting: str, message: str, images: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=message):
        train(images, tmp_path / "run", Tiny(), setting)


def test_it_is_planned_and_profiled(images: Path) -> None:
    options = {"epochs": 1, "batch_size": 16, "settings": SETTINGS, "quiet": True}
    plan = coterie.plan("swav", images, backbone=Tiny(), **options)
    assert "python:Tiny" in str(plan)
    assert coterie.profile("swav", images, backbone=Tiny(), seconds=0.3, **options).steps


def test_it_is_evaluated_embedded_and_reported_with_the_module(run: Path, images: Path, tmp_path: Path) -> None:
    given = Tiny()
    before = copy.deepcopy(given.state_dict())
    labeled = [(each, number % 2) for number, each in enumerate(photo_patches("train", 48, 16).images)]
    found = coterie.evaluate(run, labeled, probes=("knn", "clusters"), backbone=given, quiet=True)
    assert {"knn", "clusters"} <= found.keys()
    assert coterie.evaluate(run / "model.safetensors", labeled, probes=("knn",), backbone=given, quiet=True)["knn"]
    assert coterie.embed(run, images, tmp_path / "rows.parquet", backbone=given, quiet=True) == 48
    (run / "report.html").unlink()
    assert coterie.report(run, backbone=given, quiet=True).exists()
    assert all(torch.equal(each, before[name]) for name, each in given.state_dict().items())
    with pytest.raises(UserError, match=r"--backbone is python:Named, but .* is a python:Tiny"):
        coterie.evaluate(run, labeled, backbone=Named(), quiet=True)


def test_what_else_needs_the_module_says_so(run: Path, images: Path, tmp_path: Path) -> None:
    for call in (
        lambda: coterie.report(run),
        lambda: coterie.embed(run, images, tmp_path / "rows.parquet"),
        lambda: coterie.evaluate(run, images),
        lambda: coterie.pretrain(config=run / "config.toml", out=tmp_path / "other"),
    ):
        with pytest.raises(UserError, match=r"backbone=module|into=module") as raised:
            call()
        assert "\n" not in str(raised.value)
