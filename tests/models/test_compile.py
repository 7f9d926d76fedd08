import copy
import shutil
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch._inductor import config as inductor

from coterie.models.backbone import BackboneConfig, build_backbone
from coterie.models.compile import compile_passes
from coterie.models.encoder import BatchNormScope, Encoder, target_copy
from coterie.models.head import Head, HeadConfig
from coterie.models.joint_batch_norm import join_views

SCOPES: list[BatchNormScope] = ["resolution", "joint", "view"]


@pytest.fixture(autouse=True)
def from_nothing():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def encoder(scope: BatchNormScope = "resolution") -> Encoder:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)]
    heads = Head(8, HeadConfig((12,), 6)), Head(6, HeadConfig((8,), 6))
    return Encoder(nn.Sequential(*layers, nn.Flatten()), *heads, batch_norm_scope=scope)


def views(*sizes: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, size, size, generator=generator) * (1 + v) + v for v, size in enumerate(sizes)]


def trained(student: Encoder, steps: int = 4) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and state after a few steps of plain gradient descent."""
    optimizer, losses = torch.optim.SGD(student.parameters(), lr=0.05), []
    for step in range(steps):
        h, _, p = student(views(12, 12, 8, seed=step))
        loss = (p[0] - p[1:]).square().sum() + h.square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, student.state_dict()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch's compiler needs g++ for the CPU, and there is none")
@pytest.mark.parametrize("scope", SCOPES)
def test_compiled_and_plain_passes_have_the_same_losses_and_state(scope: BatchNormScope) -> None:
    """With inductor itself; losses agree to 1e-4 after four steps in float32, and no pass is compiled twice."""
    plain, quick = encoder(scope), encoder(scope)
    teacher = target_copy(quick)
    before = copy.deepcopy(quick.state_dict())
    assert compile_passes([(quick, views(12, 12, 8)), (teacher, views(12, 12, 8))]) is None
    torch.testing.assert_close(quick.state_dict(), before, rtol=0, atol=0)
    assert all(each.grad is None for each in quick.parameters())
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled == (2 if scope == "joint" else 4)  # one per resolution for each of the two networks
    (losses, saved), (expected, theirs) = trained(quick), trained(plain)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert list(saved) == list(theirs)
    torch.testing.assert_close(saved, theirs, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        teacher(views(12, 12, 8))
        quick(views(12))  # filling passes and evaluation are not compiled
    quick.eval()(views(10, 6))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_failing_compiler_is_reported_once_and_nothing_is_compiled(capfd: pytest.CaptureFixture[str]) -> None:
    plain, quick = encoder(), encoder()
    with inductor.patch({"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True}):
        reason = compile_passes([(quick, views(12, 12, 8))])
        assert trained(quick)[0] == trained(plain)[0]
    assert reason is not None
    assert "No working C++ compiler" in reason
    assert "\n" not in reason
    assert capfd.readouterr().err == ""


def test_running_out_of_memory_is_no_failure_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    quick = encoder()
    quick.projector.register_forward_hook(full)
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    with pytest.raises(torch.OutOfMemoryError):
        compile_passes([(quick, views(12))])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_small_patch16_224"])
def test_backbones_are_one_graph(name: str) -> None:
    """``fullgraph`` raises at the first graph break; what follows the graph is left to torch."""
    network = build_backbone(BackboneConfig(name), 64)
    quick = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    for _ in range(2):
        for size in (64, 32):
            quick(torch.randn(2, 3, size, size)).sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_joined_backbone_is_one_graph() -> None:
    network = join_views(build_backbone(BackboneConfig("resnet18", width=0.25), 64), 2)
    quick = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    for _ in range(2):
        sum(each.sum() for each in quick(torch.randn(4, 3, 64, 64), torch.randn(6, 3, 32, 32))).backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert torch._dynamo.utils.counters["graph_break"] == Counter()
