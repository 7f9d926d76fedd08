"""Components, segments and nearest patches of images whose patches are known, and the page in a browser."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import coterie
from coterie.data.loading.center_crop import Preprocessing
from coterie.errors import UserError
from coterie.exporting.backbone_file import save_backbone
from coterie.models.backbone import build_backbone
from coterie.reporting.pictures import seen_pixels
from coterie.reporting.structure import patch_structure, principal_components
from coterie.reporting.structure_page import segment_colors
from tests.detection.conftest import HERE, TINY, weights  # noqa: F401
from tests.reporting.test_pages_in_chromium import inspect  # noqa: F401

LONG = "a_very_long_name_without_any_place_to_break_" * 3


def test_components_are_those_of_a_singular_value_decomposition() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(1, 7)
    found, share = principal_components(rows.float())
    _, values, vectors = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    expected = (rows - rows.mean(dim=0)) @ vectors[:3].T
    torch.testing.assert_close(found.abs(), expected.abs().float(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(share, (values[:3] ** 2 / (values**2).sum()).numpy(), rtol=1e-5)
    two, share = principal_components(rows[:, :2].float())
    assert two.shape == (50, 3)
    assert not two[:, 2].any()
    assert share[2] == 0


def test_three_kinds_of_patches_are_three_segments() -> None:
    """Each image has all three kinds, at other places; neighbors are of the same kind, in another image."""
    generator = torch.Generator().manual_seed(1)
    every = torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2])
    kinds = torch.stack([every[torch.randperm(12, generator=generator)] for _ in range(4)])
    centers = 5 * torch.eye(3, 8)
    patches = centers[kinds] + 0.1 * torch.randn(4, 12, 8, generator=generator)
    found = patch_structure(patches, 3)
    assert set(found.segments[kinds == 1].tolist()) == {0}  # the largest
    assert all(len(set(found.segments[kinds == kind].tolist())) == 1 for kind in range(3))
    assert found.neighbors.shape == (4, 12, 8)
    assert (kinds.flatten()[found.neighbors] == kinds[:, :, None]).all()
    assert (found.neighbors // 12 != torch.arange(4)[:, None, None]).all()
    colors = found.colors.reshape(-1, 3).float()
    means = torch.stack([colors[kinds.flatten() == kind].mean(dim=0) for kind in range(3)])
    assert torch.pdist(means).min() > 100  # kinds differ in color
    assert patch_structure(patches, 3).segments.equal(found.segments)


def test_patches_of_a_single_image_are_neighbors_of_each_other() -> None:
    patches = torch.randn(1, 12, 4, generator=torch.Generator().manual_seed(0))
    patches[0, 5] = patches[0, 3]  # equals
    found = patch_structure(patches, 2).neighbors[0]
    assert found.shape == (12, 8)
    assert (found != torch.arange(12)[:, None]).all()
    assert found[5, 0] == 3


def test_colors_of_segments_differ() -> None:
    colors = torch.from_numpy(segment_colors(20).astype(np.float32))
    assert torch.pdist(colors[:10]).min() > 50
    assert torch.pdist(colors).min() > 10


@pytest.fixture(scope="module")
def page(weights, tmp_path_factory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("images")
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 72)).save(folder / f"{LONG}{number}<.png")
    (folder / "broken.png").write_bytes(b"none")
    out = tmp_path_factory.mktemp("structure") / "page.html"
    with pytest.warns(match="1 images cannot be decoded"):
        assert coterie.structure(weights, folder, out=out, size=128, segments=3, **HERE) == out
    return out


def test_the_page_holds_everything(page: Path) -> None:
    text = page.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    places = data["rows"] * data["columns"]
    assert np.array(data["neighbors"]).shape == (3 * places, 8)
    assert text.count('class="photo"') == 3
    assert text.count("data:image") == 9
    assert "0&lt;.png" in text
    assert len(text.encode()) < 5_000_000
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_page_in_a_browser(inspect, page: Path, tmp_path: Path, width: int, dark: bool) -> None:  # noqa: F811
    """The policy lets the script run: it shows the panel, and a key chooses a patch, which frames it and eight others."""
    found, console = inspect(page, width, dark)
    assert console == []
    assert (found["outside"], found["broken"], found["pictures"]) == ([], 0, 9)
    assert found["wide"] <= 0
    assert found["dark"] == dark
    probe = (
        'const f=document.querySelectorAll(".photo")[1];f.dispatchEvent(new KeyboardEvent("keydown",{key:"ArrowLeft"}));'
        'console.log("framed "+document.querySelectorAll(".photo i").length+" "+document.getElementById("nearest").hidden)'
    )
    text = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text())
    (tmp_path / "probed.html").write_text(text.replace("</body>", f"<script>{probe}</script></body>"))
    _, console = inspect(tmp_path / "probed.html", width, dark)
    assert any('"framed 9 false"' in line for line in console)


def test_photographs_show_values_of_any_range_and_what_the_network_sees(tmp_path: Path) -> None:
    """A network of 64 pixels sees the whole image, so the larger photograph shows the whole too; black is -5, white 5."""
    (tmp_path / "images").mkdir()
    for number in range(2):
        ramp = np.linspace(-5, 5, 64, dtype=np.float32)[None].repeat(64, 0)
        tifffile.imwrite(tmp_path / "images" / f"{number}.tif", ramp)
    network, file = build_backbone(TINY, 64).eval(), tmp_path / "model.safetensors"
    save_backbone(file, network, TINY, 64, (0.3,) * 3, (0.2,) * 3, value_range=(-5.0, 5.0))
    page = coterie.structure(file, tmp_path / "images", out=tmp_path / "page.html", size=64, segments=2, **HERE)
    assert page.read_text().count('class="photo"') == 2
    look = Preprocessing(64, 3, (0.3,) * 3, (0.2,) * 3, value_range=(-5.0, 5.0))
    pixels = seen_pixels(coterie.open_source(str(tmp_path / "images")), 0, look, 320)
    assert pixels.shape == (320, 320, 3)
    assert (pixels[:, 0].max(), pixels[:, -1].min()) == (0, 255)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"out": "page.txt"}, "name an .html file"),
        ({"segments": 1}, "--segments is 1: give 2 to 20"),
        ({"size": 32}, "too few"),
        ({"size": 1568}, "give a smaller --size"),
    ],
)
def test_mistakes_are_one_line(weights, tmp_path, given, said) -> None:  # noqa: F811
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    with pytest.raises(UserError, match=r"^[^\n]+$") as caught:
        coterie.structure(weights, images, **{"out": tmp_path / "page.html", **given}, **HERE)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())
