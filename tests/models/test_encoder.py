import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from coterie.errors import BadConfig
from coterie.models.backbone import BackboneConfig, build_backbone, feature_width
from coterie.models.encoder import Encoder, check_batch_norm_scope, target_copy
from coterie.models.head import Head, HeadConfig
from coterie.models.joint_batch_norm import joint_features


def tiny_backbone(batch_norm: bool = True) -> nn.Sequential:
    norm = [nn.BatchNorm2d(12)] if batch_norm else []
    return nn.Sequential(nn.Conv2d(3, 12, 3, stride=2), *norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def tiny_encoder(batch_norm: bool = True, predictor: bool = False, scope: str = "resolution") -> Encoder:
    config = HeadConfig(hidden=(16,), width=8, batch_norm=batch_norm)
    heads = Head(12, config), Head(8, config) if predictor else None
    return Encoder(tiny_backbone(batch_norm), *heads, batch_norm_scope=scope).double()


def make_views(sizes: list[int], images: int = 4) -> list[torch.Tensor]:
    # Each view has its own brightness, so that it matters which views are normalized together.
    return [torch.randn(images, 3, s, s, dtype=torch.float64) * (i + 1) + i for i, s in enumerate(sizes)]


def by_hand(encoder: Encoder, views: list[torch.Tensor], passes: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """h and z when the backbone sees the views of each list in ``passes`` together."""
    encoder = copy.deepcopy(encoder)
    h = torch.zeros(len(views), len(views[0]), 12, dtype=torch.float64)
    for together in passes:
        rows = encoder.backbone(torch.cat([views[v] for v in together]))
        for place, v in enumerate(together):
            h[v] = rows[place * len(views[0]) : (place + 1) * len(views[0])]
    rows = encoder.projector(torch.cat(list(h)))
    return h, torch.stack([row / row.norm() for row in rows]).reshape(len(views), len(views[0]), -1)


def test_the_backbone_runs_once_per_resolution_and_the_head_once_over_all_views():
    encoder, views = tiny_encoder(), make_views([8, 5, 8, 5, 5])
    expected = by_hand(encoder, views, [[0, 2], [1, 3, 4]])
    h, z, p = encoder(views)
    torch.testing.assert_close((h, z), expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(p, z)
    assert int(encoder.backbone[1].num_batches_tracked) == 2
    assert int(encoder.projector.layers[1].num_batches_tracked) == 1


@pytest.mark.parametrize("passes", [[[0], [2], [1, 3]], [[0, 2], [1], [3]], [[0], [1], [2], [3]]])
def test_other_ways_to_group_the_passes_give_other_results(passes):
    encoder, views = tiny_encoder(), make_views([8, 5, 8, 5])
    _, other = by_hand(encoder, views, passes)
    assert (encoder(views)[1] - other).abs().max() > 0.01


def test_one_head_pass_per_view_gives_another_result():
    encoder, views = tiny_encoder(), make_views([8, 8])
    other = copy.deepcopy(encoder)
    h, z, _ = encoder(views)
    alone = torch.stack([F.normalize(other.projector(rows), dim=1) for rows in h])
    assert (z - alone).abs().max() > 0.01


def test_resolutions_are_encoded_in_the_order_of_their_first_view():
    encoder, views = tiny_encoder(), make_views([5, 8, 5])
    other = copy.deepcopy(encoder)
    encoder(views)
    other.backbone(torch.cat([views[0], views[2]]))
    other.backbone(views[1])
    moved, expected = encoder.backbone[1].running_mean, other.backbone[1].running_mean
    torch.testing.assert_close(moved, expected, rtol=1e-12, atol=1e-12)


def test_views_of_equal_area_and_other_shape_are_not_mixed():
    encoder = tiny_encoder()
    views = [torch.randn(4, 3, 6, 9, dtype=torch.float64), torch.randn(4, 3, 9, 6, dtype=torch.float64)]
    assert encoder(views)[0].shape == (2, 4, 12)


def test_the_predictor_reads_the_rows_before_they_are_divided_by_their_norm():
    encoder, views = tiny_encoder(predictor=True), make_views([8, 5])
    other = copy.deepcopy(encoder)
    h, z, p = encoder(views)
    projected = other.projector(h.flatten(0, 1))
    expected = F.normalize(other.predictor(projected), dim=1)
    torch.testing.assert_close(p.flatten(0, 1), expected, rtol=1e-12, atol=1e-12)
    assert (F.normalize(copy.deepcopy(other).predictor(z.flatten(0, 1)), dim=1) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("dtype", "result"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_embeddings_are_unit_rows_never_below_float32(dtype, result):
    encoder = tiny_encoder(predictor=True).to(dtype)
    _, z, p = encoder([view.to(dtype) for view in make_views([8, 5])])
    for rows in (z, p):
        assert rows.dtype == result
        tolerance = 1e-6 if result == torch.float32 else 1e-12
        torch.testing.assert_close(rows.norm(dim=2), torch.ones(2, 4, dtype=result), atol=tolerance, rtol=0)


def test_under_autocast_embeddings_stay_in_float32():
    encoder = tiny_encoder().float()
    with torch.autocast("cpu", torch.bfloat16):
        h, z, _ = encoder([view.float() for view in make_views([8, 5])])
    assert (h.dtype, z.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(z.norm(dim=2), torch.ones(2, 4), atol=1e-6, rtol=0)


def test_projecting_features_later_gives_the_same_embeddings():
    encoder = tiny_encoder().eval()
    images = make_views([8])[0]
    h, z, _ = encoder([images])
    assert torch.equal(encoder.project(h[0]), z[0])


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"], ids=str
)
def test_timm_networks_learn_from_multi_crop(name):
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name), 64)
    encoder = Encoder(backbone, Head(feature_width(backbone), HeadConfig(hidden=(32,), width=16)))
    h, z, _ = encoder([torch.randn(3, 3, s, s) for s in (64, 64, 32, 32)])
    assert h.shape == (4, 3, feature_width(backbone))
    assert z.shape == (4, 3, 16)
    (z * torch.randn_like(z)).sum().backward()
    # A parameter without a gradient would stop a distributed run.
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    assert backbone.get_parameter(next(n for n, _ in backbone.named_parameters())).grad.abs().max() > 0


def running_averages(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def test_with_the_view_scope_each_view_is_encoded_separately():
    encoder, views = tiny_encoder(predictor=True, scope="view"), make_views([8, 5, 8])
    other = copy.deepcopy(encoder)
    found = encoder(views)
    for number, view in enumerate(views):
        h = other.backbone(view)
        projected = other.projector(h)
        expected = h, F.normalize(projected, dim=1), F.normalize(other.predictor(projected), dim=1)
        torch.testing.assert_close(tuple(part[number] for part in found), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(running_averages(encoder), running_averages(other), rtol=1e-12, atol=1e-12)
    assert int(encoder.backbone[1].num_batches_tracked) == 3


def test_with_the_joint_scope_all_resolutions_are_normalized_together_also_in_the_heads():
    encoder, views = tiny_encoder(predictor=True, scope="joint"), make_views([5, 8, 5])
    other = copy.deepcopy(encoder)
    h, z, p = encoder(views)
    small, large = joint_features(other.backbone, [torch.cat([views[0], views[2]]), views[1]])
    expected = torch.stack([small[:4], large, small[4:]])
    torch.testing.assert_close(h, expected, rtol=1e-12, atol=1e-12)
    projected = other.projector(expected.flatten(0, 1))
    torch.testing.assert_close(z.flatten(0, 1), F.normalize(projected, dim=1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.flatten(0, 1), F.normalize(other.predictor(projected), dim=1), rtol=1e-12, atol=1e-12)
    assert int(encoder.backbone[1].num_batches_tracked) == 1


def with_scope(encoder: Encoder, scope: str) -> Encoder:
    encoder = copy.deepcopy(encoder)
    encoder.batch_norm_scope = scope
    return encoder


@pytest.mark.parametrize(("scope", "sizes"), [("joint", [8, 8]), ("view", [8])])
def test_scopes_agree_where_they_are_equivalent(scope, sizes):
    encoder, views = tiny_encoder(predictor=True), make_views(sizes)
    other = with_scope(encoder, scope)
    torch.testing.assert_close(other(views), encoder(views), rtol=0, atol=0)
    torch.testing.assert_close(running_averages(other), running_averages(encoder), rtol=0, atol=0)


@pytest.mark.parametrize("scope", ["joint", "view"])
def test_scopes_agree_in_evaluation_mode(scope):
    encoder, views = tiny_encoder(predictor=True), make_views([8, 5, 8])
    encoder(views)
    encoder.eval()
    torch.testing.assert_close(with_scope(encoder, scope)(views), encoder(views), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "vgg11_bn"])
def test_the_joint_scope_is_for_resnets(name):
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name), 64)
    with pytest.raises(BadConfig, match=r"batch_norm_scope is joint.*set batch_norm_scope to resolution") as caught:
        Encoder(backbone, nn.Identity(), batch_norm_scope="joint")
    assert "\n" not in str(caught.value)
    check_batch_norm_scope(backbone, "view")
    check_batch_norm_scope(backbone, "resolution")


def test_an_unknown_scope_is_refused_with_the_known_ones():
    with pytest.raises(BadConfig, match="'batch': use view, resolution, joint"):
        check_batch_norm_scope(tiny_backbone(), "batch")


def test_a_target_copy_has_no_predictor_and_no_gradients():
    encoder, views = tiny_encoder(predictor=True, scope="joint"), make_views([8, 5])
    encoder(views)  # running averages that are not new
    target = target_copy(encoder)
    assert (target.batch_norm_scope, target.predictor, target.training) == ("joint", None, True)
    theirs = dict(encoder.named_parameters())
    names = [name for name in theirs if not name.startswith("predictor.")]
    assert [name for name, _ in target.named_parameters()] == names
    for name, mine in target.named_parameters():
        assert torch.equal(mine, theirs[name])
        assert mine.data_ptr() != theirs[name].data_ptr()
        assert not mine.requires_grad
        assert theirs[name].requires_grad
    h, z, p = target(views)
    expected = encoder(views)
    torch.testing.assert_close((h, z), expected[:2], rtol=0, atol=0)
    assert torch.equal(p, z)
    assert not h.requires_grad


def test_a_target_copy_has_the_mode_of_its_encoder():
    assert not target_copy(tiny_encoder().eval()).training


def test_only_the_student_has_drop_path_and_dropout():
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig("swin_tiny_patch4_window7_224", drop_path=0.5), 32)
    backbone.layers[0].blocks[0].mlp.drop1.p = 0.5
    encoder = Encoder(backbone, Head(feature_width(backbone), HeadConfig(hidden=(), width=8)))
    target, views = target_copy(encoder), [torch.randn(2, 3, 32, 32)]
    assert target.training
    assert torch.equal(target(views)[0], target(views)[0])
    assert not torch.equal(encoder(views)[0], encoder(views)[0])
    assert torch.equal(target(views)[0], encoder.eval()(views)[0])
    assert backbone.layers[0].blocks[0].mlp.drop1.p == 0.5
