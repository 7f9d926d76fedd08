import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.source import Subset
from coterie.data.sources.source import labels as labels_of
from coterie.errors import NoImages, UserError
from coterie.evaluation.labeled_data import Labeled, labeled_pair
from coterie.evaluation.probes.supervised import (
    LINEAR,
    Recipe,
    fitted_aloud,
    linear_published_images,
    plain_crops,
    train_classifier,
)
from coterie.models.backbone import BackboneConfig, build_backbone

EYE = Preprocessing(16, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
CLASSES = ("circle", "cross", "square")
SHORT = Recipe(0.02, 0.1, epochs=8, batch_size=8)


def shape(number: int, kind: str) -> Image.Image:
    """A shape in one of its class's two colors, on gray noise."""
    draw = np.random.Generator(np.random.Philox(key=[number, CLASSES.index(kind)]))
    picture = Image.fromarray(draw.integers(60, 120, (16, 16, 3), dtype=np.uint8))
    left, top = draw.integers(1, 5, 2).tolist()
    box = (left, top, left + 9, top + 9)
    color = tuple((draw.integers(150, 255, 3) * np.eye(3)[CLASSES.index(kind)]).astype(int).tolist())
    pen = ImageDraw.Draw(picture)
    if kind == "circle":
        pen.ellipse(box, fill=color)
    elif kind == "square":
        pen.rectangle(box, fill=color)
    else:
        pen.line(box, fill=color, width=3)
    return picture


def write(root: Path, count: int, start: int = 0) -> str:
    for kind in CLASSES:
        (root / kind).mkdir(parents=True)
        for number in range(start, start + count):
            shape(number, kind).save(root / kind / f"{number:03}.png")
    return str(root)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Labeled:
    root = tmp_path_factory.mktemp("shapes")
    return labeled_pair((write(root / "train", 12),), (write(root / "test", 10, start=100),))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone(BackboneConfig("resnet18", width=0.125, stem="small"), 16)


def state(of: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in of.state_dict().items()}


def digest(of: nn.Module) -> str:
    parts = (name.encode() + value.numpy().tobytes() for name, value in of.state_dict().items())
    return hashlib.sha256(b"".join(parts)).hexdigest()


class Heard:
    """Somebody who writes down what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.tracked: list[tuple[int, str]] = []

    def info(self, text):
        self.said.append(text)

    def warning(self, text):
        self.warned.append(text)

    def log_metrics(self, record, total_steps):
        raise AssertionError("no run is on")

    def progress(self, items, total, what):
        self.tracked.append((total, what))
        return iter(items)


class Color(nn.Module):
    """Which of red and blue there is more of: two features that leave nothing to learn."""

    def forward(self, images: Tensor) -> Tensor:
        means = images.mean(dim=(2, 3))
        return torch.stack([means[:, 0] > means[:, 2], means[:, 0] <= means[:, 2]], dim=1).float()


@pytest.fixture
def rates():
    """The learning rates of every step that an optimizer takes, as it takes it."""
    seen: list[tuple[float, ...]] = []
    hook = register_optimizer_step_pre_hook(
        lambda optimizer, *_: seen.append(tuple(group["lr"] for group in optimizer.param_groups))
    )
    yield seen
    hook.remove()


# -- it learns ---------------------------------------------------------------------------------------------------------


def test_it_learns_all_of_the_network(shapes: Labeled) -> None:
    net = network()
    before = state(net)
    figures = train_classifier(net, shapes, EYE, SHORT)
    assert figures["top1"] > 90
    assert figures["top1"] == pytest.approx(figures["mean_per_class"])  # the classes are equally large
    assert figures["top5"] == 100  # of three classes
    assert not net.training
    assert all((value != before[name]).any() for name, value in net.state_dict().items())


def test_a_frozen_backbone_does_not_change_by_a_bit(shapes: Labeled) -> None:
    net = network().train()
    for parameter in net.parameters():
        parameter.grad = None
    before = digest(net)
    figures = linear_published_images(net, shapes, EYE, recipe=replace(LINEAR, epochs=8, batch_size=8, head_rate=2.0))
    assert figures["top1"] > 60  # a third by chance; the features are those of random weights
    assert digest(net) == before
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_low_precision_learns_too(shapes: Labeled) -> None:
    assert train_classifier(network(), shapes, EYE, SHORT, autocast=torch.bfloat16)["top1"] > 80


# -- rates -------------------------------------------------------------------------------------------------------------

ONE_STEP = Recipe(0.01, 0.1, epochs=1, batch_size=30)


def some(pair: Labeled, count: int) -> Labeled:
    """So many of the training images, spread over the classes."""
    places = np.linspace(0, len(pair.train) - 1, count).astype(int)
    return Labeled(Subset(pair.train, places, labels_of(pair.train)[places], CLASSES), pair.test)


def after(shapes: Labeled, recipe: Recipe) -> Tensor:
    """How far a step with 30 images moved the weights of the backbone, in float64 as one vector."""
    net, shapes = network(), some(shapes, 30)
    before = nn.utils.parameters_to_vector(net.parameters()).double()
    train_classifier(net, shapes, EYE, recipe)
    return nn.utils.parameters_to_vector(net.parameters()).detach().double() - before


def test_the_two_rates_are_two(shapes: Labeled) -> None:
    moved = after(shapes, ONE_STEP)
    assert moved.norm() > 0
    twice = after(shapes, replace(ONE_STEP, backbone_rate=0.02))
    torch.testing.assert_close(twice, 2 * moved, rtol=1e-3, atol=1e-6)
    assert torch.equal(
        after(shapes, replace(ONE_STEP, head_rate=0.4)), moved
    )  # the first step's gradient knows no rate
    second = (after(shapes, replace(ONE_STEP, epochs=2, head_rate=rate)) for rate in (0.1, 0.4))
    assert not torch.equal(*second)


def test_the_published_drops_are_taken(shapes: Labeled, rates: list) -> None:
    heard = Heard()
    train_classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
        shapes,
        EYE,
        Recipe(0.02, 5.0, 20, batch_size=16),
        logger=heard,
    )
    assert len(rates) == 20 * 2  # two batches of 16 of 36 images
    assert heard.tracked[0] == (40, "training a classifier")
    assert [line.partition(", loss")[0] for line in heard.said] == [
        f"training a classifier: epoch {epoch} of 20" for epoch in range(2, 21, 2)
    ]
    head, backbone = (np.array(column).reshape(20, 2) for column in zip(*rates, strict=True))
    expected = np.repeat([5.0, 1.0, 0.2], [12, 4, 4])  # SwAV, appendix A.4: times 0.2 at epochs 12 and 16 of 20
    np.testing.assert_allclose(head, expected[:, None].repeat(2, axis=1))
    np.testing.assert_allclose(backbone, expected[:, None].repeat(2, axis=1) * 0.02 / 5)


def test_a_frozen_backbone_has_no_rate(shapes: Labeled, rates: list) -> None:
    train_classifier(Color(), shapes, EYE, replace(LINEAR, epochs=4, batch_size=16))
    cosine = [0.3 * 0.5 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(4)]
    np.testing.assert_allclose(rates, np.repeat(cosine, 2)[:, None])


def test_the_published_linear_recipe() -> None:
    assert (LINEAR.backbone_rate, LINEAR.head_rate, LINEAR.weight_decay) == (0, 0.3, 1e-6)
    assert (LINEAR.epochs, LINEAR.batch_size, LINEAR.decay) == (100, 256, "cosine")
    assert LINEAR.factor(0) == 1
    assert LINEAR.factor(50) == pytest.approx(0.5)
    assert LINEAR.factor(99) == pytest.approx(2.4672e-4, rel=1e-3)


@pytest.mark.parametrize("epochs", [5, 10, 30, 100])
def test_drops_come_at_the_same_share_of_any_number_of_epochs(epochs: int) -> None:
    factors = [replace(SHORT, epochs=epochs).factor(epoch) for epoch in range(epochs)]
    expected = np.repeat([1, 0.2, 0.04], [epochs * 3 // 5, epochs // 5, epochs // 5])
    np.testing.assert_allclose(factors, expected)


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [
        (1_281_167, 256, 20),
        (12_811, 256, 20),
        (4096, 256, 20),
        (4095, 255, 20),
        (500, 31, 20),
        (256, 16, 20),
        (100, 16, 54),
        (32, 16, 160),
        (31, 31, 320),
        (2, 2, 320),
    ],
)
def test_a_recipe_is_fitted_to_few_images(images: int, batch: int, epochs: int) -> None:
    recipe = Recipe(0.02, 5.0, epochs=20).fitted(images)
    assert (recipe.batch_size, recipe.epochs) == (batch, epochs)
    assert recipe.head_rate == pytest.approx(5 * batch / 256)
    assert recipe.backbone_rate == pytest.approx(0.02 * batch / 256)
    assert recipe.epochs * (images // batch) >= 320
    assert replace(recipe, epochs=3).fitted(images) == replace(recipe, epochs=3)  # what fits already stays as it is


def test_it_is_told_when_images_are_few() -> None:
    heard = Heard()
    fitted = fitted_aloud(replace(LINEAR, epochs=2), 100, heard, "probe")
    assert fitted == replace(LINEAR, epochs=2).fitted(100) != LINEAR
    assert fitted_aloud(fitted, 100, heard, "again") == fitted
    assert heard.said == [
        "probe: few images for batches of 256 and 2 epochs: batches of 16, rates times 16/256, 54 epochs"
    ]


# -- the same every time -----------------------------------------------------------------------------------------------


def test_repeating_gives_the_same_to_the_bit(shapes: Labeled) -> None:
    recipe, results = replace(SHORT, epochs=2), []
    for seed, workers in ((3, 0), (3, 0), (3, 1), (4, 0)):
        net = network()
        torch.manual_seed(len(results))  # whatever the global generator says
        figures = train_classifier(net, shapes, EYE, recipe, seed=seed, workers=workers)
        results.append((digest(net), figures))
    assert results[0] == results[1] == results[2]
    assert results[3][0] != results[0][0]


def test_the_generator_of_others_is_left_alone(shapes: Labeled) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    train_classifier(net, shapes, EYE, replace(SHORT, epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_small_images_are_cut_less_deeply() -> None:
    assert plain_crops(224).scale == (0.08, 1)
    assert plain_crops(32).scale == plain_crops(96).scale == (0.2, 1)
    change = plain_crops(32).augmentation
    assert (change.flip, change.jitter, change.grayscale, change.blur, change.solarize) == (0.5, 0, 0, 0, 0)


# -- figures and bad input ---------------------------------------------------------------------------------------------


def plain(root: Path, **colors: list[str]) -> str:
    for name, wanted in colors.items():
        (root / name).mkdir(parents=True)
        for number, color in enumerate(wanted):
            Image.new("RGB", (16, 16), color).save(root / name / f"{number}.png")
    return str(root)


def test_the_figures_are_right(tmp_path: Path) -> None:
    train = plain(tmp_path / "train", a=["red"] * 8, b=["blue"] * 8)
    test = plain(tmp_path / "test", a=["red"] * 3 + ["blue"], b=["blue"] * 2)
    figures = train_classifier(Color(), labeled_pair((train,), (test,)), EYE, Recipe(0, 1.0, epochs=5, batch_size=8))
    assert figures == {"top1": pytest.approx(100 * 5 / 6), "top5": 100, "mean_per_class": pytest.approx(87.5)}


def with_broken(tmp_path: Path) -> Labeled:
    root = Path(write(tmp_path / "train", 6))
    (root / "circle" / "002.png").write_bytes(b"\x89PNG no more")
    test = Path(write(tmp_path / "test", 4))
    (test / "cross" / "001.png").write_bytes(b"")
    return labeled_pair((str(root),), (str(test),))


def test_the_label_of_a_broken_image_teaches_nothing(tmp_path: Path) -> None:
    pair, heard, found = with_broken(tmp_path), Heard(), []
    for label in (0, 1):
        numbers = labels_of(pair.train).copy()
        numbers[2] = label
        train = Subset(pair.train, np.arange(len(numbers)), numbers, pair.train.classes)
        net = network()
        figures = train_classifier(
            net, Labeled(train, pair.test), EYE, Recipe(0.05, 0.5, 2, batch_size=9), logger=heard
        )
        found.append((digest(net), figures))
    assert found[0] == found[1]
    assert heard.warned[:2] == [
        "training a classifier: 1 training images could not be decoded and are left out",
        "1 test images could not be decoded and are left out",
    ]


def test_no_test_image_can_be_decoded(tmp_path: Path) -> None:
    pair = with_broken(tmp_path)
    broken = Subset(pair.test, np.array([5]), np.array([1]), pair.test.classes)
    with pytest.raises(NoImages, match="not one of the 1 test images"):
        train_classifier(network(), Labeled(pair.train, broken), EYE, replace(SHORT, epochs=1))


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ([0, 0, 0], [0], "one class only"),
        ([0, 1, -1], [0], "1 of 3 images of TRAIN have no label"),
        ([0, 1, 1], [-1], "1 of 1 images of TEST have no label"),
        ([0, 1, 1], [2], "1 images of TEST belong to classes that TRAIN has no image of"),
        ([], [0], "TRAIN has no images"),
    ],
)
def test_labels_that_cannot_be_learned_from(shapes: Labeled, train: list, test: list, said: str) -> None:
    sources = (
        Subset(shapes.train, np.arange(len(numbers)), np.array(numbers, dtype=np.int64), CLASSES)
        for numbers in (train, test)
    )
    with pytest.raises(UserError, match=said):
        train_classifier(network(), Labeled(*sources), EYE, SHORT)


def test_a_rate_that_is_too_high_is_named(shapes: Labeled) -> None:
    with pytest.raises(UserError, match=r"not finite in epoch 1 of 8: the learning rate 0.1 .* 1e\+30 of the backbone"):
        train_classifier(network(), shapes, EYE, replace(SHORT, backbone_rate=1e30))


def test_a_last_step_that_breaks_the_weights_gives_no_figure(shapes: Labeled) -> None:
    with pytest.raises(UserError, match="not finite after the last epoch"):
        train_classifier(Color(), some(shapes, 20), EYE, Recipe(0, float("inf"), epochs=1, batch_size=20))


class Hungry(nn.Module):
    """A network that wants more memory than there is."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.empty(len(images), 8 if len(images) == 1 else 2**50)


def test_too_little_memory(shapes: Labeled) -> None:
    with pytest.raises(UserError, match="not enough memory to train with batches of 8 images of 16 pixels"):
        train_classifier(Hungry(), shapes, EYE, SHORT)
