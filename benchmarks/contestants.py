"""One training step of ours and one of lightly's, on the same network, the same views and the same precision.

Ours is the product's own: its preset, its parts, ``fit`` and the monitor. The presets' settings are changed only where the two
must be alike: crops, widths of the heads, number of groups, no queue. lightly's is ``lightly_models``, in one of its
documented settings.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import lightly_models
import torch
from torch import Tensor

from coterie.config.facts import Facts
from coterie.config.hardware import Runtime, choose_autocast, choose_compile
from coterie.config.schema import PretrainConfig
from coterie.data.augmentation.view_plan import Crops, ViewPlan
from coterie.grouping.groups import LearnedGroupsConfig
from coterie.grouping.memory_queue import MemoryConfig
from coterie.methods.planner import Planner
from coterie.methods.presets import METHODS
from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.head import HeadConfig
from coterie.training.build import build_parts, compile_parts
from coterie.training.loop import fit
from coterie.training.monitor import Monitor
from coterie.types import Batch, Progress

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STEPS = 10_000_000
"""Steps of an epoch that never ends, so that nothing is refreshed while time is taken."""
SEED = 0


def set_up_torch(device: str, threads: int) -> None:
    """So many threads in this process, and TF32 on a GPU, as in a run."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if device.startswith("cuda") else "highest")


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        method: ``swav`` or ``smog``.
        backbone: of both.
        crops: how many views of which side; the first two decide.
        hidden: width of the heads' hidden layer.
        groups: of the one head.
        batches: images a step on a CPU and on a GPU.
    """

    method: str
    backbone: BackboneConfig
    crops: tuple[tuple[int, int], ...]
    hidden: int
    groups: int
    batches: tuple[int, int]

    @property
    def large(self) -> bool:
        """Whether the ImageNet recipe is meant, and not that of CIFAR-10."""
        return self.crops[0][1] > 96

    @property
    def sizes(self) -> list[int]:
        """The side of each view."""
        return [size for count, size in self.crops for _ in range(count)]

    def batch(self, device: torch.device) -> int:
        """Images a step, unless told otherwise."""
        return self.batches[device.type == "cuda"]

    def network(self) -> torch.nn.Module:
        """The backbone as new."""
        torch.manual_seed(SEED)
        return build_backbone(self.backbone, max(self.sizes))

    def views(self, batch: int, device: torch.device) -> list[Tensor]:
        """Noise, as normalized views are: ``[B, 3, S, S]`` on the device."""
        generator = torch.Generator().manual_seed(SEED)
        return [torch.randn(batch, 3, size, size, generator=generator).to(device) for size in self.sizes]


SMALL, LARGE = BackboneConfig("resnet18", stem="small"), BackboneConfig("resnet50")
TOY = replace(SMALL, width=0.125)
CASES = {
    "swav, ResNet-18, 2x32": Case("swav", SMALL, ((2, 32),), 512, 512, (32, 512)),
    "swav, ResNet-18, 2x32 + 4x18": Case("swav", SMALL, ((2, 32), (4, 18)), 512, 512, (32, 512)),
    "smog, ResNet-18, 2x32": Case("smog", SMALL, ((2, 32),), 2048, 300, (32, 512)),
    "smog, ResNet-18, 2x32 + 4x18": Case("smog", SMALL, ((2, 32), (4, 18)), 2048, 300, (32, 512)),
    "swav, ResNet-50, 2x224 + 6x96": Case("swav", LARGE, ((2, 224), (6, 96)), 2048, 3000, (4, 128)),
    "smog, ResNet-50, 2x224 + 6x96": Case("smog", LARGE, ((2, 224), (6, 96)), 2048, 300, (4, 128)),
}
TOY_CASES = {
    "swav, toy, 2x16 + 2x8": Case("swav", TOY, ((2, 16), (2, 8)), 16, 20, (8, 8)),
    "smog, toy, 2x16": Case("smog", TOY, ((2, 16),), 16, 20, (8, 8)),
    "smog, toy, 2x16 + 2x8": Case("smog", TOY, ((2, 16), (2, 8)), 16, 20, (8, 8)),
}


def settings(case: Case, batch: int, precision: str, device: torch.device) -> PretrainConfig:
    """Our preset for such images, made alike to what lightly documents where the two differ."""
    images, side = (1_281_167, 375) if case.large else (50_000, 32)
    smog = case.method == "smog"
    preset = {"swav": "swav_imagenet_256", "smog": "smog_imagenet"}[case.method] if case.large else case.method
    planner = Planner(Facts(images, side), epochs=200, batch_size=batch, backbone=case.backbone.name)
    config = replace(METHODS[preset](planner), regularizer=None)
    if smog and not case.large:  # as published: our preset for small images has no second network
        published = METHODS["smog_imagenet"](Planner(Facts(images, side), epochs=200, batch_size=batch))
        parts = {
            name: getattr(published, name) for name in ("target", "groups", "assignment", "refresh", "temperature")
        }
        config = replace(config, **parts)
    roles: dict[str, Any] = {}
    if smog and len(case.sizes) == 2:  # one view predicts the other's group
        roles = {"student_views": (0,), "target_views": (1,), "grouped_views": (0,)}
    elif smog:
        roles = {"grouped_views": (0,)}
    scales = ((0.14, 1.0), (0.05, 0.14))  # SwAV's, and the defaults of lightly's transform
    crops = tuple(Crops(count, size, scale) for (count, size), scale in zip(case.crops, scales, strict=False))
    groups: Any = replace(config.groups, counts=(case.groups,))
    if isinstance(groups, LearnedGroupsConfig):
        groups = replace(groups, frozen_steps=0)
    return replace(
        config,
        views=ViewPlan(crops, mean=MEAN, std=STD, **roles),
        backbone=case.backbone,
        batch_norm_scope="resolution",
        projector=HeadConfig(hidden=(case.hidden,), width=128, last_batch_norm=smog),
        predictor=HeadConfig(hidden=(case.hidden,), width=128) if smog else None,
        groups=groups,
        memory=MemoryConfig(length=max(batch, lightly_models.SMOG_BANK), start_epoch=0) if smog else None,
        run=replace(config.run, precision=precision, device=str(device)),
    )


class Ours:
    """Coterie's step: what ``fit`` and the monitor do with each batch.

    ``config.run.compile`` says whether it is compiled; ``auto``, as in a long run: on a GPU. ``compiler`` is why it failed.
    """

    def __init__(self, config: PretrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.parts = build_parts(config, device, images=STEPS)
        compiled = choose_compile(config.run.compile, device, STEPS)
        self.compiler = (
            compile_parts(self.parts, config, Runtime(device, choose_autocast(config.run.precision, device)))
            if compiled
            else None
        )
        self.optimizer = config.optimizer.build(self.parts.student)
        self.monitor = Monitor(
            config.group_counts,
            config.assigned_rows,
            config.learning_rate,
            log_steps=config.run.log_steps,
            write=lambda record: None,
            device=device,
        )
        self.done = 1  # a refresh comes before step 0

    def steps(self, views: Iterable[list[Tensor]]) -> None:
        """A step for each list of views."""
        self.run(self._batches(views))

    def run(self, batches: Iterable[tuple[Progress, Batch]]) -> None:
        """A step for each batch."""
        fit(
            self.parts.student,
            self.parts.objective,
            self.monitor.timed(batches),
            self.optimizer,
            self.config.learning_rate.at,
            fill_batches=self._one,
            autocast=choose_autocast(self.config.run.precision, self.device),
            clip_grad_norm=self.config.clip_grad_norm,
            seed=self.config.seed,
            on_step_end=[self.monitor.on_step_end],
        )

    def _batches(self, views: Iterable[list[Tensor]]) -> Iterator[tuple[Progress, Batch]]:
        for each in views:
            index = torch.arange(len(each[0]), device=self.device)
            yield Progress(self.done, STEPS, STEPS * self.config.epochs), Batch(index, dict(enumerate(each)))
            self.done += 1

    def _one(self) -> Iterator[tuple[Progress, Batch]]:
        """One batch of noise for a memory that has to be filled before the first step."""
        views = [
            torch.randn(self.config.batch_size, 3, size, size, device=self.device) for size in self.config.views.sizes
        ]
        index = torch.arange(self.config.batch_size, device=self.device)
        yield Progress(0, STEPS, STEPS), Batch(index, dict(enumerate(views)))


PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "16-mixed": torch.float16}


class Lightly:
    """lightly's step, as its examples write it.

    Args:
        model: of ``lightly_models``, on the device.
        optimizer: of its own, or another.
        precision: ``float32``, ``bfloat16`` or ``16-mixed`` (with a scaler of gradients, as its trainer has then).
        channels_last: of network and views.
        compiled: the network through ``torch.compile``, as the option ``--compile-model`` of its benchmarks.
    """

    def __init__(
        self,
        model: lightly_models.SwAV | lightly_models.SMoG,
        optimizer: torch.optim.Optimizer,
        *,
        precision: str = "float32",
        channels_last: bool = False,
        compiled: bool = False,
    ) -> None:
        self.model, self.optimizer = model.train(), optimizer
        self.device = next(model.parameters()).device
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "16-mixed")
        self.channels_last = channels_last
        if channels_last:
            model.to(memory_format=torch.channels_last)
        if compiled:
            model.backbone.compile(dynamic=False)  # once for each size of crop, which is its faster way
        self.total = torch.zeros((), device=self.device)
        self.done = 0

    def steps(self, views: Iterable[list[Tensor]]) -> None:
        """A step for each list of views."""
        for each in views:
            self.step(each)

    def step(self, views: list[Tensor]) -> None:
        """One step; the views may still be in the host's memory, as a loader yields them."""
        views = [view.to(self.device) for view in views]
        if self.channels_last:
            views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        low = self.dtype is not None
        with torch.autocast(self.device.type, self.dtype) if low else contextlib.nullcontext():
            loss = self.model.loss(views, self.done).mean()
        self.total += loss.detach()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.done += 1


def lightly(
    case: Case, batch: int, device: torch.device, precision: str, *, best: bool = False, compiled: bool = False
) -> Lightly:
    """As documented, with the optimizer of the documented recipe; ``best``: channels-last, and compiled if asked for."""
    model = lightly_model(case, device)
    optimizer = model.large_optimizer(batch) if case.large else model.optimizer(batch)
    return Lightly(model, optimizer, precision=precision, channels_last=best, compiled=best and compiled)


def lightly_with_our_optimizer(case: Case, batch: int, device: torch.device, precision: str) -> Lightly:
    """As documented but for the optimizer, which is that of our preset."""
    model = lightly_model(case, device)
    config = settings(case, batch, "float32", device)
    optimizer = config.optimizer.build(model)
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate.at(Progress(1, STEPS, STEPS * config.epochs))
    return Lightly(model, optimizer, precision=precision)


def lightly_model(case: Case, device: torch.device) -> lightly_models.SwAV | lightly_models.SMoG:
    """Its modules around the network of the case; SMoG without the clustering."""
    network = case.network()
    kind = {"swav": lightly_models.SwAV, "smog": lightly_models.SMoG}[case.method]
    model = kind(network, network.num_features, hidden=case.hidden, groups=case.groups)
    if isinstance(model, lightly_models.SMoG):
        model.every = 0
    return model.to(device)


def again(views: list[Tensor], steps: int) -> Iterator[list[Tensor]]:
    """The same views, so many times."""
    return repeat(views, steps)
