import pytest
import torch
from torch import nn

from coterie.models.backbone import BackboneConfig, build_backbone, is_plain_timm
from coterie.models.image_sizes import check_view_sizes
from coterie.models.token_batch_norm import TokenBatchNorm

NAMES = ["swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]


def test_tokens_are_normalized_over_all_images():
    norm = TokenBatchNorm(5).double()
    tokens = torch.randn(3, 7, 5, dtype=torch.float64) * 4 + torch.arange(3)[:, None, None]
    rows = tokens.reshape(21, 5)
    expected = (rows - rows.mean(0)) / (rows.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(norm(tokens), expected.view(3, 7, 5), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(norm.batch_norm.running_var, 0.9 + 0.1 * rows.var(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_norm_before_each_mlp_is_replaced(name):
    torch.manual_seed(0)
    plain = build_backbone(BackboneConfig(name), 32)
    torch.manual_seed(0)
    config = BackboneConfig(name, mlp_norm="batch")
    backbone = build_backbone(config, 32)
    assert not is_plain_timm(config)
    names = {key for key, module in backbone.named_modules() if isinstance(module, TokenBatchNorm)}
    assert names == {key for key, _ in plain.named_modules() if key.endswith("norm2")}
    assert len(names) == 12
    ours, theirs = dict(backbone.named_parameters()), dict(plain.named_parameters())
    kept = [key for key in theirs if ".norm2." not in key]
    assert [key for key in ours if ".norm2." not in key] == kept
    assert all(torch.equal(ours[key], theirs[key]) for key in kept)


@pytest.mark.parametrize("name", NAMES)
def test_one_image_changes_the_others_in_training_only(name):
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(name, mlp_norm="batch"), 32)
    images = torch.randn(3, 3, 32, 32)
    assert not torch.allclose(backbone(images)[:2], backbone(images[:2]), atol=1e-3)
    backbone.eval()
    torch.testing.assert_close(backbone(images)[:2], backbone(images[:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mlp_norm", ["layer", "batch"])
def test_a_swin_for_224_pixels_takes_views_of_96(mlp_norm):
    config = BackboneConfig(NAMES[0], drop_path=0.2, mlp_norm=mlp_norm)
    backbone = build_backbone(config, 224)
    check_view_sizes(backbone, config, [224, 96])
    features = torch.cat([backbone(torch.randn(1, 3, size, size)) for size in (224, 96)])
    assert features.shape == (2, 768)
    features.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())
    counts = [int(m.num_batches_tracked) for m in backbone.modules() if isinstance(m, nn.BatchNorm1d)]
    assert counts == ([2] * 12 if mlp_norm == "batch" else [])  # checking the sizes moved no running averages
