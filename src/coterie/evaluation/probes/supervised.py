"""Training with labels: a backbone with a linear classifier, for fine-tuning, from scratch, or with the backbone frozen.

One training function answers three questions: what few labels make of a pretrained backbone (:func:`finetune`), what the same
labels make of new weights (its baseline), and how well a linear classifier separates frozen features of augmented images
(:func:`linear_published_images`). The recipes are those of SwAV (Caron et al. 2020, arXiv 2006.09882, appendices A.3, A.4).
"""

import torch
from jaxtyping import Int
from torch import Tensor, nn

from coterie.config.hardware import ON_CPU, Runtime
from coterie.data.augmentation.multi_crop import Augmentation, Crops
from coterie.data.augmentation.view_plan import ViewPlan
from coterie.data.loading.center_crop import Preprocessing
from coterie.data.loading.loader import Loader
from coterie.data.sources.source import ImageSource
from coterie.data.sources.source import labels as labels_of
from coterie.embedding.embed import embedded_batches
from coterie.errors import NoImages
from coterie.evaluation.input_checks import check_classes
from coterie.evaluation.labeled_data import LabeledPair
from coterie.evaluation.probes.accuracy import accuracies
from coterie.evaluation.probes.classifier_training import ClassifierTraining, diverged, enough_memory, seeded
from coterie.evaluation.probes.recipe import LINEAR_RECIPE, Recipe, adapt_recipe

MAX_SMALL_SIDE = 96
"""Up to this size in pixels, a crop covers at least 0.2 of the image; above, at least 0.08 as in SwAV's A.3."""


def linear_published_images(
    network: nn.Module,
    pair: LabeledPair,
    preprocessing: Preprocessing,
    *,
    recipe: Recipe = LINEAR_RECIPE,
    seed: int = 0,
    runtime: Runtime = ON_CPU,
) -> dict[str, float]:
    """Train a linear classifier on frozen features of randomly cropped and flipped images, as in SwAV's appendix A.3.

    Every epoch crops the images anew and passes them through the backbone: 100 times the work of embedding them once.
    Arguments and errors are those of :func:`train_classifier`.

    Returns:
        ``top1``, ``top5`` and ``mean_per_class`` in percent after the last epoch (the paper reports the best).
    """
    return train_classifier(
        network,
        pair,
        preprocessing,
        recipe,
        seed=seed,
        runtime=runtime,
        what="linear classifier on augmented images",
    )


def train_classifier(
    network: nn.Module,
    pair: LabeledPair,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    crops: Crops | None = None,
    seed: int = 0,
    runtime: Runtime = ON_CPU,
    what: str = "training a classifier",
) -> dict[str, float]:
    """Train a linear classifier on a backbone, and the backbone with it, in place; then test it.

    The classifier starts from weights of N(0, 0.01) and a bias of 0. Training images are augmented as in pretraining, with one
    crop per image; test images are center-cropped. The recipe is adapted to few images (:meth:`Recipe.adapted_to`). On a CPU
    the result is a function of the seed. The backbone is left on the device, in evaluation mode; a frozen one is unchanged.

    Args:
        network: images ``[b c h w]`` to features ``[b f]``.
        pair: images to train and to test on.
        preprocessing: how images are prepared for the network.
        recipe: learning rates, epochs, batch size.
        crops: of the training images; None: :func:`plain_crops`.
        seed: for the initial weights of the classifier, the order of the images, the crops, and dropout if there is any.
        runtime: where and how to compute; its logger receives progress and loss.
        what: name of this training for the logger.

    Returns:
        ``top1``, ``top5`` and ``mean_per_class`` in percent, of the last epoch; top5 considers the best min(5, classes).

    Raises:
        UserError: labels are missing, of one class only, or of classes that only the test images have; the loss is not
            finite; or there is too little memory.
    """
    truth, test_truth = (torch.tensor(labels_of(source)) for source in (pair.train, pair.test))
    check_classes(truth, test_truth)
    logger, device = runtime.logger, runtime.device
    fitted = adapt_recipe(recipe, len(truth), logger, what)
    loader = crop_loader(pair.train, preprocessing, fitted, crops, seed=seed, runtime=runtime)
    with seeded(seed, device), enough_memory(fitted, preprocessing):
        head = _new_head(network.to(device).eval(), preprocessing, int(truth.max()) + 1, device)
        training = ClassifierTraining(network, head, loader, truth.to(device), fitted, runtime, what=what)
        training.run()
        figures = _test(network, head, pair.test, test_truth, preprocessing, runtime)
    if figures is None:
        raise diverged(fitted, "after the last epoch")
    return figures


def crop_loader(
    images: ImageSource,
    preprocessing: Preprocessing,
    recipe: Recipe,
    crops: Crops | None = None,
    *,
    seed: int,
    runtime: Runtime,
) -> Loader:
    """The augmented images of a training.

    Args:
        images: the training images.
        preprocessing: how images are prepared for the network.
        recipe: epochs and batch size.
        crops: of the images; None: :func:`plain_crops`.
        seed: for their order and the crops.
        runtime: device, and how many processes load images.

    Raises:
        UserError: there are fewer images than a batch.
    """
    crops = crops or plain_crops(preprocessing.size)
    return Loader(
        images,
        ViewPlan(
            (crops,), preprocessing.channels, preprocessing.mean, preprocessing.std, range=preprocessing.value_range
        ),
        batch_size=recipe.batch_size,
        epochs=recipe.epochs,
        seed=seed,
        workers=runtime.workers,
        device=runtime.device,
    )


def plain_crops(size: int) -> Crops:
    """One random crop, flipped half the time, without color changes (SwAV's A.3; of small images crops are larger).

    Args:
        size: of a crop, in pixels.
    """
    scale = (0.2 if size <= MAX_SMALL_SIDE else 0.08, 1.0)
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


def _test(
    network: nn.Module,
    head: nn.Linear,
    test: ImageSource,
    truth: Int[Tensor, " m"],
    preprocessing: Preprocessing,
    runtime: Runtime,
) -> dict[str, float] | None:
    """Accuracies on the test images that can be decoded; None if a score is not finite."""
    network.eval()
    hits, labels = list[Tensor](), list[Tensor]()

    def classify(features: Tensor) -> tuple[Tensor, ...]:
        return (head(features),)

    batches = embedded_batches(network, test, preprocessing, runtime, then=classify, what="testing the classifier")
    bad = 0
    for positions, outputs, failed in batches:
        bad += len(failed)
        if not len(positions):
            continue
        _, logits = outputs
        if not logits.isfinite().all():
            return None
        labels.append(truth[positions])
        best = logits.topk(min(5, head.out_features), dim=1).indices.cpu()
        hits.append(best == labels[-1][:, None])
    if bad:
        runtime.logger.warning(f"{bad} test images could not be decoded and are left out")
    if bad == len(test):
        raise NoImages(f"none of the {bad} test images can be decoded")
    right = torch.cat(hits)
    return accuracies(right[:, 0], right.any(dim=1), torch.cat(labels))
