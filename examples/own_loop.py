"""Use the objective in your own training loop, with any network, any data and any optimizer."""

import torch
from torch import nn
from torch.nn import functional as F

from coterie.grouping.assignment import Sinkhorn
from coterie.grouping.groups import LearnedGroups
from coterie.grouping.objective import Objective
from coterie.types import Batch, Progress, Roles

STEPS = 30

torch.manual_seed(0)
network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 64), nn.ReLU(), nn.Linear(64, 16))
groups = LearnedGroups([torch.randn(20, 16)], frozen_steps=5)
roles = Roles(student_views=(0, 1, 2), target_views=(0, 1), grouped_views=(0, 1))
objective = Objective(groups, Sinkhorn(temperature=0.05), roles)
optimizer = torch.optim.SGD([*network.parameters(), *groups.parameters()], lr=0.05, momentum=0.9)


def encode(views: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features h, unit embeddings z and unit predictions p, each ``[views, images, width]``."""
    h = torch.stack([network(view) for view in views])
    z = F.normalize(h, dim=-1)
    return h, z, z  # without a predictor, p is z


images = torch.rand(64, 3, 16, 16)
for step in range(STEPS):
    views = {view: images + 0.1 * torch.randn_like(images) for view in range(3)}  # your augmentation
    progress = Progress(step, steps_per_epoch=1, total_steps=STEPS)
    result = objective(encode, Batch(torch.arange(64), views), progress)
    result.loss.backward()
    objective.after_backward(progress)
    optimizer.step()
    optimizer.zero_grad()
    objective.after_step(progress)
    if step % 10 == 9:
        print(f"step {step + 1}: loss {result.loss.item():.3f}")
