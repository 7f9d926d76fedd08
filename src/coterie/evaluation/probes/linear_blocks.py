"""A linear classifier on the features of every block of a network."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coterie.config.hardware import ON_CPU, Runtime
from coterie.data.loading.center_crop import Preprocessing
from coterie.embedding.embed import Embeddings, embed_source
from coterie.evaluation.input_checks import check_finite, warn_of_undecodable
from coterie.evaluation.labeled_data import LabeledPair
from coterie.evaluation.probes.linear import linear_sgd
from coterie.evaluation.probes.recipe import PLACES205, Recipe, adapt_recipe
from coterie.models.block_features import BlockFeatures

MOST_BYTES = 4 * 2**30
"""Of features that are held at a time; what does not fit takes another pass over the images."""


def linear_blocks(
    network: nn.Module,
    pair: LabeledPair,
    preprocessing: Preprocessing,
    *,
    recipe: Recipe = PLACES205,
    seed: int = 0,
    runtime: Runtime = ON_CPU,
    most_bytes: int = MOST_BYTES,
) -> dict[str, float]:
    """Train a linear classifier on each block of a frozen network, as SwAV's and others' tables of intermediate layers.

    Maps are averaged to at most 9,216 numbers (Goyal et al. 2019, arXiv 1905.01235), of center crops that are passed through
    the network once. Features are standardized by the statistics of TRAIN, where Goyal et al. have a batch norm without
    weights. The recipe is adapted to few images.

    Args:
        network: of timm.
        pair: images to train and to test on.
        preprocessing: how images are prepared for the network.
        recipe: learning rate, epochs, batch size.
        seed: for the initial weights and the order.
        runtime: where and how to compute; its logger receives progress.
        most_bytes: of features that are held at a time.

    Returns:
        ``BLOCK_top1`` in percent of each block, from the first on.

    Raises:
        UserError: the network does not give the features of its blocks, or as of
            :func:`coterie.evaluation.probes.linear.linear_sgd`.
    """
    features = BlockFeatures(network, preprocessing.channels, preprocessing.size)
    logger = runtime.logger
    shown = ", ".join(f"{name} {width:,}" for name, width in zip(features.names, features.widths, strict=True))
    logger.info(f"linear_blocks: {len(features.names)} blocks, features of each: {shown}")
    fitted = adapt_recipe(recipe, len(pair.train), logger, "linear classifiers on blocks")
    figures: dict[str, float] = {}
    for blocks in features.parts(len(pair.train) + len(pair.test), most_bytes):
        features.blocks = blocks
        train, test = (
            embed_source(features, source, preprocessing, runtime, what=f"blocks of {what} images")
            for source, what in ((pair.train, "training"), (pair.test, "test"))
        )
        if not figures:
            warn_of_undecodable(train.bad, "training images", pair.train.name, logger)
            warn_of_undecodable(test.bad, "test images", pair.test.name, logger)
        rows = zip(_by_block(train, features), _by_block(test, features), strict=True)
        for block, (own, others) in zip(blocks, rows, strict=True):
            name = features.names[block]
            for part, what in ((own, "TRAIN"), (others, "TEST")):
                check_finite(part, f"{what} by {name}")
            device = runtime.device
            data = (own.to(device), train.labels.to(device), others.to(device), test.labels.to(device))
            found = linear_sgd(*data, recipe=fitted, standardize=True, seed=seed, logger=logger)
            figures[f"{name}_top1"] = found["top1"]
            logger.info(f"linear_blocks: {name}: {found['top1']:.1f} %")
    return figures


def _by_block(found: Embeddings, features: BlockFeatures) -> tuple[Float[Tensor, "n _"], ...]:
    """The features of each block that was computed."""
    return torch.split(found.rows, [features.widths[block] for block in features.blocks], dim=1)
