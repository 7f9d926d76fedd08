"""One set of batch statistics for views of several resolutions, as in SMoG's ResNets."""

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any, no_type_check
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from timm.models.resnet import ResNet
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

# A network's operations are written out once for a number of resolutions, and outside of it, so that they are neither saved
# nor copied with it.
_written: WeakKeyDictionary[nn.Module, dict[int, fx.GraphModule]] = WeakKeyDictionary()


def can_join(backbone: nn.Module) -> bool:
    """Whether :func:`joint_features` knows this kind of network: the ResNets of timm, and plain sequences of layers."""
    return isinstance(backbone, ResNet) or type(backbone) is nn.Sequential


def _as_it_is(network: nn.Module) -> Callable[..., Any]:
    return network


def joint_features(
    backbone: nn.Module,
    batches: Sequence[Float[Tensor, "_ c _ _"]],
    faster: Callable[[nn.Module], Callable[..., Any]] = _as_it_is,
) -> list[Float[Tensor, "_ f"]]:
    """Features of one batch of images per resolution, normalized together.

    Convolutions and all else run per resolution. A batch norm takes its mean and variance over all pixels of all
    batches, and moves its running averages once. Batch norms in the down-sample branches of a ResNet stay apart: each
    resolution has its own statistics there, and moves the running averages in the order of ``batches``. So does SMoG
    (https://arxiv.org/abs/2207.06167, as released).

    In evaluation mode, and for a single resolution, this is a plain pass per batch. ``faster`` may give another callable
    that does what a network does.
    """
    if len(batches) == 1 or not backbone.training:
        return [faster(backbone)(batch) for batch in batches]
    features: list[Tensor] = faster(join_views(backbone, len(batches)))(*batches)
    return features


def join_views(backbone: nn.Module, resolutions: int) -> fx.GraphModule:
    """The backbone's operations, written out for so many batches of different resolutions; it has the backbone's own layers.

    It is for training mode. Layers that are replaced in the backbone afterwards are not seen.
    """
    written = _written.setdefault(backbone, {})
    if resolutions not in written:
        single, graph = _Recorder().trace(backbone), fx.Graph()
        layers: dict[str, Any] = {}
        values: dict[fx.Node, list[fx.Node]] = {}
        for node in single.nodes:
            if node.op == "output":
                graph.output([fx.node.map_arg(node.args[0], _renaming(values, place)) for place in range(resolutions)])
            else:
                values[node] = _write(graph, node, values, resolutions, layers, backbone)
        written[resolutions] = fx.GraphModule(layers, graph)
    return written[resolutions]


def _write(
    graph: fx.Graph,
    node: fx.Node,
    values: dict[fx.Node, list[fx.Node]],
    resolutions: int,
    layers: dict[str, Any],
    backbone: nn.Module,
) -> list[fx.Node]:
    """Write one operation out for each resolution; returns its values."""
    if node.op == "placeholder":
        return [graph.placeholder(f"batch{place}") for place in range(resolutions)]
    name = str(node.target)
    if node.op in ("call_module", "get_attr"):
        layers[name] = _keeping_its_input(operator.attrgetter(name)(backbone))
    if isinstance(layers.get(name), _BatchNorm) and "downsample" not in name.split("."):
        batches = [fx.node.map_arg(node.args[0], _renaming(values, place)) for place in range(resolutions)]
        pixels = graph.call_module(name, (graph.call_function(_together, (batches,)),))
        apart = graph.call_function(_apart, (pixels, batches))
        return [graph.call_function(operator.getitem, (apart, place)) for place in range(resolutions)]
    return [graph.node_copy(node, _renaming(values, place)) for place in range(resolutions)]


def _renaming(values: dict[fx.Node, list[fx.Node]], place: int) -> Callable[[fx.Node], fx.Node]:
    return lambda source: values[source][place]


@no_type_check  # torch's compiler cannot read through the wrappers of the tests
def _together(batches: Sequence[Tensor]) -> Tensor:
    """All pixels as one batch: of rows, or, where the layer wants images, as one image whose pixels are one column."""
    pixels = torch.cat([batch.movedim(1, -1).flatten(0, -2) for batch in batches])  # free for channels_last
    ones = [1] * (batches[0].dim() - 3)
    return pixels if batches[0].dim() == 2 else pixels.T.view(1, pixels.shape[1], -1, *ones)


@no_type_check
def _apart(pixels: Tensor, batches: Sequence[Tensor]) -> list[Tensor]:
    """The pieces of what :func:`_together` put together."""
    rows = pixels if batches[0].dim() == 2 else pixels.reshape(pixels.shape[1], -1).T
    last = [batch.movedim(1, -1).shape for batch in batches]
    pieces = torch.split(rows, [shape[:-1].numel() for shape in last])
    return [piece.reshape(shape).movedim(-1, 1) for piece, shape in zip(pieces, last, strict=True)]


def _keeping_its_input(module: Any) -> Any:
    """The module, or a stand-in that does not overwrite its input: torch lets nothing overwrite pieces of a tensor."""
    if not getattr(module, "inplace", False):
        return module
    stand_in = copy.copy(module)
    stand_in.inplace = False
    return stand_in


class _Recorder(fx.Tracer):
    """Look inside only those modules that have a batch norm somewhere inside them.

    Whatever depends on training or evaluation, such as drop path, thus stays one module that decides when it runs.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether to record the module as one operation."""
        return isinstance(m, _BatchNorm) or not any(isinstance(part, _BatchNorm) for part in m.modules())
