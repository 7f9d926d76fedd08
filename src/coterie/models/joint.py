"""One set of batch statistics for views of several resolutions, as in SMoG's ResNets."""

import copy
import operator
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from timm.models.resnet import ResNet
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

# One value per resolution, for each operation of the network.
_Values = dict[fx.Node, list[Any]]

# A network's operations are recorded once, and outside of it, so that they are neither saved nor copied with it.
_recorded: WeakKeyDictionary[nn.Module, fx.Graph] = WeakKeyDictionary()


def can_join(backbone: nn.Module) -> bool:
    """Whether :func:`joint_features` knows this kind of network: the ResNets of timm, and plain sequences of layers."""
    return isinstance(backbone, ResNet) or type(backbone) is nn.Sequential


def joint_features(backbone: nn.Module, batches: Sequence[Float[Tensor, "_ c _ _"]]) -> list[Float[Tensor, "_ f"]]:
    """Features of one batch of images per resolution, normalised together.

    Convolutions and all else run per resolution. A batch norm takes its mean and variance over all pixels of all
    batches, and moves its running averages once. Batch norms in the down-sample branches of a ResNet stay apart: each
    resolution has its own statistics there, and moves the running averages in the order of ``batches``. So does SMoG
    (https://arxiv.org/abs/2207.06167, as released).

    In evaluation mode, and for a single resolution, this is a plain pass per batch.
    """
    if len(batches) == 1 or not backbone.training:
        return [backbone(batch) for batch in batches]
    modules = dict(backbone.named_modules())
    values: _Values = {}
    for node in _graph(backbone).nodes:
        if node.op == "placeholder":
            values[node] = list(batches)
        else:
            values[node] = _run(node, values, modules, len(batches))
        for spent in node.meta["spent"]:
            del values[spent]
    return values[node]  # of the last operation, the output


def _run(node: fx.Node, values: _Values, modules: dict[str, nn.Module], resolutions: int) -> list[Any]:
    target: Any = node.target
    arguments = [_arguments(node, values, place) for place in range(resolutions)]
    if node.op == "output":
        return [given[0] for given, _ in arguments]
    if node.op == "get_attr":
        return [operator.attrgetter(target)(modules[""])] * resolutions
    if node.op == "call_method":
        return [getattr(given[0], target)(*given[1:], **named) for given, named in arguments]
    if node.op == "call_module":
        if isinstance(modules[target], _BatchNorm) and "downsample" not in target.split("."):
            return _normalise_together(modules[target], [given[0] for given, _ in arguments])
        target = _keeping_its_input(modules[target])
    return [target(*given, **named) for given, named in arguments]


def _arguments(node: fx.Node, values: _Values, place: int) -> tuple[Any, dict[str, Any]]:
    found: Any = fx.node.map_arg((node.args, node.kwargs), lambda source: values[source][place])
    positional, named = found
    return positional, named


def _normalise_together(norm: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
    """Give the batch norm all pixels as one batch; the results are pieces of its one output."""
    last = [batch.movedim(1, -1) for batch in batches]  # free for the memory format channels_last
    pixels = torch.cat([batch.flatten(0, -2) for batch in last])
    if batches[0].dim() == 2:
        outputs = norm(pixels)
    else:  # the layer wants images: one image with all pixels in one column, channels last
        ones = [1] * (batches[0].dim() - 3)
        outputs = norm(pixels.T.view(1, pixels.shape[1], -1, *ones)).reshape(pixels.shape[1], -1).T
    pieces = outputs.split([batch.shape[:-1].numel() for batch in last])
    return [piece.reshape(batch.shape).movedim(-1, 1) for piece, batch in zip(pieces, last, strict=True)]


def _keeping_its_input(module: nn.Module) -> nn.Module:
    """The module, or a stand-in that does not overwrite its input: torch lets nothing overwrite pieces of a tensor."""
    if not getattr(module, "inplace", False):
        return module
    stand_in = copy.copy(module)
    stand_in.inplace = False  # type: ignore[assignment]
    return stand_in


def _graph(backbone: nn.Module) -> fx.Graph:
    if backbone not in _recorded:
        graph = _Recorder().trace(backbone)
        _mark_last_uses(graph)
        _recorded[backbone] = graph
    return _recorded[backbone]


def _mark_last_uses(graph: fx.Graph) -> None:
    """Note at each operation which values nothing later reads, so that their memory can go."""
    seen: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        unread = [source for source in node.all_input_nodes if source not in seen]
        node.meta["spent"] = unread + ([] if node in seen or node.op == "output" else [node])
        seen.update(unread)


class _Recorder(fx.Tracer):
    """Look inside only those modules that have a batch norm somewhere inside them.

    Whatever depends on training or evaluation, such as drop path, thus stays one module that decides when it runs.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether to record the module as one operation."""
        return isinstance(m, _BatchNorm) or not any(isinstance(part, _BatchNorm) for part in m.modules())
