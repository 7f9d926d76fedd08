"""The network that SwAV's checkpoints hold, written from its description (arXiv 2006.09882, appendix A.1) and tiny.

A ResNet in torchvision's layout with bottlenecks, whose stem pads the image by one pixel before a convolution that pads it by two;
a head of linear, batch norm, ReLU and linear; prototypes without bias. Crops of one resolution pass through the backbone
together, the head runs once over all.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv2, self.bn2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False), nn.BatchNorm2d(planes)
        self.conv3, self.bn3 = nn.Conv2d(planes, 4 * planes, 1, bias=False), nn.BatchNorm2d(4 * planes)
        self.relu = nn.ReLU()
        self.downsample = None
        if stride != 1 or inputs != 4 * planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class OfficialSwav(nn.Module):
    def __init__(self, planes: int, blocks: Sequence[int], hidden: int, width: int, prototypes: int) -> None:
        super().__init__()
        self.padding = nn.ConstantPad2d(1, 0.0)
        self.conv1, self.bn1 = nn.Conv2d(3, planes, 7, stride=2, padding=2, bias=False), nn.BatchNorm2d(planes)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1)
        inputs = planes
        for stage, count in enumerate(blocks):
            layers = []
            for block in range(count):
                stride = 2 if stage and not block else 1
                layers.append(Bottleneck(inputs, planes * 2**stage, stride))
                inputs = 4 * planes * 2**stage
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.projection_head = nn.Sequential(
            nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )
        self.prototypes = nn.Linear(width, prototypes, bias=False)

    def forward_backbone(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.padding(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)

    def forward(self, crops: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Features, unit embeddings and scores, crop by crop."""
        same_size = [list(group) for _, group in itertools.groupby(crops, key=lambda crop: crop.shape[-1])]
        features = torch.cat([self.forward_backbone(torch.cat(group)) for group in same_size])
        embeddings = F.normalize(self.projection_head(features), dim=1)
        return features, embeddings, self.prototypes(embeddings)


def trained_looking(network: nn.Module) -> nn.Module:
    """Random values everywhere, so that nothing is at its neutral value; then the network is in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.normal_(0, (2 / module.weight[0].numel()) ** 0.5, generator=generator)
    return network.eval()
