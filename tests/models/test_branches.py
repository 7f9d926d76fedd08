"""Networks are found whatever surrounds them: each gives the source's features, and the line says what was done."""

import pytest
import torch

from coterie.errors import UserError
from coterie.models.pretrained import load_weights, read_parts
from tests.models.layouts import IMAGES, LAYOUTS, network, under


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_network_is_found_by_content(layout, tmp_path):
    content, prefix, heads, others = LAYOUTS[layout]
    torch.save(content, tmp_path / "checkpoint.pth")
    ours = network(2)
    line = load_weights(ours, tmp_path / "checkpoint.pth", 3)
    assert torch.equal(ours(IMAGES), network(0)(IMAGES))
    assert "\n" not in line
    assert line.startswith(f"{tmp_path}/checkpoint.pth: took 120 tensors")
    assert f"{prefix}," in line or f"{prefix};" in line or line.endswith(prefix)
    parts = read_parts(ours, tmp_path / "checkpoint.pth", 3)
    assert all(any(name.partition(".")[0] == head for name in parts.beside) for head in heads)
    assert not any(word in name for name in parts.beside for word in (*others, "momentum_buffer"))
    assert ("left" in line) == bool(parts.beside)
    for other in others:
        assert f"{other} would fit too: choose with {tmp_path}/checkpoint.pth#{other}" in line
        assert "which the authors of such files evaluate" in line
        chosen = load_weights(ours, f"{tmp_path}/checkpoint.pth#{other}", 3)
        assert torch.equal(ours(IMAGES), network(1)(IMAGES))
        assert other in chosen


@pytest.mark.parametrize("name", ["nobody", "", "teacher.head", "optimizer"])
def test_a_branch_that_is_not_there(name, tmp_path):
    torch.save(LAYOUTS["dino"][0], tmp_path / "full.pth")
    with pytest.raises(UserError, match=rf"full.pth has no branch {name}: it has teacher, student$"):
        load_weights(network(2), f"{tmp_path}/full.pth#{name}", 3)


def test_a_file_whose_name_has_a_hash(tmp_path):
    torch.save(LAYOUTS["dino"][0], tmp_path / "a#b.pth")
    assert "took 120 tensors under teacher.backbone" in load_weights(network(2), tmp_path / "a#b.pth", 3)
    assert "under student.module.backbone" in load_weights(network(2), f"{tmp_path}/a#b.pth#student", 3)
    with pytest.raises(UserError, match=r"there are no weights at .*absent\.pth#student"):
        load_weights(network(2), f"{tmp_path}/absent.pth#student", 3)


def test_the_heads_keep_their_values_and_lose_their_prefixes(tmp_path):
    content = LAYOUTS["deepcluster"][0]
    torch.save(content, tmp_path / "x.pth")
    parts = read_parts(network(2), tmp_path / "x.pth", 3)
    assert list(parts.beside) == [
        "projection_head.0.weight",
        "projection_head.0.bias",
        "prototypes.prototypes0.weight",
        "prototypes.prototypes1.weight",
        "prototypes.prototypes2.weight",
    ]
    assert torch.equal(
        parts.beside["projection_head.0.weight"], content["state_dict"]["module.projection_head.0.weight"]
    )


@torch.no_grad()
def test_half_precision(tmp_path):
    halves = {
        name: value.half() if value.is_floating_point() else value for name, value in network(0).state_dict().items()
    }
    torch.save({"state_dict": halves | {"head.weight": torch.ones(2, dtype=torch.bfloat16)}}, tmp_path / "half.pth")
    ours, parts = network(2), read_parts(network(2), tmp_path / "half.pth", 3)
    load_weights(ours, tmp_path / "half.pth", 3)
    assert {each.dtype for each in parts.backbone.values()} == {torch.float32, torch.int64}
    assert parts.beside["head.weight"].dtype == torch.float32
    torch.testing.assert_close(ours(IMAGES), network(0)(IMAGES), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"layer4.2.conv1.weight": torch.zeros(3)}, "not in the network layer4.2.conv1.weight"),
        ({"reg_token": torch.zeros(1, 4, 8)}, "not in the network reg_token"),
        ({"conv1.weight": torch.zeros(8, 3, 5, 5)}, "conv1.weight is 8x3x5x5 in the file and 8x3x7x7 in the network"),
        ({"conv1.weight": torch.zeros(8, 3, 7, 7, dtype=torch.int8)}, "missing conv1.weight"),
        ({"layer4.1.bn2.bias": None}, "missing layer4.1.bn2.bias"),
    ],
)
def test_what_differs_is_said(changed, message, tmp_path):
    torch.save({"teacher": {"net": under("", 0, "fc") | changed}, "student": {"epoch": 3}}, tmp_path / "x.pth")
    ours = network(2)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(UserError, match=message) as caught:
        load_weights(ours, tmp_path / "x.pth", 3)
    assert "\n" not in str(caught.value)
    assert "fc" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
