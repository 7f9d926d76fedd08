"""Trains a small network on noise, in turns: for each line that it reads, this process writes the time of a step.

``python -m coterie.training.profiling.wait_trial``, started by :mod:`coterie.training.profiling.wait_policy`.
"""

import sys
import time

import torch
from torch import nn

from coterie.config.hardware import choose_autocast

BATCH, SIZE, WIDTH, LAYERS = 32, 48, 64, 8
"""A network whose layers are as short as those of a ResNet-18 on small images, where waiting weighs most."""
TURN_SECONDS, WARM_UP = 0.25, 2


def _layers() -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, 2, 1)]
    for _ in range(LAYERS):
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)]
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def _main() -> None:
    network = nn.Sequential(*_layers()).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    images = torch.rand(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    precision = choose_autocast("auto", torch.device("cpu"))

    def step() -> None:
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            loss = network(images).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM_UP):
        step()
    sys.stdout.write("0\n")
    sys.stdout.flush()
    for _ in sys.stdin:
        began, steps = time.perf_counter(), 0
        while not steps or time.perf_counter() - began < TURN_SECONDS:
            step()
            steps += 1
        sys.stdout.write(f"{(time.perf_counter() - began) / steps}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
