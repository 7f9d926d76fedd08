"""Compile the training passes with torch.compile, with a fallback if the compiler fails."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from coterie.errors import first_cause
from coterie.models.encoder import Encoder


def compile_passes(
    encoders: Sequence[tuple[Encoder, Sequence[Tensor]]], autocast: torch.dtype | None = None
) -> str | None:
    """Compile the training passes of encoders, and run each once on views of the sizes to come.

    The trial is a forward pass and, for an encoder that learns, a backward pass, so that the compiler fails here or not at all.
    It takes as long as the compiler does, from half a minute to a few minutes, and the memory of a training step. Batch
    statistics and gradients are restored.

    Args:
        encoders: encoders in training mode, each with views ``[B, C, H, W]`` to try.
        autocast: precision of the passes, as in the training loop; None: that of the weights.

    Returns:
        None if the compiler succeeded; else its error in one line, and all encoders run without compilation.

    Raises:
        torch.OutOfMemoryError: the views are too large for the device.
    """
    try:
        for encoder, views in encoders:
            encoder.compile_backbone()
            with _restored(encoder), _quiet():
                _pass(encoder, views, autocast)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # any kind: a missing g++ or Triton, or a bug of the compiler
        for encoder, _ in encoders:
            encoder.compile_backbone(False)
        return first_cause(error)
    return None


def _pass(encoder: Encoder, views: Sequence[Tensor], autocast: torch.dtype | None) -> None:
    learns = next(encoder.parameters()).requires_grad
    with (
        torch.set_grad_enabled(learns),
        torch.autocast(views[0].device.type, dtype=autocast, enabled=autocast is not None),
    ):
        h, _, p = encoder(views)
    if learns:
        (h.sum() + p.sum()).backward()


@contextmanager
def _restored(encoder: Encoder) -> Iterator[None]:
    """Restore the buffers and drop the gradients afterwards."""
    before = [buffer.clone() for buffer in encoder.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(encoder.buffers(), before, strict=True):
            buffer.copy_(value)
        encoder.zero_grad(set_to_none=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the compiler's own warnings and tracebacks; the caller reports a failure in one line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
