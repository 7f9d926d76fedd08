"""A batch that goes through the network in parts: what is learned of it is what is learned of the whole."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from coterie.config.toml import from_dict
from coterie.errors import BadConfig
from coterie.grouping.teacher import MomentumTeacher
from coterie.models.activation_checkpointing import enable_activation_checkpointing, freeze_running_stats
from coterie.models.encoder import Encoder
from coterie.training.build import TrainingParts, build_parts
from tests.distributed.running import BATCH, CASES, IMAGES, carry, one_of
from tests.forkserver import start_processes

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
SIDE = 16


def without_batch_norm(parts: TrainingParts) -> None:
    """In place of every batch norm a norm that looks at one image only."""
    target = parts.objective.target
    for network in (parts.student.encoder, *([target.network] if isinstance(target, MomentumTeacher) else [])):
        for module in list(network.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d):
                    setattr(module, name, nn.GroupNorm(2, child.num_features))


@pytest.mark.parametrize("case", [case for case in CASES if case != "smog_gradient"])
def test_parts_of_a_batch_learn_what_the_whole_batch_teaches(case: str) -> None:
    steps = 5  # of three an epoch: a refresh and a full queue are among them
    whole = carry(case, 0, steps, None, adapt=without_batch_norm)
    parts = carry(case, 0, steps, None, {"micro_batches": 3}, without_batch_norm)
    torch.testing.assert_close(torch.tensor(parts["losses"]), torch.tensor(whole["losses"]), **CLOSE)
    assert torch.tensor(whole["losses"]).std() > 1e-4, "nothing happened"
    for mine, other in zip(*(each["state"]["student"].values() for each in (parts, whole)), strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)


ALIKE = ("swav", "smog_gradient", "simclr")


def test_parts_on_one_process_are_processes_that_share_no_batch_norms(tmp_path: Path) -> None:
    start_processes(_work, (str(tmp_path),), nprocs=2)
    apart = torch.load(tmp_path / "after.pt", weights_only=True)
    for case in ALIKE:
        one = carry(case, 0, 5, None, {"micro_batches": 2})
        torch.testing.assert_close(torch.tensor(one["losses"]), torch.tensor(apart[case]["losses"]), **CLOSE)
        for name, value in one["state"]["student"].items():
            if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):
                torch.testing.assert_close(value, apart[case]["state"]["student"][name], **CLOSE)


def _work(number: int, folder: str) -> None:
    with one_of(2, number, folder):
        done = {case: carry(case, 0, 5, None, {"batch_norm_processes": 1}) for case in ALIKE}
        if number == 0:
            torch.save(done, f"{folder}/after.pt")


def _encoder(**changes: Any) -> Encoder:
    return build_parts(from_dict(CASES["swav"] | changes), images=IMAGES).student.encoder


def _views(images: int = BATCH) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, 1, side, side, generator=generator) for side in (SIDE, SIDE, 8, 8)]


def _step(encoder: Encoder, views: list[Tensor]) -> dict[str, Tensor]:
    h, _, p = encoder(views)
    with freeze_running_stats(encoder):
        (h.square().mean() + p[0].sum(dim=0).square().mean()).backward()
    return {name: each.grad for name, each in encoder.named_parameters() if each.grad is not None}


def test_what_is_computed_again_is_counted_once() -> None:
    views, parts = _views(), 4
    encoder, other = _encoder(micro_batches=parts), _encoder()
    _step(encoder, views)
    with torch.no_grad():
        for part in zip(*(view.chunk(parts) for view in views), strict=True):
            other(list(part))
    counted = dict(other.named_buffers())
    assert len(counted) > 30
    for name, buffer in encoder.named_buffers():
        torch.testing.assert_close(buffer, counted[name], rtol=0, atol=0)
    assert all(norm.momentum == 0.1 for norm in encoder.modules() if isinstance(norm, nn.BatchNorm2d))


def test_without_a_predictor_the_embeddings_of_all_parts_are_the_predictions() -> None:
    _, z, p = _encoder(micro_batches=4)(_views())
    assert p is z  # so a regularizer's gradient is measured as without parts


@pytest.mark.parametrize("changes", [{"micro_batches": 2}, {"run": {"activation_checkpointing": True}}])
def test_the_second_time_drops_out_what_the_first_did(changes: dict[str, Any]) -> None:
    config = CASES["swav"] | {"backbone": CASES["swav"]["backbone"] | {"drop_path": 0.5}}
    encoder = build_parts(from_dict(config | changes), images=IMAGES).student.encoder
    plain = build_parts(from_dict(config), images=IMAGES).student.encoder
    views = _views()
    torch.manual_seed(5)
    gradients = _step(encoder, views)
    torch.manual_seed(5)
    if encoder.micro_batches == 1:
        expected = _step(plain, views)
    else:  # remembered, not computed again
        parts = [plain([view.chunk(2)[number] for view in views]) for number in range(2)]
        h, _, p = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        (h.square().mean() + p[0].sum(dim=0).square().mean()).backward()
        expected = {name: each.grad for name, each in plain.named_parameters() if each.grad is not None}
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


class _Held(TorchDispatchMode):
    """How many bytes that operations made are there at most at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most, self.known = 0, 0, weakref.WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in torch.utils._pytree.tree_leaves(result):
            if isinstance(each, Tensor) and (storage := each.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return result

    def _freed(self, size: int) -> None:
        self.now -= size


def _most_held(make: Callable[[], Encoder]) -> int:
    encoder, views = make(), _views(48)
    with _Held() as held:
        _step(encoder, views)
    return held.most


def test_less_is_remembered() -> None:
    whole = _most_held(_encoder)
    assert _most_held(lambda: _encoder(micro_batches=4)) < 0.5 * whole
    assert _most_held(lambda: _encoder(run={"activation_checkpointing": True})) < 0.7 * whole


def test_networks_that_cannot() -> None:
    with pytest.raises(BadConfig, match="micro_batches"):
        enable_activation_checkpointing(nn.Sequential(nn.Flatten()))
    with pytest.raises(BadConfig, match="in each block"):
        from_dict(CASES["smog_gradient"] | {"run": {"activation_checkpointing": True}})
    with pytest.raises(BadConfig, match="at least 2 images each"):
        from_dict(CASES["swav"] | {"micro_batches": BATCH})
