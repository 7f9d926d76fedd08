import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from coterie.grouping.log_partition import log_partition
from coterie.grouping.loss import prediction_loss
from coterie.types import Target

VIEWS, IMAGES, GROUPS, WIDTH = 3, 11, 13, 6


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images at a time, so that the last part is a smaller one."""
    monkeypatch.setattr("coterie.grouping.log_partition.CHUNK_ELEMENTS", 0)
    monkeypatch.setattr("coterie.grouping.chunks.CPU_ELEMENTS", 2 * VIEWS * GROUPS)


def made() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(VIEWS, IMAGES, WIDTH, generator=generator, dtype=torch.float64), dim=-1) / 0.1
    centers = F.normalize(torch.randn(GROUPS, WIDTH, generator=generator, dtype=torch.float64), dim=-1)
    exclude = torch.rand(IMAGES, GROUPS, generator=generator) < 0.4
    return rows.requires_grad_(), centers.requires_grad_(), exclude


@pytest.mark.parametrize("masked", [False, True])
def test_chunks_give_torchs_logsumexp_and_its_gradients(in_parts: None, masked: bool) -> None:
    rows, centers, exclude = made()
    weights = torch.rand(VIEWS, IMAGES, dtype=torch.float64)
    logits = rows @ centers.T
    whole = (logits.masked_fill(exclude, -torch.inf) if masked else logits).logsumexp(dim=-1)
    ours = log_partition(rows, centers, exclude if masked else None)
    torch.testing.assert_close(ours, whole, rtol=1e-13, atol=0)
    found, expected = (torch.autograd.grad((each * weights).sum(), (rows, centers)) for each in (ours, whole))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_gradcheck(in_parts: None) -> None:
    rows, centers, exclude = made()
    assert torch.autograd.gradcheck(lambda r, c: log_partition(r, c, exclude), (rows, centers))


def test_few_logits_are_computed_at_once_with_the_same_result() -> None:
    rows, centers, exclude = made()
    whole = log_partition(rows, centers, exclude)
    torch.testing.assert_close(whole, (rows @ centers.T).masked_fill(exclude, -torch.inf).logsumexp(dim=-1))


def test_a_row_without_any_center_has_no_gradient(in_parts: None) -> None:
    rows, centers, exclude = made()
    exclude[4] = True
    found = log_partition(rows, centers, exclude)
    assert (found[:, 4] == -torch.inf).all()
    found[:, :4].sum().backward()
    assert centers.grad.isfinite().all()
    assert (rows.grad[:, 4] == 0).all()


def test_centers_without_gradient_get_none(in_parts: None) -> None:
    rows, centers, _ = made()
    log_partition(rows, centers.detach()).sum().backward()
    assert rows.grad.abs().sum() > 0
    assert centers.grad is None


def test_the_loss_in_chunks_is_the_loss(in_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, centers, _ = made()
    predictions = rows.detach().mul(0.1).requires_grad_()
    codes = torch.rand(IMAGES, GROUPS, dtype=torch.float64).softmax(dim=1)
    targets = [Target(codes, 0, 0), Target(torch.arange(IMAGES) - 1, 0, 1), Target(codes.argmax(dim=1), 0, None)]
    targets[1].values[0] = -100
    found = []
    for most in (0, 10**9):
        monkeypatch.setattr("coterie.grouping.log_partition.CHUNK_ELEMENTS", most)
        loss = prediction_loss(predictions, [centers], targets, 0.1, range(VIEWS))
        found.append((loss, *torch.autograd.grad(loss, (predictions, centers))))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)
