import itertools

import pytest
import torch
from torch.nn import functional as F

from coterie.grouping.assignment import Sinkhorn, assign
from coterie.grouping.batch_objective import BatchGroupsConfig, BatchObjective, Identity
from coterie.types import Batch, Progress, Roles

AT = Progress(0, 10, 100)


def rows(views: int, images: int = 6, width: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(views, images, width, generator=generator, dtype=torch.float64), dim=-1)


def batch(views: int, images: int = 6) -> Batch:
    return Batch(torch.arange(images), {view: torch.zeros(images, 1, 1, 1) for view in range(views)})


def test_two_views_are_nt_xent() -> None:
    """The oracle is torch's own cross-entropy over 2B - 1 candidates."""
    z = rows(2)
    objective = BatchObjective(Identity(), Roles((0, 1), (0,), (0,)), temperature=0.2, gradient=True)
    loss = objective(lambda _: (z, z, z), batch(2), AT).loss
    flat = z.flatten(0, 1)
    logits = (flat @ flat.T / 0.2).masked_fill(torch.eye(12, dtype=torch.bool), -torch.inf)
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.arange(12).roll(6)))


@pytest.mark.parametrize("gradient", [True, False])
def test_gradient_through_the_centers_is_optional(gradient: bool) -> None:
    z = rows(3).requires_grad_()
    p = rows(3, seed=1)
    objective = BatchObjective(Identity(), Roles((0, 1, 2), (0,), (0,)), gradient=gradient)
    loss = objective(lambda _: (z, z, p), batch(3), AT).loss
    assert loss.requires_grad == gradient


def test_resa_predicts_the_assignment_of_the_first_views_features_by_every_other_view() -> None:
    """methods.md, 2.8: all pairs share the codes; the columns are the other view's embeddings."""
    h, z, p = rows(3, width=12), rows(3), rows(3, seed=1)
    objective = BatchObjective(Sinkhorn(0.05, 3), Roles((0, 1, 2), (0, 1), (0, 1)), temperature=0.4)
    result = objective(lambda _: (5 * h, z, p), batch(3), AT)
    codes = assign(Sinkhorn(0.05, 3), h[0] @ h[0].T)
    terms = [F.cross_entropy(p[q] @ z[v].T / 0.4, codes) for v in (0, 1) for q in range(3) if q != v]
    torch.testing.assert_close(result.loss, torch.stack(terms).mean())


def test_it_keeps_no_state() -> None:
    objective = BatchObjective(Identity(), Roles((0, 1), (0, 1), (0, 1)))
    assert not objective.state_dict()
    assert not objective.needs_fill()
    assert not objective.refresh_due(AT)


def test_with_three_views_only_one_view_of_the_own_image_is_among_the_candidates() -> None:
    """SwAV, appendix A.8: the row's other views are neither positives nor negatives; written out pair by pair."""
    z, tau = rows(3, images=4), 0.3
    loss = BatchObjective(Identity(), Roles((0, 1, 2), (0,), (0,)), temperature=tau)(
        lambda _: (z, z, z), batch(3, 4), AT
    ).loss
    terms = []
    for view, other, image in itertools.product(range(3), range(3), range(4)):
        if other != view:
            negatives = torch.stack([z[v, i] for v in range(3) for i in range(4) if i != image])
            logits = torch.cat([z[other, image, None], negatives]) @ z[view, image] / tau
            terms.append(-logits.log_softmax(dim=0)[0])
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_defaults() -> None:
    """methods.md, 2.8 and A.8: tau is 0.1 unless it is ReSA's, and only SimCLR's gradient flows through the centers."""
    objective = BatchObjective(Identity(), Roles((0, 1), (0, 1), (0, 1)))
    assert (objective.temperature, objective.gradient, BatchGroupsConfig().gradient) == (0.1, False, False)
