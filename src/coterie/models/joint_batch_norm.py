"""Joint batch statistics for views of several resolutions, as in SMoG's ResNets."""

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

# The joint graph of a network for each number of resolutions, kept outside of it so that it is neither saved nor copied.
_joined: WeakKeyDictionary[nn.Module, dict[int, fx.GraphModule]] = WeakKeyDictionary()


def can_join(backbone: nn.Module) -> bool:
    """Return whether :func:`joint_features` supports a network: timm's ResNets and plain sequences of layers.

    Args:
        backbone: any network.
    """
    return isinstance(backbone, ResNet) or type(backbone) is nn.Sequential


def _uncompiled(network: nn.Module) -> Callable[..., Any]:
    return network


def joint_features(
    backbone: nn.Module,
    batches: Sequence[Float[Tensor, "_ c _ _"]],
    maybe_compiled: Callable[[nn.Module], Callable[..., Any]] = _uncompiled,
) -> list[Float[Tensor, "_ f"]]:
    """Compute the features of one batch of images per resolution, with joint batch statistics.

    Each batch norm takes its mean and variance over all pixels of all batches and updates its running averages once; all other
    layers run per resolution. Batch norms in the downsampling branches of a ResNet are the exception: there each resolution has
    its own statistics and updates the running averages in the order of ``batches``. As in SMoG (Pang et al. 2022, arXiv
    2207.06167, released code).

    In evaluation mode, and for a single resolution, this is a plain forward pass per batch.

    Args:
        backbone: a network for which :func:`can_join` is true.
        batches: one batch of images per resolution, of any number of images.
        maybe_compiled: returns a callable equivalent to a network, such as its compiled form.

    Returns:
        One tensor of features per batch.
    """
    if len(batches) == 1 or not backbone.training:
        return [maybe_compiled(backbone)(batch) for batch in batches]
    features: list[Tensor] = maybe_compiled(join_views(backbone, len(batches)))(*batches)
    return features


def join_views(backbone: nn.Module, resolutions: int) -> fx.GraphModule:
    """Build the graph that runs a backbone in training mode on several batches of different resolutions with joint batch norms.

    It is built once per network and number of resolutions; layers that are replaced in the backbone afterwards are not noticed.

    Args:
        backbone: a network for which :func:`can_join` is true.
        resolutions: number of batches.

    Returns:
        A module that shares the backbone's layers. It takes one batch ``[B, C, H, W]`` per resolution and returns a list of
        features ``[B, F]``.
    """
    joined = _joined.setdefault(backbone, {})
    if resolutions not in joined:
        single, graph = _Recorder().trace(backbone), fx.Graph()
        layers: dict[str, Any] = {}
        values: dict[fx.Node, list[fx.Node]] = {}
        for node in single.nodes:
            if node.op == "output":
                graph.output([fx.node.map_arg(node.args[0], _renaming(values, place)) for place in range(resolutions)])
            else:
                values[node] = _write(graph, node, values, resolutions, layers, backbone)
        joined[resolutions] = fx.GraphModule(layers, graph)
    return joined[resolutions]


def _write(
    graph: fx.Graph,
    node: fx.Node,
    values: dict[fx.Node, list[fx.Node]],
    resolutions: int,
    layers: dict[str, Any],
    backbone: nn.Module,
) -> list[fx.Node]:
    """Add one operation to the joint graph for each resolution; returns the nodes of its results."""
    if node.op == "placeholder":
        return [graph.placeholder(f"batch{place}") for place in range(resolutions)]
    name = str(node.target)
    if node.op in ("call_module", "get_attr"):
        layers[name] = _not_in_place(operator.attrgetter(name)(backbone))
    if isinstance(layers.get(name), _BatchNorm) and "downsample" not in name.split("."):
        batches = [fx.node.map_arg(node.args[0], _renaming(values, place)) for place in range(resolutions)]
        pixels = graph.call_module(name, (graph.call_function(_concatenate, (batches,)),))
        apart = graph.call_function(_split, (pixels, batches))
        return [graph.call_function(operator.getitem, (apart, place)) for place in range(resolutions)]
    return [graph.node_copy(node, _renaming(values, place)) for place in range(resolutions)]


def _renaming(values: dict[fx.Node, list[fx.Node]], place: int) -> Callable[[fx.Node], fx.Node]:
    """Map a node of the backbone's graph to its copy for one resolution."""
    return lambda source: values[source][place]


@no_type_check  # torch's compiler cannot trace the type checks of the tests
def _concatenate(batches: Sequence[Tensor]) -> Tensor:
    """Join all pixels into one batch: of rows, or, for a layer that expects images, one image whose pixels are a column."""
    pixels = torch.cat([batch.movedim(1, -1).flatten(0, -2) for batch in batches])  # no copy for channels_last
    ones = [1] * (batches[0].dim() - 3)
    return pixels if batches[0].dim() == 2 else pixels.T.view(1, pixels.shape[1], -1, *ones)


@no_type_check
def _split(pixels: Tensor, batches: Sequence[Tensor]) -> list[Tensor]:
    """Undo :func:`_concatenate`."""
    rows = pixels if batches[0].dim() == 2 else pixels.reshape(pixels.shape[1], -1).T
    last = [batch.movedim(1, -1).shape for batch in batches]
    pieces = torch.split(rows, [shape[:-1].numel() for shape in last])
    return [piece.reshape(shape).movedim(-1, 1) for piece, shape in zip(pieces, last, strict=True)]


def _not_in_place(module: Any) -> Any:
    """The module, or a copy that does not overwrite its input: torch forbids overwriting the pieces of a split tensor."""
    if not getattr(module, "inplace", False):
        return module
    stand_in = copy.copy(module)
    stand_in.inplace = False
    return stand_in


class _Recorder(fx.Tracer):
    """Trace only into modules that contain a batch norm.

    So a module that behaves differently in training and evaluation, such as drop path, stays one node that decides when it
    runs.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether to record a module as one operation; the names of the arguments are torch's."""
        return isinstance(m, _BatchNorm) or not any(isinstance(part, _BatchNorm) for part in m.modules())
