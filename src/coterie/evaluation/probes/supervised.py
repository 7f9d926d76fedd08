"""Training with labels: a backbone and a linear classifier, for fine-tuning, from scratch, or with the backbone frozen.

One trainer serves three questions: what few labels make of a pretrained backbone (:func:`finetune`), what the same labels make
of new weights (the baseline beside it), and how well a linear classifier separates frozen features of augmented images
(:func:`linear_published_images`). The recipes are those of SwAV (Caron et al. 2020, arXiv 2006.09882, appendices A.3, A.4).
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from coterie.data.augmentation.crops import Augmentation, Crops
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.loading.loader import Loader
from coterie.data.sources.source import ImageSource
from coterie.data.sources.source import labels as labels_of
from coterie.embedding.embed import embedded_batches
from coterie.errors import NoImages, UserError
from coterie.evaluation.labeled_data import Labeled
from coterie.evaluation.probes.checks import accuracies, check_classes
from coterie.logger import Logger, NullLogger
from coterie.types import Batch

SMALL_IMAGE = 96
"""Up to so many pixels, a crop covers at least a fifth of the image; above, at least 0.08 of it as in SwAV's A.3."""
LEAST_STEPS, LEAST_BATCH, LEAST_STEPS_IN_ALL = 16, 16, 320
"""What a recipe is fitted to where images are few: batches an epoch, as long as each has so many images; steps in all."""
_IGNORED = -100  # what cross_entropy leaves out


@dataclass(frozen=True)
class Recipe:
    """How a classifier is trained: SGD with momentum 0.9, one learning rate for the backbone and one for the classifier.

    Attributes:
        backbone_rate: learning rate of the backbone; 0: it is frozen, in evaluation mode.
        head_rate: learning rate of the linear classifier.
        epochs: passes over the images.
        batch_size: images a step, for which the rates are meant.
        weight_decay: of all weights that are trained.
        decay: "drops": both rates times 0.2 after 12/20 and 16/20 of the epochs; "cosine": down to 0, a step an epoch.
    """

    backbone_rate: float
    head_rate: float
    epochs: int
    batch_size: int = 256
    weight_decay: float = 0.0
    decay: Literal["drops", "cosine"] = "drops"

    def factor(self, epoch: int) -> float:
        """What both rates are multiplied with in this epoch, from 0."""
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))
        return 0.2 ** sum(20 * epoch >= drop * self.epochs for drop in (12, 16))

    def for_batches_of(self, size: int) -> "Recipe":
        """The same for batches of another size: both rates in proportion (Goyal et al. 2017, arXiv 1706.02677)."""
        share = size / self.batch_size
        rates = self.backbone_rate * share, self.head_rate * share
        return replace(self, backbone_rate=rates[0], head_rate=rates[1], batch_size=size)

    def fitted(self, images: int) -> "Recipe":
        """The same where images are few: smaller batches, so that an epoch has 16 steps, or as many as batches of 16 allow.

        Rates follow the batch. Where that leaves fewer than 320 steps (20 epochs of 16), there are more epochs: 20 steps
        teach nothing. A recipe whose batches are small enough stays as it is.
        """
        size = images // max(1, min(LEAST_STEPS, images // LEAST_BATCH))
        if size >= self.batch_size:
            return self
        epochs = math.ceil(LEAST_STEPS_IN_ALL / (images // size))
        return replace(self.for_batches_of(size), epochs=max(self.epochs, epochs))


LINEAR = Recipe(0.0, 0.3, epochs=100, weight_decay=1e-6, decay="cosine")
"""A linear classifier on frozen features: SwAV, appendix A.3."""


def linear_published_images(
    network: nn.Module,
    pair: Labeled,
    preprocessing: Preprocessing,
    *,
    recipe: Recipe = LINEAR,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    logger: Logger | None = None,
) -> dict[str, float]:
    """A linear classifier on the frozen features of randomly cropped and mirrored images, as SwAV's appendix A.3.

    Every epoch cuts the images anew and puts them through the backbone: 100 times the work of embedding them once.

    Returns:
        ``top1``, ``top5`` and ``mean_per_class`` in percent after the last epoch (the paper gives the best).

    Raises:
        UserError: see :func:`train_classifier`.
    """
    what = "linear classifier on augmented images"
    return train_classifier(
        network,
        pair,
        preprocessing,
        recipe,
        seed=seed,
        workers=workers,
        device=device,
        autocast=autocast,
        logger=logger,
        what=what,
    )


def train_classifier(
    network: nn.Module,
    pair: Labeled,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    crops: Crops | None = None,
    seed: int = 0,
    workers: int = 0,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    logger: Logger | None = None,
    what: str = "training a classifier",
) -> dict[str, float]:
    """Train a linear classifier on a backbone, and the backbone with it, in place; then ask it the test images.

    The classifier starts from weights of N(0, 0.01) and a bias of 0. Training images are cut by the same views as in
    pretraining, one crop an image; test images are cut from their middle. Where there are few images the recipe is
    :meth:`Recipe.fitted` to them, and the logger is told. On a CPU the result is a function of the seed. The backbone
    is left on ``device`` and in evaluation mode; frozen, not a bit of it changes.

    Args:
        network: images ``[b c h w]`` to features ``[b f]``.
        pair: images to learn from and to be asked.
        preprocessing: how images are brought to the network.
        recipe: rates, epochs, batches.
        crops: of the training images; None: :func:`plain_crops`.
        seed: of the classifier's weights, the order of the images, the crops, and dropout if the network has any.
        workers: processes that load images.
        device: where it is trained.
        autocast: precision of the forward pass where it may be low; None: as the weights are.
        logger: is told of progress and loss.
        what: this is, for the logger.

    Returns:
        ``top1``, ``top5`` and ``mean_per_class`` in percent, of the last epoch; top5 looks at the best min(5, classes).

    Raises:
        UserError: missing labels, one class only, classes that only the test images have, a loss that is not finite, or too
            little memory.
    """
    truth, asked = (torch.tensor(labels_of(source)) for source in (pair.train, pair.test))
    check_classes(truth, asked)
    logger, device = logger or NullLogger(), torch.device(device)
    fitted = fitted_aloud(recipe, len(truth), logger, what)
    plan = ViewPlan(
        (crops or plain_crops(preprocessing.size),), preprocessing.channels, preprocessing.mean, preprocessing.std
    )
    loader = Loader(
        pair.train, plan, batch_size=fitted.batch_size, epochs=fitted.epochs, seed=seed, workers=workers, device=device
    )
    with seeded(seed, device), _enough_memory(fitted, preprocessing):
        head = _new_head(network.to(device).eval(), preprocessing, int(truth.max()) + 1, device)
        _train(network, head, loader, truth.to(device), fitted, autocast, logger, what)
        figures = _score(
            network,
            head,
            pair.test,
            asked,
            preprocessing,
            workers=workers,
            device=device,
            autocast=autocast,
            logger=logger,
        )
    if figures is None:
        raise _diverged(fitted, "after the last epoch")
    return figures


def fitted_aloud(recipe: Recipe, images: int, logger: Logger, what: str) -> Recipe:
    """:meth:`Recipe.fitted`; the logger is told where that changes anything."""
    fitted = recipe.fitted(images)
    if fitted != recipe:
        logger.info(
            f"{what}: few images for batches of {recipe.batch_size} and {recipe.epochs} epochs: batches of "
            f"{fitted.batch_size}, rates times {fitted.batch_size}/{recipe.batch_size}, {fitted.epochs} epochs"
        )
    return fitted


def plain_crops(size: int) -> Crops:
    """One random crop, and its mirror image half the time; no color (SwAV's A.3; small images are cut less deeply)."""
    scale = (0.2 if size <= SMALL_IMAGE else 0.08, 1.0)
    return Crops(1, size, scale, augmentation=Augmentation(jitter=0.0, grayscale=0.0, blur=0.0))


def _new_head(network: nn.Module, preprocessing: Preprocessing, classes: int, device: torch.device) -> nn.Linear:
    with torch.no_grad():
        width = network(
            torch.zeros(1, preprocessing.channels, preprocessing.size, preprocessing.size, device=device)
        ).shape[1]
    head = nn.Linear(width, classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head.to(device)


def _train(
    network: nn.Module,
    head: nn.Linear,
    loader: Loader,
    truth: Int[Tensor, " n"],
    recipe: Recipe,
    autocast: torch.dtype | None,
    logger: Logger,
    what: str,
) -> None:
    network.train(recipe.backbone_rate > 0)
    optimizer = _optimizer(network, head, recipe)
    told = max(1, recipe.epochs // 10)
    bad: set[int] = set()
    total = truth.new_zeros((), dtype=torch.float32)
    for progress, batch in logger.progress(loader.batches(), loader.total_steps, what):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * recipe.factor(progress.epoch)
        bad.update(place for place, _ in batch.bad)
        loss = _loss(network, head, batch, truth, recipe, autocast)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.detach()
        if progress.step_in_epoch == loader.steps_per_epoch - 1:
            mean = float(total) / loader.steps_per_epoch
            if not math.isfinite(mean):
                raise _diverged(recipe, f"in epoch {progress.epoch + 1} of {recipe.epochs}")
            if (progress.epoch + 1) % told == 0:
                logger.info(f"{what}: epoch {progress.epoch + 1} of {recipe.epochs}, loss {mean:.3f}")
            total.zero_()
    if bad:
        logger.warning(f"{what}: {len(bad)} training images could not be decoded and are left out")


def _optimizer(network: nn.Module, head: nn.Linear, recipe: Recipe) -> torch.optim.SGD:
    parts: list[tuple[nn.Module, float]] = [(head, recipe.head_rate)]
    if recipe.backbone_rate > 0:
        parts.append((network.requires_grad_(True), recipe.backbone_rate))
    groups = [{"params": list(part.parameters()), "rate": rate} for part, rate in parts]
    return torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=recipe.weight_decay)


def _loss(
    network: nn.Module,
    head: nn.Linear,
    batch: Batch,
    truth: Int[Tensor, " n"],
    recipe: Recipe,
    autocast: torch.dtype | None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy; the slot of an image that cannot be decoded shows another one, so it does not count."""
    wanted = truth[batch.index]
    if batch.bad:
        places = torch.tensor([place for place, _ in batch.bad], device=wanted.device)
        wanted = wanted.masked_fill(torch.isin(batch.index, places), _IGNORED)
    with torch.set_grad_enabled(recipe.backbone_rate > 0):
        features = _features(network, batch.views[0], autocast)
    loss = F.cross_entropy(head(features), wanted, ignore_index=_IGNORED, reduction="sum")
    return loss / (wanted != _IGNORED).sum().clamp(min=1)


def _features(
    network: nn.Module, views: Float[Tensor, "b c h w"], autocast: torch.dtype | None
) -> Float[Tensor, "b f"]:
    with torch.autocast(views.device.type, dtype=autocast, enabled=autocast is not None):
        features: Tensor = network(views)
    return features.float()


def _score(
    network: nn.Module,
    head: nn.Linear,
    test: ImageSource,
    asked: Int[Tensor, " m"],
    preprocessing: Preprocessing,
    *,
    workers: int,
    device: torch.device,
    autocast: torch.dtype | None,
    logger: Logger,
) -> dict[str, float] | None:
    """Accuracies of the test images that can be decoded; None where an answer is not finite."""
    network.eval()
    hits, truth = list[Tensor](), list[Tensor]()

    def answer(views: Tensor) -> Tensor:
        logits: Tensor = head(_features(network, views, autocast))
        return logits

    stream = embedded_batches(
        answer, test, preprocessing, workers=workers, device=device, logger=logger, what="asking the test images"
    )
    bad = 0
    for positions, outputs, failed in stream:
        bad += len(failed)
        if not len(positions):
            continue
        if not outputs[0].isfinite().all():
            return None
        truth.append(asked[positions])
        best = outputs[0].topk(min(5, head.out_features), dim=1).indices.cpu()
        hits.append(best == truth[-1][:, None])
    if bad:
        logger.warning(f"{bad} test images could not be decoded and are left out")
    if bad == len(test):
        raise NoImages(f"not one of the {bad} test images can be decoded")
    right = torch.cat(hits)
    return accuracies(right[:, 0], right.any(dim=1), torch.cat(truth))


def _diverged(recipe: Recipe, when: str) -> UserError:
    rates = f"{recipe.head_rate:g} of the classifier"
    if recipe.backbone_rate:
        rates += f" or {recipe.backbone_rate:g} of the backbone"
    return UserError(
        f"the loss is not finite {when}: the learning rate {rates} is too high for this network, or its weights are broken; "
        "give a recipe with lower rates, or an earlier checkpoint"
    )


@contextmanager
def seeded(seed: int, device: torch.device | str) -> Iterator[None]:
    """Torch's generators from this seed, and afterwards as they were."""
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _enough_memory(recipe: Recipe, preprocessing: Preprocessing) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"not enough memory to train with batches of {recipe.batch_size} images of {preprocessing.size} pixels: "
            "give a recipe with smaller batches (Recipe.for_batches_of), or another device"
        ) from error
