"""Sharded networks: each process holds its part, and the trajectory is that of a full network on one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils import _pytree as tree

from coterie.cli.demo import write_patches
from coterie.config.toml import from_dict
from coterie.data.loading.loader import Loader
from coterie.data.sources.arrays import Arrays
from coterie.data.sources.builtin_photos import photo_patches
from coterie.distributed.fsdp import (
    ShardedStudent,
    full_norms,
    full_state_dict,
    full_tensor,
    gradient_norm,
    local_tensor,
    network_blocks,
    with_full_state,
)
from coterie.distributed.processes import rank, world_size
from coterie.errors import BadConfig
from coterie.grouping.teacher import MomentumTeacher
from coterie.training import checkpoint_io
from coterie.training.build import TrainingParts, build_parts
from coterie.training.loop import fit
from coterie.training.monitor import Monitor, NotFinite
from coterie.types import Batch
from tests.distributed.running import BATCH, CASES, IMAGES, carry, one_of
from tests.forkserver import start_processes
from tests.matrix.cells import SIDE

CHAIN = ((2, True, 0, 4), (1, False, 4, 5), (3, True, 5, 6))  # processes, sharded or not, from step, to step
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
POISONED = 3  # the step at which one process gets NaN
LARS = {"kind": "lars", "weight_decay": 1e-3, "trust": 0.1}
SHARDED: dict[str, tuple[str, dict[str, Any]]] = {
    "swav": (
        "swav",
        {"groups": {"kind": "learned", "counts": [8, 5], "frozen_steps": 4}, "optimizer": LARS, "clip_grad_norm": 0.5},
    ),
    "smog": ("smog", {"optimizer": {"kind": "sgd", "momentum": 0.9}, "batch_norm_scope": "joint"}),
    "dino": ("dino", {"clip_grad_norm": 0.1}),
    "frozen": ("frozen", {}),
    "heads": (
        "dino",
        {
            "backbone": CASES["dino"]["backbone"] | {"trainable": "none"},
            "optimizer": LARS | {"weight_decay": {"kind": "cosine", "peak": 1e-3, "final": 1e-2}, "layer_decay": 0.5},
        },
    ),
    "vit": (
        "dino",
        {
            "backbone": {"name": "test_vit", "channels": 1},
            "views": CASES["dino"]["views"] | {"crops": CASES["dino"]["views"]["crops"][:1]},
            "projector": {"hidden": [64], "width": 32, "batch_norm": False},
        },
    ),
}
LEAN: dict[str, dict[str, Any]] = {"vit": {"micro_batches": 2, "run": {"activation_checkpointing": True}}}


def carried(name: str, sharded: bool, start: int, until: int, state: dict[str, Any] | None) -> dict[str, Any]:
    """Run ``carry``; also returns the share of the networks' weights that this process holds."""
    case, changes = SHARDED[name]
    if sharded:
        changes = changes | LEAN.get(name, {})
        changes["run"] = changes.get("run", {}) | {"fsdp": True}
    held: list[float] = []
    done = carry(case, start, until, state, changes, lambda parts: held.append(here(parts)))
    return done | {"here": held[0]}


def here(parts: TrainingParts) -> float:
    """The share of the bytes of all networks' weights that this process holds."""
    target = parts.objective.target
    networks = [parts.student.encoder, *([target.network] if isinstance(target, MomentumTeacher) else [])]
    weights = [each for network in networks for each in network.parameters()]
    held = sum(local_tensor(each).untyped_storage().nbytes() for each in weights)
    return held / sum(each.numel() * each.element_size() for each in weights)


def poisoned() -> list[int]:
    """The last step that began here, and the step that this process reported as the first without a number."""
    config = from_dict(CASES["swav"] | {"run": {"fsdp": True}})
    parts = build_parts(config, images=IMAGES)
    trained = ShardedStudent(parts.student)
    monitor = Monitor(config.group_counts, BATCH, config.learning_rate, log_steps=2, write=lambda _: None)
    settings = {"batch_size": BATCH, "epochs": 3, "seed": 0, "rank": rank(), "world_size": world_size()}
    loader = Loader(Arrays(photo_patches("train", IMAGES, SIDE).images), config.views, **settings)
    last = [-1]

    def batches() -> Any:
        for progress, batch in loader.batches():
            last[0] = progress.step
            bad = progress.step == POISONED and rank() == 1
            yield progress, Batch(batch.index, {n: v * torch.nan if bad else v for n, v in batch.views.items()})

    try:
        optimizer, rate = config.optimizer.build(trained), config.learning_rate.at
        fit(trained, parts.objective, batches(), optimizer, rate, seed=0, on_step_end=[monitor.on_step_end])
    except NotFinite as error:
        return [last[0], error.details["step"]]
    return []


def _work(number: int, world: int, folder: str, start: int, until: int) -> None:
    with one_of(world, number, folder):
        states = torch.load(f"{folder}/before.pt", weights_only=True)
        done = {name: carried(name, True, start, until, states and states[name]["state"]) for name in SHARDED}
        reported: list[Any] = [None] * world
        own = {name: each["here"] for name, each in done.items()} | {"poisoned": poisoned() if world == 2 else []}
        dist.all_gather_object(reported, own)
        if number == 0:
            torch.save((done, reported), f"{folder}/after.pt")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """For each link of the chain: the results of the run, and what each process reported about itself."""
    states, links = None, []
    for world, sharded, start, until in CHAIN:
        if not sharded:
            states, reported = {n: carried(n, False, start, until, states and states[n]["state"]) for n in SHARDED}, []
        else:
            folder = tmp_path_factory.mktemp("link")
            torch.save(states, folder / "before.pt")
            start_processes(_work, (world, str(folder), start, until), nprocs=world)
            states, reported = torch.load(folder / "after.pt", weights_only=True)
        links.append((states, reported))
    return links


@pytest.mark.parametrize("name", SHARDED)
def test_sharded_and_full_networks_have_the_same_trajectory(name: str, chain: list[Any]) -> None:
    alone = carried(name, False, 0, CHAIN[-1][-1], None)
    losses = torch.tensor([loss for done, _ in chain for loss in done[name]["losses"]], dtype=torch.float64)
    torch.testing.assert_close(losses, torch.tensor(alone["losses"], dtype=torch.float64), **CLOSE)
    assert losses.std() > 1e-4, "nothing happened"
    ours, spec = tree.tree_flatten(chain[-1][0][name]["state"])
    expected, other = tree.tree_flatten(alone["state"])
    assert spec == other
    for mine, one in zip(ours, expected, strict=True):
        if isinstance(one, Tensor):
            torch.testing.assert_close(mine, one, **CLOSE)
        else:
            assert mine == one


@pytest.mark.parametrize("name", SHARDED)
def test_each_process_holds_its_share(name: str, chain: list[Any]) -> None:
    for (world, sharded, *_), (done, reported) in zip(CHAIN, chain, strict=True):
        if not sharded:
            assert done[name]["here"] == 1
        else:
            assert all(0.9 / world < each[name] < 1.2 / world for each in reported)


def test_if_one_gets_nan_both_stop_at_the_same_step(chain: list[Any]) -> None:
    assert [each["poisoned"] for each in chain[0][1]] == [[POISONED, POISONED]] * 2


@pytest.mark.parametrize(
    ("name", "count"),
    [("vit_small_patch16_224", 12), ("resnet50", 16), ("swin_tiny_patch4_window7_224", 12), ("convnext_tiny", 18)],
)
def test_the_blocks_that_are_gathered_one_at_a_time(name: str, count: int) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0)
    found = network_blocks(network)
    assert len(found) == count
    inside = {id(weight) for block in found for weight in block.parameters()}
    assert len(inside) == sum(len(list(block.parameters())) for block in found), "blocks contain each other"
    within = sum(weight.numel() for weight in network.parameters() if id(weight) in inside)
    assert within > 0.9 * sum(weight.numel() for weight in network.parameters())


def test_impossible_settings_are_refused_in_one_line() -> None:
    with pytest.raises(BadConfig, match=r"one process: start several with torchrun, or --set run.fsdp=false$"):
        build_parts(from_dict(CASES["swav"] | {"run": {"fsdp": True}}), images=IMAGES)
    with pytest.raises(BadConfig, match=r"^run.compile is 'always', but with run.fsdp=true"):
        from_dict(CASES["swav"] | {"run": {"fsdp": True, "compile": "always"}})


def test_norms_of_tensors_that_are_not_sharded_are_torchs() -> None:
    weights = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in ((3, 4), (5,), (2,))]
    for weight in weights[:2]:
        weight.grad = torch.randn_like(weight)
    gradients = [each for weight in weights if (each := weight.grad) is not None]
    sizes, slopes = full_norms(weights[:2], weights[:2], gradients)
    assert [each.item() for each in sizes] == [weight.norm().item() for weight in weights[:2]]
    assert [each.item() for each in slopes] == [gradient.norm().item() for gradient in gradients]
    expected = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    torch.testing.assert_close(gradient_norm(weights), expected)


def test_what_is_not_sharded_is_its_own_part_and_its_own_whole() -> None:
    weight = torch.randn(3)
    assert local_tensor(weight) is weight
    assert full_tensor(weight) is weight
    assert full_state_dict({"weight": weight, "steps": [1, 2]}) == {"weight": weight, "steps": [1, 2]}


def test_a_loaded_state_gets_the_layout_of_its_weights() -> None:
    """The fused optimizers read memory as it lies; a file of safetensors or of shards has rows."""
    weight = nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = with_full_state(torch.optim.SGD([weight], lr=0.1, momentum=0.9))
    buffer = torch.randn(4, 3, 2, 2)
    state = optimizer.state_dict() | {"state": {0: {"momentum_buffer": buffer}}}
    optimizer.load_state_dict(state)
    loaded = optimizer.state[weight]["momentum_buffer"]
    assert loaded.stride() == weight.stride() != buffer.stride()
    assert torch.equal(loaded, buffer)


def test_the_command(tmp_path: Path) -> None:
    """Snapshots, probe, weights and report are of the full network, as one process would write them."""
    images, labeled, out = tmp_path / "patches.parquet", tmp_path / "labeled.parquet", tmp_path / "out"
    for path in (images, labeled):
        write_patches(path, photo_patches("train", 66, 16))
    settings = (
        "views.crops.0.size=16 views.crops.1.size=8 backbone.width=0.125 groups.counts=[8] memory=none run.threads=1"
    )
    settings += f' run.fsdp=true run.workers=0 run.snapshots=1 run.log_steps=4 probe.train=["{labeled}"]'
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "coterie"]
    command = ["pretrain", "swav", str(images), "--out", str(out), "--epochs", "1", "--batch-size", "16"]
    given = [part for setting in settings.split() for part in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run([*launch, *command, *given], text=True, capture_output=True, env=environment, timeout=400)
    assert run.returncode == 0, run.stderr
    weights = safetensors.torch.load_file(out / "model.safetensors")
    _, state, _ = checkpoint_io.load(out / "checkpoint")
    assert state is not None
    student = {name.removeprefix("encoder.backbone."): each for name, each in state["student"].items()}
    assert all(torch.equal(each, student[name]) for name, each in weights.items())
    seen = safetensors.torch.load_file(out / "snapshots" / "epoch-0001.safetensors")
    assert all(torch.equal(each.to(seen[name].dtype), seen[name]) for name, each in weights.items())
    assert {each.dtype for each in seen.values()} >= {torch.bfloat16, torch.float32}, (
        "running statistics stay as they are"
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("knn" in line for line in lines)
    assert any("label_free" in line for line in lines)
    assert (out / "report.html").stat().st_size > 1000
