import math

import pytest
import torch
from torch.nn import functional as F

from coterie.config.kinds import KINDS as NAMES
from coterie.config.toml import from_dict, to_dict
from coterie.errors import BadConfig
from coterie.grouping.regularizers import (
    CodingRate,
    KoLeo,
    MeanEntropy,
    Regularizer,
    Uniformity,
    VarianceCovariance,
    mean_entropy_loss,
)
from tests.grouping.unit_rows import KINDS, unit
from tests.matrix.cells import Cell, settings_of


def of(regularizer: Regularizer, z: torch.Tensor) -> torch.Tensor:
    return regularizer(z, z, [unit(5, z.shape[2], seed=1).to(z.dtype)], 0.1)


def test_mean_entropy_by_hand() -> None:
    """Two rows at the two centers, tau -> 0: the mean is (1/2, 1/2) and the loss 0; both at one center: ln 2."""
    centers = [torch.eye(2, dtype=torch.float64)]
    spread, collapsed = torch.eye(2, dtype=torch.float64)[None], torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]).double()
    assert mean_entropy_loss(spread, centers, 0.01).item() == pytest.approx(0, abs=1e-12)
    assert mean_entropy_loss(collapsed, centers, 0.01).item() == pytest.approx(math.log(2))
    both = mean_entropy_loss(collapsed, [*centers, torch.ones(2, 2, dtype=torch.float64)], 0.01)
    assert both.item() == pytest.approx(math.log(2) / 2), "the mean over the heads"


def test_the_coding_rate_by_hand() -> None:
    """Directions used alike: 0. One direction: the rate of a single eigenvalue, ``1/2 ln(1 + D / distortion)``."""
    even, one = torch.eye(4, dtype=torch.float64)[None], torch.eye(4, dtype=torch.float64)[None, :1].expand(1, 4, 4)
    assert of(CodingRate(), even).item() == pytest.approx(0, abs=1e-12)
    assert of(CodingRate(), one).item() == pytest.approx(2 * math.log(1 + 1 / 0.2) - math.log(1 + 4 / 0.2) / 2)
    z = unit(3, 7, 4)
    for images in (7, 3):  # more and fewer than dimensions
        some = z[:, :images]
        rates = [torch.linalg.slogdet(torch.eye(4) + 4 / (images * 0.5) * view.T @ view).logabsdet / 2 for view in some]
        expected = 2 * math.log(1 + 1 / 0.5) - torch.stack(rates).mean()
        torch.testing.assert_close(of(CodingRate(distortion=0.5), some), expected)


def test_variance_and_covariance_by_definition() -> None:
    z, terms = unit(2, 9, 4), []
    for view in z:
        covariance = torch.cov(2 * view.T)  # times the root of 4 dimensions
        hinge = (1 - (covariance.diagonal() + 1e-4).sqrt()).relu().mean()
        terms.append(hinge + 0.04 * (covariance - covariance.diagonal().diag()).square().sum() / 4)
    torch.testing.assert_close(of(VarianceCovariance(), z), torch.stack(terms).mean())


def test_uniformity_and_koleo_by_definition() -> None:
    z = unit(2, 6, 4)
    distances = [torch.pdist(view) for view in z]
    uniform = torch.stack([each.square().mul(-2).exp().mean().log() for each in distances]).mean()
    torch.testing.assert_close(of(Uniformity(), z), uniform)
    nearest = [(torch.cdist(view, view) + 9 * torch.eye(6)).amin(dim=1) for view in z]
    torch.testing.assert_close(of(KoLeo(), z), -torch.stack(nearest).log().mean(), rtol=1e-6, atol=0)


def test_alignment_beside_uniformity_is_the_mean_over_all_pairs_of_views() -> None:
    z = unit(4, 5, 6)
    pairs = torch.stack([(z[u] - z[v]).square().sum(dim=1).mean() for u in range(4) for v in range(u)])
    torch.testing.assert_close(of(Uniformity(alignment=0.7), z), of(Uniformity(), z) + 0.7 * pairs.mean())
    torch.testing.assert_close(of(Uniformity(alignment=0.7), z[:1]), of(Uniformity(), z[:1]))


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: type(each).__name__)
def test_a_step_along_the_gradient_undoes_a_collapse(kind: Regularizer) -> None:
    z = F.normalize(unit(2, 8, 6) * 0.2 + unit(1, 1, 6, seed=3), dim=-1).requires_grad_()
    before = of(kind, z)
    (gradient,) = torch.autograd.grad(before, z)
    assert gradient.isfinite().all()
    after = of(kind, F.normalize(z - 0.01 * gradient / gradient.norm(), dim=-1))
    assert after < before


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: type(each).__name__)
def test_never_below_float32_and_finite_at_one_point(kind: Regularizer) -> None:
    point = unit(1, 1, 6).expand(2, 4, 6).bfloat16().requires_grad_()
    term = of(kind, point)
    term.backward()
    assert term.dtype == torch.float32
    assert term.isfinite()
    assert point.grad is not None
    assert point.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: type(each).__name__)
def test_the_gradient_is_that_of_the_term(kind: Regularizer) -> None:
    rows = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: of(kind, F.normalize(each, dim=-1)), rows)


@pytest.mark.parametrize("images", [12, 160])
@pytest.mark.parametrize("distortion", [1e-4, 0.2, 1000.0])
def test_the_coding_rate_in_float32_at_both_ends_of_the_distortion(images: int, distortion: float) -> None:
    gradients = []
    for dtype in (torch.float64, torch.float32):
        rows = unit(2, images, 64).to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(of(CodingRate(distortion=distortion), rows), rows)
        gradients.append(gradient - (gradient * rows).sum(dim=-1, keepdim=True) * rows)  # along the sphere
    assert (gradients[1] - gradients[0]).norm() < 1e-3 * gradients[0].norm()


def test_koleo_of_images_that_are_close_has_digits_in_float32() -> None:
    close = F.normalize(unit(1, 2, 16) * 1e-3 + unit(1, 1, 16, seed=5), dim=-1)
    expected = of(KoLeo(), close)
    assert of(KoLeo(), close.float()).item() == pytest.approx(expected.item(), rel=1e-4)


def test_one_image_has_a_value_or_is_refused_in_one_line() -> None:
    z = unit(2, 1, 6).requires_grad_()
    for kind in (MeanEntropy(), CodingRate(), VarianceCovariance()):
        (gradient,) = torch.autograd.grad(of(kind, z), z)
        assert gradient.isfinite().all()
    for pairwise in (Uniformity(), KoLeo()):
        with pytest.raises(BadConfig, match="give them two or more"):
            of(pairwise, z)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (CodingRate, {"weight": 0.0}, "regularizer.weight is 0: it must be a number above 0"),
        (KoLeo, {"weight": math.nan}, "regularizer.weight is nan"),
        (KoLeo, {"weight": math.inf}, "regularizer.weight is inf"),
        (CodingRate, {"distortion": -1.0}, "regularizer.distortion is -1"),
        (CodingRate, {"distortion": 1e-38}, "regularizer.distortion is 1e-38: keep it from 0.0001 to 1000"),
        (CodingRate, {"distortion": 1e6}, "regularizer.distortion is 1e.06"),
        (VarianceCovariance, {"covariance": -1.0}, "regularizer.covariance is -1"),
        (Uniformity, {"sharpness": 0.0}, "regularizer.sharpness is 0"),
        (Uniformity, {"alignment": -1.0}, "regularizer.alignment is -1"),
    ],
)
def test_values_out_of_range(kind: type, values: dict[str, float], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        kind(**values)


def test_settings_name_the_kind() -> None:
    settings = settings_of(Cell("learned", "sinkhorn", "same", "batch"))
    for kind in KINDS:
        config = from_dict(settings | {"regularizer": {"kind": NAMES[type(kind)], **vars(kind)}})
        assert config.regularizer == kind
        assert from_dict(to_dict(config)) == config
    assert "regularizer" not in to_dict(from_dict(settings))
