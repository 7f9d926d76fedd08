"""The forward pass of evaluation: every embedding is computed by it, in the precision of a runtime."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coterie.config.hardware import Runtime
from coterie.models.inference import inference_copy, rounds_badly

CPU_PIXELS = 8 * 224**2
"""Pixels that each thread of a CPU encodes at a time: activations of more than its caches hold take twice the time."""

Network = Callable[[Tensor], Tensor | tuple[Tensor, ...]]
"""Maps images ``[b c h w]`` to one or more tensors with a row for each."""
Then = Callable[[Tensor], tuple[Tensor, ...]]
"""Maps embeddings ``[b f]`` to further tensors with a row for each, such as groups."""


def embedding_runtime(network: Network, runtime: Runtime) -> Runtime:
    """The runtime in whose precision a network embeds: in float32 if it loses too much in an automatic bfloat16.

    Args:
        network: the network.
        runtime: where it is, and its precision.
    """
    loses = (
        runtime.automatic and runtime.autocast is not None and isinstance(network, nn.Module) and rounds_badly(network)
    )
    return replace(runtime, autocast=None) if loses else runtime


def forward_pass(
    network: Network, runtime: Runtime, then: Then | None = None
) -> Callable[[Float[Tensor, "b c h w"]], tuple[Tensor, ...]]:
    """Create a function from images on the runtime's device to the outputs of a network, without gradients.

    Args:
        network: stays as it is; of a module in evaluation mode, a copy with folded batch norms is applied in float32, and
            images have the memory layout that convolutions prefer.
        runtime: where the network is, and its precision, of which :func:`embedding_runtime` has the last word.
        then: further outputs, computed from the first in float32.

    Returns:
        A function whose outputs are float32, or wider if the network's are, or whole numbers. On a CPU it passes on some large
        images at a time.
    """
    layout = torch.channels_last if isinstance(network, nn.Module) else torch.contiguous_format
    autocast, applied = embedding_runtime(network, runtime).autocast, network
    if isinstance(network, nn.Module) and not network.training and autocast is None:  # folded weights round worse
        applied = inference_copy(network)

    def encode(images: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
            found = applied(images.contiguous(memory_format=layout))
        outputs = tuple(each.float() if each.dtype in (torch.bfloat16, torch.half) else each for each in _tuple(found))
        return outputs if then is None else outputs + then(outputs[0])

    @torch.inference_mode()
    def encode_in_parts(images: Tensor) -> tuple[Tensor, ...]:
        rows = len(images)
        if images.device.type == "cpu":
            rows = max(1, min(rows, CPU_PIXELS * torch.get_num_threads() // images[0, 0].numel()))
        parts = [encode(part) for part in (torch.split(images, rows) if rows < len(images) else (images,))]
        return parts[0] if len(parts) == 1 else tuple(torch.cat(each) for each in zip(*parts, strict=True))

    return encode_in_parts


def _tuple(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)
