"""Folded networks give the same features, and the network they come from stays as it is."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import Tensor, nn

from coterie.config.hardware import Runtime
from coterie.embedding.forward import embedding_runtime
from coterie.models.inference import inference_copy, rounds_badly
from coterie.models.own_backbone import OwnBackbone


def trained_looking(network: nn.Module) -> nn.Module:
    """Statistics that a batch norm has after training; those of a new one change nothing."""
    generator = torch.Generator().manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low, high in ((norm.running_mean, -0.2, 0.2), (norm.running_var, 0.5, 2.0)):
                values.uniform_(low, high, generator=generator)
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(norm.bias, -0.2, 0.2, generator=generator)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(each, nn.BatchNorm2d) for each in network.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet10t", 0),
        ("tf_efficientnet_lite0", 0),
        ("resnetv2_18", 9),
    ],  # norms that activate; norms before convolutions
)
@torch.inference_mode()
def test_batch_norms_are_folded_into_the_convolutions_before_them(name: str, left: int) -> None:
    with torch.inference_mode(False):
        network = trained_looking(timm.create_model(name, num_classes=0))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    folded, expected = inference_copy(network), network(images)
    assert (norms(folded), norms(network) > left) == (left, True)
    torch.testing.assert_close(folded(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Twice(nn.Module):
    """A convolution whose output goes to a norm and elsewhere, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.again, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        made = self.first(images)
        return (made + self.norm(made) + self.other(self.again(self.again(images)))).mean(dim=(2, 3))


class Branching(Twice):
    """A forward pass that depends on values."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) if float(images.sum()) > 0 else self.norm(self.first(images)).mean(dim=(2, 3))


def test_what_cannot_be_folded_is_left_alone() -> None:
    assert inference_copy(twice := trained_looking(Twice())) is twice
    assert inference_copy(branching := trained_looking(Branching())) is branching
    plain = trained_looking(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    assert norms(inference_copy(plain)) == 0
    assert inference_copy(own := OwnBackbone(plain, 3, 8).eval()) is own
    assert inference_copy(plain.train()) is plain


def test_batch_normalized_depthwise_convolutions_stay_in_float32_unless_asked() -> None:
    names = {"test_efficientnet": True, "mobilenetv3_small_050": True, "resnet18": False, "convnext_atto": False}
    automatic = Runtime(autocast=torch.bfloat16, automatic=True)
    for name, badly in names.items():
        with torch.device("meta"):
            network = timm.create_model(name)
        assert rounds_badly(network) is badly
        assert embedding_runtime(network, automatic).precision == ("float32" if badly else "bfloat16")
        assert embedding_runtime(network, replace(automatic, automatic=False)).precision == "bfloat16"
