import math

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor

from coterie.errors import UserError
from coterie.evaluation.label_free import (
    EPSILON,
    LIDAR_DELTA,
    STABILITY_NEIGHBORS,
    agreement,
    agreement_above_chance,
    alpha_req,
    effective_rank,
    group_perplexity,
    label_free,
    lidar,
    rankme,
    spread,
    stability,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rows_with(singular_values: Tensor, count: int, width: int, centered: bool = False) -> Tensor:
    """Rows that have exactly these singular values, and no mean if they are to be centered."""
    left = random(count, len(singular_values), seed=1)
    left = torch.linalg.qr(left - left.mean(dim=0) if centered else left).Q
    right = torch.linalg.qr(random(width, len(singular_values), seed=2)).Q
    return left * singular_values @ right.T


def in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.grouping.chunks.CHUNK_ELEMENTS", 70)


def test_rankme_of_a_known_spectrum() -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    entropy = 0.5 * math.log(2) + 0.25 * math.log(4) + 2 * 0.125 * math.log(8)
    assert rankme(rows_with(values, 30, 4), epsilon=0) == pytest.approx(math.exp(entropy), rel=1e-12)
    share = values.numpy() / 8 + 1e-7
    assert rankme(rows_with(values, 30, 4)) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-12)


def test_rankme_adds_its_epsilon_to_every_share_even_if_it_is_zero() -> None:
    share = np.array([1, 0, 0, 0, 0]) + 0.01
    rows = rows_with(torch.tensor([3.0], dtype=torch.float64), 9, 5)
    assert rankme(rows, epsilon=0.01) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)


def test_effective_rank_is_computed_from_the_shares_of_variance() -> None:
    rows = rows_with(torch.tensor([2.0, 1.0, 1.0, 0.5], dtype=torch.float64), 40, 6, centered=True) + 7
    share = np.array([4, 1, 1, 0.25]) / 6.25
    assert effective_rank(rows) == pytest.approx(np.exp(scipy.stats.entropy(share)), rel=1e-9)
    assert rankme(rows) < 1.3 < effective_rank(rows)  # for RankMe the mean is one direction that outweighs all others


def test_ranks_are_those_of_numpy_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((300, 7), (5, 40), (17, 17)):
        rows = random(*shape) + 0.3
        values = np.linalg.svd(rows.numpy(), compute_uv=False)
        variances = np.linalg.eigvalsh(np.cov(rows.numpy().T))
        variances = variances[variances > 1e-9]
        for small in (False, True):
            with monkeypatch.context() as patch:
                if small:
                    in_small_chunks(patch)
                assert rankme(rows, epsilon=0) == pytest.approx(np.exp(scipy.stats.entropy(values)), rel=1e-9)
                assert effective_rank(rows) == pytest.approx(np.exp(scipy.stats.entropy(variances)), rel=1e-9)


def test_rounding_errors_of_float32_are_not_directions() -> None:
    rows = rows_with(torch.tensor([3.0, 2.0], dtype=torch.float64), 500, 64, centered=True).float()
    assert effective_rank(rows) == pytest.approx(np.exp(scipy.stats.entropy([9, 4])), rel=1e-4)
    assert alpha_req(rows) is None


@pytest.mark.parametrize(("alpha", "width"), [(0.7, 120), (1.0, 30), (2.5, 12), (1.3, 3)])
def test_alpha_is_the_exponent_of_a_power_law(alpha: float, width: int) -> None:
    variances = torch.arange(1, width + 1, dtype=torch.float64) ** -alpha
    found = alpha_req(rows_with(variances.sqrt(), 150, width, centered=True) + 2)
    assert found == pytest.approx(alpha, rel=1e-6)


def test_alpha_is_fitted_over_the_documented_ranks() -> None:
    variances = np.arange(1, 61.0) ** -1.2 * np.random.default_rng(0).uniform(0.5, 2, 60)
    variances = np.sort(variances)[::-1].copy()
    rows = rows_with(torch.from_numpy(variances).sqrt(), 100, 60, centered=True)
    ranks = np.arange(7, 55)  # of 60: from 1 + 6 to 60 - 6
    slope = np.polyfit(np.log(ranks), np.log(variances[ranks - 1]), 1, w=ranks**-0.5)[0]
    assert alpha_req(rows) == pytest.approx(-slope, rel=1e-6)


def lidar_by_scipy(views: np.ndarray, delta: float, epsilon: float) -> float:
    count, images, width = views.shape
    means = views.mean(axis=0)
    between = np.cov(means.T, bias=True)
    within = delta * np.eye(width)
    for image in range(images):
        for view in range(count):
            apart = views[view, image] - means[image]
            within += np.outer(apart, apart) / (count * images)
    root = scipy.linalg.inv(scipy.linalg.sqrtm(within))
    values = np.linalg.eigvalsh(root @ between @ root).clip(min=0)
    share = values / values.sum() + epsilon
    return float(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize("shape", [(4, 50, 6), (2, 5, 12), (7, 30, 3)])
def test_lidar_is_the_rank_of_the_discriminant_matrix(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.logspace(-2, 0, shape[2], dtype=torch.float64)
    views = random(*shape[1:]) + 3 + random(*shape, seed=1) * noise
    in_small_chunks(monkeypatch)
    assert lidar(views) == pytest.approx(lidar_by_scipy(views.numpy(), 1e-4, 1e-7), rel=1e-5)
    assert lidar(views, delta=0.3, epsilon=0.01) == pytest.approx(lidar_by_scipy(views.numpy(), 0.3, 0.01), rel=1e-5)


def test_lidar_does_not_count_directions_that_augmentation_moves_as_much_as_images() -> None:
    images = random(200, 8) * torch.tensor([1.0] * 4 + [0.02] * 4)
    noise = torch.tensor([0.05] * 4 + [0.5] * 4)
    views = images + random(10, 200, 8, seed=3) * noise
    assert rankme(views.flatten(0, 1)) > 7
    assert lidar(views) == pytest.approx(4, abs=0.3)


def test_agreement_counts_the_pairs_of_views() -> None:
    groups = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0], [0, 1, 0, 1]])  # 3 views of 4 images
    assert agreement(groups) == pytest.approx((3 + 3 + 1 + 0) / 12)


def test_agreement_above_chance_is_fleiss_kappa() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 3, (4, 4000), generator=generator)
    assert abs(agreement_above_chance(groups, 3) or 0) < 0.02
    groups[1:] = torch.where(torch.rand(3, 4000, generator=generator) < 0.7, groups[0], groups[1:])
    counts = torch.stack([(groups == group).sum(dim=0) for group in range(3)], dim=1).numpy()
    seen = ((counts**2).sum(axis=1) - 4).mean() / (4 * 3)
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    assert agreement_above_chance(groups, 3) == pytest.approx((seen - chance) / (1 - chance))
    assert agreement(groups) == pytest.approx(seen)


def test_perplexity_of_groups() -> None:
    assert group_perplexity(torch.arange(6).repeat(3), 6) == pytest.approx(6)
    assert group_perplexity(torch.full((3, 5), 2), 6) == 1
    assert group_perplexity(torch.tensor([0, 0, 0, 1]), 6) == pytest.approx(np.exp(scipy.stats.entropy([3, 1])))


def test_spread_depends_on_directions_only() -> None:
    assert spread(torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0], [0.0, -0.1]])) == 1
    assert spread(torch.tensor([[1.0, 0.0], [5.0, 0.0]])) == 0
    assert spread(torch.tensor([[1.0, 0.0], [0.0, 7.0]])) == pytest.approx(math.sqrt(0.5))
    assert spread(torch.zeros(5, 3)) == 0
    assert spread(torch.tensor([[0.0, 0.0], [0.0, 7.0]])) == pytest.approx(math.sqrt(0.5))


def test_spread_is_that_of_the_log_for_unit_rows() -> None:
    unit = torch.nn.functional.normalize(random(50, 4) + 0.5, dim=1)
    assert spread(unit) == pytest.approx(math.sqrt(1 - unit.mean(dim=0).square().sum()))


def common_by_hand(now: np.ndarray, then: np.ndarray, k: int) -> float:
    nearest = []
    for rows in (now, then):
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        scores = unit @ unit.T
        np.fill_diagonal(scores, -2)
        nearest.append([set(each[-k:]) for each in scores.argsort(axis=1)])
    return float(np.mean([len(a & b) / k for a, b in zip(*nearest, strict=True)]))


@pytest.mark.parametrize("moved", [0.1, 1.0, 30.0])
def test_stability_is_the_share_of_common_neighbors(moved: float, monkeypatch: pytest.MonkeyPatch) -> None:
    then = random(90, 5)
    now = then + moved * random(90, 5, seed=4)
    in_small_chunks(monkeypatch)
    assert stability(now, then, k=4) == pytest.approx(common_by_hand(now.numpy(), then.numpy(), 4))


def test_stability_is_one_if_nothing_changes_even_with_copies_of_every_image() -> None:
    rows = random(40, 6)
    assert stability(rows, 3 * rows) == 1
    assert stability(rows, rows @ torch.linalg.qr(random(6, 6, seed=5)).Q) == 1
    twins = rows.repeat(30, 1)  # each row's own place need not be among its nearest
    assert 0 < (stability(twins, twins.clone()) or 0) <= 1


def test_stability_is_undefined_for_few_images_and_for_a_collapse() -> None:
    assert stability(random(11, 4), random(11, 4), k=10) is None
    assert stability(random(12, 4), random(12, 4), k=10) == 1
    assert stability(torch.ones(50, 4), random(50, 4)) is None
    assert stability(random(50, 4), torch.ones(50, 4)) is None


def test_all_metrics_together() -> None:
    rows, views = random(60, 8), random(3, 60, 8, seed=1)
    groups = torch.randint(0, 5, (3, 60), generator=torch.Generator().manual_seed(2))
    figures = label_free(rows, views, groups, 5, rows + 0.1)
    assert figures == {
        "rankme": rankme(rows),
        "effective_rank": effective_rank(rows),
        "alpha_req": alpha_req(rows),
        "lidar": lidar(views),
        "spread": spread(rows),
        "stability": stability(rows, rows + 0.1),
        "agreement": agreement(groups),
        "agreement_above_chance": agreement_above_chance(groups, 5),
        "perplexity": group_perplexity(groups, 5),
        "perplexity_share": group_perplexity(groups, 5) / 5,
    }
    few = label_free(rows[:2], views[:, :2], groups[:, :2], 100)
    assert few["perplexity_share"] == few["perplexity"] / 6  # six assignments cannot use more than six groups


@pytest.mark.parametrize(
    ("rows", "views"),
    [
        (torch.ones(20, 5), torch.ones(4, 20, 5)),
        (torch.full((20, 5), 0.1), torch.full((4, 20, 5), 0.1)),
        (torch.zeros(20, 5), torch.zeros(4, 20, 5)),
        (torch.randn(3, 50), torch.randn(4, 3, 50)),
        (torch.randn(20, 5), torch.randn(1, 20, 5)),
        (torch.randn(1, 5), torch.randn(1, 1, 5)),
        (torch.randn(20, 1), torch.randn(2, 20, 1)),
        (1e30 * torch.randn(20, 5), 1e30 * torch.randn(2, 20, 5)),
    ],
    ids=["equal", "equal, not exact", "dead", "few rows", "one view", "one image", "one dimension", "huge"],
)
def test_degenerate_embeddings_give_a_finite_number_or_nothing(rows: Tensor, views: Tensor) -> None:
    groups = torch.zeros(views.shape[:2], dtype=torch.int64)
    figures = label_free(rows, views, groups, 7, rows.clone())
    assert all(math.isfinite(value) for value in figures.values())
    assert ("lidar" in figures) == ("agreement" in figures) == (len(views) > 1)
    assert "stability" not in figures or figures["stability"] == 1
    assert figures["perplexity"] == 1
    assert figures.get("agreement_above_chance", 0) == 0


@pytest.mark.parametrize("value", [1.0, 0.1, 0.0])
def test_a_collapse_shows_in_every_metric(value: float) -> None:
    figures = label_free(torch.full((99, 7), value), torch.full((2, 99, 7), value))
    assert figures == {
        "rankme": pytest.approx(1 if value else 0, abs=1e-4),
        "effective_rank": 0,
        "lidar": 0,
        "spread": pytest.approx(0, abs=1e-6),
    }


@pytest.mark.parametrize("place", ["images", "views", "earlier"])
def test_embeddings_that_are_not_finite_are_refused(place: str) -> None:
    rows, views, earlier = random(20, 4), random(2, 20, 4), random(20, 4)
    {"images": rows[3], "views": views[1, 3], "earlier": earlier[3]}[place][1] = float("nan")
    with pytest.raises(UserError, match=f"NaN or infinity in 1 of .*{place}"):
        label_free(rows, views, earlier=earlier)


def test_no_embeddings_are_refused() -> None:
    with pytest.raises(UserError, match="no embeddings"):
        label_free(torch.zeros(0, 4), torch.zeros(2, 0, 4))


def test_published_constants() -> None:
    assert (EPSILON, LIDAR_DELTA, STABILITY_NEIGHBORS) == (1e-7, 1e-4, 10)
