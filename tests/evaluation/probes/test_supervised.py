import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from coterie.config.hardware import Runtime
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.sources.open import open_source
from coterie.data.sources.source import Subset
from coterie.data.sources.source import labels as labels_of
from coterie.errors import NoImages, UserError
from coterie.evaluation.labeled_data import LabeledPair, labeled_pair
from coterie.evaluation.probes.recipe import LINEAR_RECIPE, Recipe
from coterie.evaluation.probes.supervised import linear_published_images, plain_crops, train_classifier
from coterie.models.backbone import BackboneConfig, build_backbone

PREPROCESSING = Preprocessing(16, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
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
def shapes(tmp_path_factory: pytest.TempPathFactory) -> LabeledPair:
    root = tmp_path_factory.mktemp("shapes")
    return labeled_pair(open_source(write(root / "train", 12)), open_source(write(root / "test", 10, start=100)))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone(BackboneConfig("resnet18", width=0.125, stem="small"), 16)


def state(of: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in of.state_dict().items()}


def digest(of: nn.Module) -> str:
    parts = (name.encode() + value.numpy().tobytes() for name, value in of.state_dict().items())
    return hashlib.sha256(b"".join(parts)).hexdigest()


class Recorder:
    """A logger that records everything."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.warnings: list[str] = []
        self.tasks: list[tuple[int, str]] = []

    def info(self, text):
        self.messages.append(text)

    def warning(self, text):
        self.warnings.append(text)

    def log_metrics(self, record, total_steps):
        raise AssertionError("there is no run")

    def progress(self, items, total, what):
        self.tasks.append((total, what))
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


# -- learning ----------------------------------------------------------------------------------------------------------


def test_the_whole_network_learns(shapes: LabeledPair) -> None:
    net = network()
    before = state(net)
    figures = train_classifier(net, shapes, PREPROCESSING, SHORT)
    assert figures["top1"] > 90
    assert figures["top1"] == pytest.approx(figures["mean_per_class"])  # the classes are equally large
    assert figures["top5"] == 100  # of three classes
    assert not net.training
    assert all((value != before[name]).any() for name, value in net.state_dict().items())


def test_a_frozen_backbone_does_not_change_by_a_bit(shapes: LabeledPair) -> None:
    net = network().train()
    for parameter in net.parameters():
        parameter.grad = None
    before = digest(net)
    figures = linear_published_images(
        net, shapes, PREPROCESSING, recipe=replace(LINEAR_RECIPE, epochs=8, batch_size=8, head_lr=2.0)
    )
    assert figures["top1"] > 50  # a third by chance; the features are those of random weights
    assert digest(net) == before
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_low_precision_learns_too(shapes: LabeledPair) -> None:
    assert (
        train_classifier(network(), shapes, PREPROCESSING, SHORT, runtime=Runtime(autocast=torch.bfloat16))["top1"] > 80
    )


# -- learning rates ----------------------------------------------------------------------------------------------------

ONE_STEP = Recipe(0.01, 0.1, epochs=1, batch_size=30)


def some(pair: LabeledPair, count: int) -> LabeledPair:
    """So many of the training images, spread over the classes."""
    places = np.linspace(0, len(pair.train) - 1, count).astype(int)
    return LabeledPair(Subset(pair.train, places, labels_of(pair.train)[places], CLASSES), pair.test)


def after(shapes: LabeledPair, recipe: Recipe) -> Tensor:
    """How far a step with 30 images moved the weights of the backbone, in float64 as one vector."""
    net, shapes = network(), some(shapes, 30)
    before = nn.utils.parameters_to_vector(net.parameters()).double()
    train_classifier(net, shapes, PREPROCESSING, recipe)
    return nn.utils.parameters_to_vector(net.parameters()).detach().double() - before


def test_backbone_and_classifier_have_their_own_learning_rates(shapes: LabeledPair) -> None:
    moved = after(shapes, ONE_STEP)
    assert moved.norm() > 0
    twice = after(shapes, replace(ONE_STEP, backbone_lr=0.02))
    torch.testing.assert_close(twice, 2 * moved, rtol=1e-3, atol=1e-6)
    assert torch.equal(
        after(shapes, replace(ONE_STEP, head_lr=0.4)), moved
    )  # the gradient of the first step does not depend on it
    second = (after(shapes, replace(ONE_STEP, epochs=2, head_lr=rate)) for rate in (0.1, 0.4))
    assert not torch.equal(*second)


def test_learning_rates_drop_as_published(shapes: LabeledPair, rates: list) -> None:
    logger = Recorder()
    train_classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
        shapes,
        PREPROCESSING,
        Recipe(0.02, 5.0, 20, batch_size=16),
        runtime=Runtime(logger=logger),
    )
    assert len(rates) == 20 * 2  # two batches of 16 of 36 images
    assert logger.tasks[0] == (40, "training a classifier")
    assert [line.partition(", loss")[0] for line in logger.messages] == [
        f"training a classifier: epoch {epoch} of 20" for epoch in range(2, 21, 2)
    ]
    head, backbone = (np.array(column).reshape(20, 2) for column in zip(*rates, strict=True))
    expected = np.repeat([5.0, 1.0, 0.2], [12, 4, 4])  # SwAV, appendix A.4: times 0.2 at epochs 12 and 16 of 20
    np.testing.assert_allclose(head, expected[:, None].repeat(2, axis=1))
    np.testing.assert_allclose(backbone, expected[:, None].repeat(2, axis=1) * 0.02 / 5)


def test_a_frozen_backbone_has_no_learning_rate(shapes: LabeledPair, rates: list) -> None:
    train_classifier(Color(), shapes, PREPROCESSING, replace(LINEAR_RECIPE, epochs=4, batch_size=16))
    cosine = [0.3 * 0.5 * (1 + np.cos(np.pi * epoch / 4)) for epoch in range(4)]
    np.testing.assert_allclose(rates, np.repeat(cosine, 2)[:, None])


# -- reproducibility ---------------------------------------------------------------------------------------------------


def test_repeating_gives_the_same_to_the_bit(shapes: LabeledPair) -> None:
    recipe, results = replace(SHORT, epochs=2), []
    for seed, workers in ((3, 0), (3, 0), (3, 1), (4, 0)):
        net = network()
        torch.manual_seed(len(results))  # whatever the global generator says
        figures = train_classifier(net, shapes, PREPROCESSING, recipe, seed=seed, runtime=Runtime(workers=workers))
        results.append((digest(net), figures))
    assert results[0] == results[1] == results[2]
    assert results[3][0] != results[0][0]


def test_the_global_generator_is_left_unchanged(shapes: LabeledPair) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    train_classifier(net, shapes, PREPROCESSING, replace(SHORT, epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_crops_of_small_images_are_larger() -> None:
    assert plain_crops(224).scale == (0.08, 1)
    assert plain_crops(32).scale == plain_crops(96).scale == (0.2, 1)
    change = plain_crops(32).augmentation
    assert (change.flip, change.jitter, change.grayscale, change.blur, change.solarize) == (0.5, 0, 0, 0, 0)


# -- accuracies and bad input ------------------------------------------------------------------------------------------


def plain(root: Path, **colors: list[str]) -> str:
    for name, wanted in colors.items():
        (root / name).mkdir(parents=True)
        for number, color in enumerate(wanted):
            Image.new("RGB", (16, 16), color).save(root / name / f"{number}.png")
    return str(root)


def test_the_accuracies_are_right(tmp_path: Path) -> None:
    train = plain(tmp_path / "train", a=["red"] * 8, b=["blue"] * 8)
    test = plain(tmp_path / "test", a=["red"] * 3 + ["blue"], b=["blue"] * 2)
    figures = train_classifier(
        Color(),
        labeled_pair(open_source(train), open_source(test)),
        PREPROCESSING,
        Recipe(0, 1.0, epochs=5, batch_size=8),
    )
    assert figures == {"top1": pytest.approx(100 * 5 / 6), "top5": 100, "mean_per_class": pytest.approx(87.5)}


def with_broken(tmp_path: Path) -> LabeledPair:
    root = Path(write(tmp_path / "train", 6))
    (root / "circle" / "002.png").write_bytes(b"\x89PNG no more")
    test = Path(write(tmp_path / "test", 4))
    (test / "cross" / "001.png").write_bytes(b"")
    return labeled_pair(open_source(root), open_source(test))


def test_the_label_of_a_broken_image_is_not_trained_on(tmp_path: Path) -> None:
    pair, logger, found = with_broken(tmp_path), Recorder(), []
    for label in (0, 1):
        numbers = labels_of(pair.train).copy()
        numbers[2] = label
        train = Subset(pair.train, np.arange(len(numbers)), numbers, pair.train.classes)
        net = network()
        figures = train_classifier(
            net,
            LabeledPair(train, pair.test),
            PREPROCESSING,
            Recipe(0.05, 0.5, 2, batch_size=9),
            runtime=Runtime(logger=logger),
        )
        found.append((digest(net), figures))
    assert found[0] == found[1]
    assert logger.warnings[:2] == [
        "training a classifier: 1 training images could not be decoded and are left out",
        "1 test images could not be decoded and are left out",
    ]


def test_no_decodable_test_image_is_an_error(tmp_path: Path) -> None:
    pair = with_broken(tmp_path)
    broken = Subset(pair.test, np.array([5]), np.array([1]), pair.test.classes)
    with pytest.raises(NoImages, match="none of the 1 test images"):
        train_classifier(network(), LabeledPair(pair.train, broken), PREPROCESSING, replace(SHORT, epochs=1))


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
def test_labels_that_cannot_be_trained_on_are_refused(shapes: LabeledPair, train: list, test: list, said: str) -> None:
    sources = (
        Subset(shapes.train, np.arange(len(numbers)), np.array(numbers, dtype=np.int64), CLASSES)
        for numbers in (train, test)
    )
    with pytest.raises(UserError, match=said):
        train_classifier(network(), LabeledPair(*sources), PREPROCESSING, SHORT)


def test_a_learning_rate_that_is_too_high_is_named(shapes: LabeledPair) -> None:
    with pytest.raises(UserError, match=r"not finite in epoch 1 of 8: the learning rate 0.1 .* 1e\+30 of the backbone"):
        train_classifier(network(), shapes, PREPROCESSING, replace(SHORT, backbone_lr=1e30))


def test_a_last_step_that_breaks_the_weights_is_an_error(shapes: LabeledPair) -> None:
    with pytest.raises(UserError, match="not finite after the last epoch"):
        train_classifier(Color(), some(shapes, 20), PREPROCESSING, Recipe(0, float("inf"), epochs=1, batch_size=20))


class Hungry(nn.Module):
    """A network that wants more memory than there is."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.empty(len(images), 8 if len(images) == 1 else 2**50)


def test_too_little_memory_is_explained(shapes: LabeledPair) -> None:
    with pytest.raises(UserError, match="not enough memory to train with batches of 8 images of 16 pixels"):
        train_classifier(Hungry(), shapes, PREPROCESSING, SHORT)
