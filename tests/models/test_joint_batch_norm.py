import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coterie.models import joint_batch_norm as joint
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.joint_batch_norm import joint_features

# First 3 images of 20 pixels, then 5 of 12: shares of pixels that no plain mean of the two statistics would give.
SIZES = ((3, 20), (5, 12))


def resnet(name: str = "resnet18", **more) -> nn.Module:
    torch.manual_seed(0)
    network = build_backbone(BackboneConfig(name, **more), 32).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


def sequence() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers).double()


def two_batches(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    # Each resolution has its own brightness, so that it matters what is normalized together.
    return [torch.randn(count, 3, s, s, dtype=dtype) * (i + 1) + i for i, (count, s) in enumerate(SIZES)]


def batch_norm_by_hand(norm: nn.BatchNorm2d, batches: list[Tensor]) -> list[Tensor]:
    """All pixels of all images in one row per channel."""
    pixels = torch.cat([x.transpose(0, 1).flatten(1) for x in batches], dim=1)[None]
    pixels = F.batch_norm(pixels, norm.running_mean, norm.running_var, norm.weight, norm.bias, True, 0.1, 1e-5)
    norm.num_batches_tracked += 1
    outputs = []
    for x, piece in zip(batches, pixels[0].split([x[:, 0].numel() for x in batches], dim=1), strict=True):
        outputs.append(piece.view(x.shape[1], x.shape[0], *x.shape[2:]).transpose(0, 1))
    return outputs


def resnet18_by_hand(network: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    """Step by step, with torch's own batch norm; downsampling branches see one resolution at a time."""
    xs = [F.relu(x) for x in batch_norm_by_hand(network.bn1, [network.conv1(x) for x in batches])]
    xs = [network.maxpool(x) for x in xs]
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in stage:
            shortcuts = xs if block.downsample is None else [block.downsample(x) for x in xs]
            xs = [F.relu(x) for x in batch_norm_by_hand(block.bn1, [block.conv1(x) for x in xs])]
            xs = batch_norm_by_hand(block.bn2, [block.conv2(x) for x in xs])
            xs = [F.relu(x + shortcut) for x, shortcut in zip(xs, shortcuts, strict=True)]
    return [x.mean(dim=(2, 3)) for x in xs]


def sequence_by_hand(network: nn.Sequential, batches: list[Tensor]) -> list[Tensor]:
    xs = batch_norm_by_hand(network[1], [network[0](x) for x in batches])
    return [F.relu(x).mean(dim=(2, 3)) for x in xs]


CASES = {
    "small-stem": (lambda: resnet(width=0.25, stem="small"), resnet18_by_hand),
    "standard-stem": (lambda: resnet(width=0.125), resnet18_by_hand),
    "channels-last": (lambda: resnet(width=0.25, stem="small").to(memory_format=torch.channels_last), resnet18_by_hand),
    "sequence": (sequence, sequence_by_hand),
}


def backward(features: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(1)
    for x in features:
        (x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum().backward(retain_graph=True)


@pytest.mark.parametrize("case", CASES)
def test_two_resolutions_are_normalized_as_by_hand(case):
    make, by_hand = CASES[case]
    network = make()
    other = copy.deepcopy(network)
    for _ in range(2):  # the second time with the cached graph and running averages that have moved
        batches = [batch.requires_grad_() for batch in two_batches()]
        copies = [batch.detach().clone().requires_grad_() for batch in batches]
        ours, theirs = joint_features(network, batches), by_hand(other, copies)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        backward(ours)
        backward(theirs)
        for mine, expected in zip(batches, copies, strict=True):
            torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-9, atol=1e-9)
    for (name, mine), expected in zip(network.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, expected.grad, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    for (name, mine), expected in zip(network.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_running_averages_move_once_and_in_downsampling_branches_once_per_resolution():
    network = resnet(width=0.25, stem="small")
    joint_features(network, two_batches())
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    moves = {name: int(module.num_batches_tracked) for name, module in norms.items()}
    apart = {f"layer{number}.0.downsample.1" for number in (2, 3, 4)}
    assert moves == {name: 2 if name in apart else 1 for name in norms}


def test_one_pass_per_resolution_gives_another_result():
    network, batches = resnet(width=0.25, stem="small"), two_batches()
    apart = [copy.deepcopy(network)(batch) for batch in batches]
    assert (joint_features(network, batches)[1] - apart[1]).abs().max() > 0.01


@pytest.mark.parametrize("training", [True, False], ids=["one-resolution", "evaluation"])
def test_plain_passes_where_there_is_nothing_to_join(training):
    network = resnet(width=0.25, stem="small").train(training)
    other, batches = copy.deepcopy(network), two_batches()[: 1 if training else 2]
    ours = joint_features(network, batches)
    assert all(torch.equal(mine, other(batch)) for mine, batch in zip(ours, batches, strict=True))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(network.buffers(), other.buffers(), strict=True))


def test_evaluation_after_training_uses_the_running_averages_and_not_the_training_graph():
    network, batches = resnet(width=0.25, stem="small", drop_path=0.5), two_batches()
    assert not torch.equal(
        joint_features(network, batches)[0], joint_features(network, batches)[0]
    )  # drop path is active
    network.eval()
    torch.testing.assert_close(joint_features(network, batches), [network(x) for x in batches], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18d", "seresnet50", "res2net50_26w_4s", "resnet50_gn"])
def test_other_resnets_of_timm_run_too(name):
    network, batches = resnet(name).float(), two_batches(torch.float32)
    features = joint_features(network, batches)
    sum(x.square().sum() for x in features).backward()
    assert [tuple(x.shape) for x in features] == [(count, network.num_features) for count, _ in SIZES]
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_the_same_images_twice_are_normalized_as_once():
    network = resnet(width=0.25, stem="small")
    other, images = copy.deepcopy(network), two_batches()[0]
    halves = joint_features(network, [images, images.clone()])
    torch.testing.assert_close(halves[0], other(images), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(halves[1], halves[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=["last", "first"])
def test_bfloat16_under_autocast_stays_near_float32(memory_format):
    network = resnet(width=0.25, stem="small").float().to(memory_format=memory_format)
    batches = two_batches(torch.float32)
    full = joint_features(copy.deepcopy(network), batches)
    with torch.autocast("cpu", torch.bfloat16):
        half = joint_features(network, batches)
    assert [x.dtype for x in half] == [torch.bfloat16] * 2
    for mine, expected in zip(half, full, strict=True):
        assert F.cosine_similarity(mine.float(), expected).min() > 0.999
    sum(x.float().square().sum() for x in half).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters())


def test_the_joint_graph_is_no_part_of_the_network():
    network, batches = resnet(width=0.125, stem="small"), two_batches()
    before = list(network.state_dict())
    joint_features(network, batches)
    assert list(network.state_dict()) == before
    twin = copy.deepcopy(network)
    pickle.dumps(network)
    torch.testing.assert_close(joint_features(twin, batches), joint_features(network, batches), rtol=0, atol=0)
    with torch.no_grad():
        twin.conv1.weight.zero_()  # a copy uses its own weights
    assert (joint_features(twin, batches)[0] - joint_features(network, batches)[0]).abs().max() > 0.01
    assert all(module.inplace for name, module in network.named_modules() if isinstance(module, nn.ReLU))
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None
    assert twin in joint._joined
