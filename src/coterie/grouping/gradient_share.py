"""How hard a regularizer pulls at the embeddings beside the predictions, measured in the backward pass of a step."""

import torch
from jaxtyping import Float
from torch import Tensor


def measure_gradients(
    z: Float[Tensor, "v b d"], p: Float[Tensor, "v b d"]
) -> tuple[Float[Tensor, "v b d"], Float[Tensor, "v b d"], Float[Tensor, "2"]]:
    """Give a regularizer rows of its own, so that its gradient can be measured apart from that of the predictions.

    Both gradients pass through these rows in the one backward pass of the step; hooks measure them there. Only the part along
    the sphere counts: the rows are unit rows, so the network does not see the rest.

    Args:
        z: unit embeddings of the student.
        p: its unit predictions; ``z`` itself without a predictor.

    Returns:
        z and p for the regularizer (the same memory), and the squared norms ``[2]`` of the gradients of predictions and
        regularizer at z and p together: 0 until the backward pass adds them.
    """
    squares = torch.zeros(2, dtype=torch.float64, device=z.device)
    own = _measured(z, squares)
    return own, own if p is z else _measured(p, squares), squares


def gradient_share(squares: Float[Tensor, "2"]) -> float | None:
    """Compute the regularizer's share of the gradient; waits for the device.

    Args:
        squares: squared norms of :func:`measure_gradients`, of one step or summed over steps and processes.

    Returns:
        ``|regularizer| / (|predictions| + |regularizer|)``, from 0 to 1; None if nothing was measured.
    """
    predictions, regularizer = squares.sqrt().tolist()
    both = predictions + regularizer
    return regularizer / both if 0 < both < float("inf") else None


def _measured(rows: Tensor, squares: Tensor) -> Tensor:
    """Another name for the rows; the hooks add to ``squares`` once the gradient of the rows is complete."""
    own, unit, kept = rows.view_as(rows), rows.detach(), list[Tensor]()
    if not rows.requires_grad:
        return own

    def add(whole: Tensor) -> None:
        regularizer = kept.pop() if kept else torch.zeros_like(whole)
        squares.add_(torch.stack([_square_along_sphere(each, unit) for each in (whole - regularizer, regularizer)]))

    own.register_hook(kept.append)  # type: ignore[no-untyped-call]  # returns None: the gradient stays as it is
    rows.register_hook(add)  # type: ignore[no-untyped-call]
    return own


def _square_along_sphere(gradient: Tensor, unit: Tensor) -> Tensor:
    along = gradient - (gradient * unit).sum(dim=-1, keepdim=True) * unit
    norm: Tensor = torch.linalg.vector_norm(along, dtype=torch.float64)
    return norm.square()
