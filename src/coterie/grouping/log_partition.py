"""The log-partition function of a softmax over groups, in bounded memory."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from coterie.grouping.chunks import CHUNK_ELEMENTS, chunk_slices


def log_partition(
    rows: Float[Tensor, "v b d"], centers: Float[Tensor, "k d"], exclude: Bool[Tensor, "b k"] | None = None
) -> Float[Tensor, "v b"]:
    """Compute ``log(sum_k exp(row . center_k))`` of each row, with gradient into rows and centers.

    This is log Z, the logarithm of the denominator of the softmax in SwAV's eq. 2 (arXiv 2006.09882). At most
    ``CHUNK_ELEMENTS`` logits exist at once: they are computed in chunks, and again in the backward pass, which costs one more
    matrix product. At V = 8, B = 4096 and K = 3000 all of them would take 393 MB, and a softmax and its gradient hold several
    copies.

    Args:
        rows: embeddings view by view, already divided by the temperature; float32 or wider.
        centers: centers in the same precision.
        exclude: centers to leave out of the sum for each image, the same in all views; None: none.

    Returns:
        log Z of each row; ``-inf`` (with zero gradient) where all centers are excluded.
    """
    if rows.shape[0] * rows.shape[1] * len(centers) <= CHUNK_ELEMENTS:
        return _logits(rows, centers, exclude, slice(None)).logsumexp(dim=-1)
    result: Tensor = _LogPartition.apply(rows, centers, exclude)
    return result


class _LogPartition(torch.autograd.Function):
    """The same function in chunks of images; the backward pass computes the logits again."""

    @staticmethod
    def forward(context: Any, rows: Tensor, centers: Tensor, exclude: Tensor | None) -> Tensor:
        found = rows.new_empty(rows.shape[:2])
        for part in _parts(rows, centers):
            found[:, part] = _logits(rows, centers, exclude, part).logsumexp(dim=-1)
        context.save_for_backward(rows, centers, exclude, found)
        return found

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """``d log Z / d logits = softmax(logits)``."""
        rows, centers, exclude, found = context.saved_tensors
        of_rows, of_centers = context.needs_input_grad[:2]
        found = found.clamp(min=torch.finfo(found.dtype).min)  # all centers excluded: no gradient instead of NaN
        to_rows, to_centers = torch.empty_like(rows), torch.zeros_like(centers)
        for part in _parts(rows, centers):
            logits = _logits(rows, centers, exclude, part)
            probabilities = logits.sub_(found[:, part, None]).exp_().mul_(gradient[:, part, None])
            if of_rows:
                to_rows[:, part] = probabilities @ centers
            if of_centers:
                to_centers.addmm_(probabilities.flatten(0, 1).T, rows[:, part].flatten(0, 1))
        return to_rows if of_rows else None, to_centers if of_centers else None, None


def _parts(rows: Tensor, centers: Tensor) -> list[slice]:
    return chunk_slices(rows.shape[1], len(rows) * len(centers), rows.device)


def _logits(rows: Tensor, centers: Tensor, exclude: Tensor | None, part: slice) -> Tensor:
    logits = rows[:, part] @ centers.T
    return logits if exclude is None else logits.masked_fill_(exclude[part], -torch.inf)
