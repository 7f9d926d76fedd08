"""Networks for evaluation passes alone: batch norms folded into the convolutions before them, and what bfloat16 costs."""

import copy
from collections import Counter
from typing import cast

from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from coterie.models.own_backbone import OwnBackbone

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)  # these alone: others compute with weights other than those that they hold
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


def inference_copy(network: nn.Module) -> nn.Module:
    """A network with the same outputs, up to rounding, and fewer passes over the activations.

    Args:
        network: in evaluation mode; it stays as it is.

    Returns:
        A copy whose batch norms are folded into the convolutions before them, with the rest shared; the network itself where
        there is nothing to fold, where its graph cannot be followed, or if it is, or holds, a module of the user's own.
    """
    own = any(isinstance(each, OwnBackbone) for each in network.modules())
    pairs = [] if own else _pairs(network)
    if not pairs:
        return network
    shared = {id(each): each for each in (*network.parameters(), *network.buffers())}  # not copied: half of the memory
    folded = copy.deepcopy(network, shared)
    for convolution, norm in pairs:
        was = cast(nn.BatchNorm2d, folded.get_submodule(norm))
        fused = fuse_conv_bn_eval(cast(nn.Conv2d, folded.get_submodule(convolution)), was)
        folded.set_submodule(convolution, fused)
        after = nn.Sequential(was.drop, was.act) if isinstance(was, BatchNormAct2d) else nn.Identity()
        folded.set_submodule(norm, after.eval())
    return folded


def rounds_badly(network: nn.Module) -> bool:
    """Whether bfloat16 changes the embeddings by more than a cosine of .999, as batch-normalized depthwise convolutions do.

    EfficientNet-Lite0 with public weights: .989; ResNet, RegNet, ViT and ConvNeXt: .9999 (``docs/log.md``).
    """
    modules = list(network.modules())
    depthwise = any(isinstance(each, nn.Conv2d) and each.groups == each.in_channels > 1 for each in modules)
    return depthwise and any(isinstance(each, nn.BatchNorm2d) for each in modules)


def _pairs(network: nn.Module) -> list[tuple[str, str]]:
    """Names of the convolutions whose outputs go to a batch norm and nowhere else, and of the norms."""
    modules = dict(network.named_modules())
    if not any(_folds(each) for each in modules.values()):
        return []
    try:
        calls = [node for node in _Tracer().trace(network).nodes if node.op == "call_module"]
    except Exception:  # a forward pass that depends on values, such as sizes
        return []
    times = Counter(str(node.target) for node in calls)
    pairs = []
    for node in calls:
        before = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if not (isinstance(before, fx.Node) and before.op == "call_module" and len(before.users) == 1):
            continue
        names = str(before.target), str(node.target)
        found = modules[names[0]]
        once = times[names[0]] == times[names[1]] == 1
        if once and type(found) in _CONVOLUTIONS and not found.training and _folds(modules[names[1]]):
            pairs.append(names)
    return pairs


def _folds(module: nn.Module) -> bool:
    return type(module) in _NORMS and not module.training and module.running_mean is not None


class _Tracer(fx.Tracer):
    """Follows the graph down to convolutions and norms, timm's among them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node of the graph."""
        return isinstance(m, _CONVOLUTIONS + _NORMS) or super().is_leaf_module(m, module_qualified_name)
