"""The device's applier against the CPU's, image by image: the same draws, pixels within stated bounds."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from coterie.data.augmentation.cpu import augment_batch, crop, crop_batch
from coterie.data.augmentation.gpu import GpuAugmenter, crop_on_device, operations, pack, sizes
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan
from coterie.data.loading.device_images import resident_images
from coterie.data.loading.loader import Loader
from coterie.data.sources.arrays import Arrays

WIDEST = 3  # of 255: what one rounding of a blur in place of six may change
ON_AVERAGE = 0.4
CUT_HERE = 20  # of 255: a crop that differs by 1 or 2, stretched by what follows
IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # normalized pixels are then 0 to 255
PLAIN = {"flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}


def photographs(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth images with edges and grain, of all colors."""
    generator = np.random.default_rng(5)
    noise = generator.normal(size=(count, height, width, channels))
    smooth = ndimage.gaussian_filter(noise, (0, 3, 3, 0)) * 9 + 0.5 + 0.03 * noise
    smooth[:, :, : width // 3] = smooth[:, :, : width // 3].round()
    return (smooth.clip(0, 1) * 255).astype(np.uint8)


def plan_of(**augmentation) -> ViewPlan:
    kind = Augmentation(**augmentation)
    return ViewPlan(
        (Crops(2, 40, (0.3, 1.0), augmentation=kind), Crops(2, 18, (0.1, 0.3), augmentation=kind)), **IDENTITY
    )


def both(plan: ViewPlan, images: np.ndarray, seed: int = 0) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
    views = range(plan.num_views)
    draws = plan.sample_parameters(seed, 0, np.arange(len(images)))
    theirs = {
        v: torch.from_numpy(np.stack(each)).float() for v, each in enumerate(augment_batch(images, plan, draws, views))
    }
    cuts = crop_batch(images, plan, draws, views)
    crops = {
        size: torch.from_numpy(np.stack([np.stack(cuts[place]) for place in places]))
        for size, places in sizes(plan, views).items()
    }
    parameters = torch.from_numpy(pack(draws, views))
    return GpuAugmenter(plan, "cpu").of_crops(crops, parameters, views), theirs


ONE_BY_ONE = {
    "flip": {"flip": 0.5},
    "vertical_flip": {"vertical_flip": 0.5},
    "rotation": {"rotation": 0.8},
    "brightness": {"jitter": 1.0, "brightness": 0.8, "contrast": 0, "saturation": 0, "hue": 0},
    "contrast": {"jitter": 1.0, "brightness": 0, "contrast": 0.8, "saturation": 0, "hue": 0},
    "saturation": {"jitter": 1.0, "brightness": 0, "contrast": 0, "saturation": 0.8, "hue": 0},
    "hue": {"jitter": 1.0, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0.5},
    "grayscale": {"grayscale": 0.5},
    "solarize": {"solarize": 0.5},
}


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_each_operation_but_blur_is_the_same_to_a_hair(name: str) -> None:
    ours, theirs = both(plan_of(**PLAIN | ONE_BY_ONE[name]), photographs(24, 60, 70))
    untouched = both(plan_of(**PLAIN), photographs(24, 60, 70))[0]
    assert any(not torch.equal(ours[view], untouched[view]) for view in ours), "nothing was done"
    for view in ours:
        difference = (ours[view].round() - theirs[view]).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("radius", [(0.1, 0.4), (0.1, 2.0), (3.0, 9.0)])
def test_blur_is_the_same_but_for_its_rounding(radius: tuple[float, float]) -> None:
    plan = plan_of(**PLAIN | {"blur": 0.7, "blur_radius": radius})
    ours, theirs = both(plan, photographs(24, 60, 70))
    for view in ours:
        difference = (ours[view] - theirs[view]).abs()
        assert difference.max() <= WIDEST
        assert difference.mean() <= ON_AVERAGE


def test_the_whole_recipe() -> None:
    ours, theirs = both(plan_of(rotation=0.2, vertical_flip=0.2, solarize=0.2), photographs(48, 60, 70))
    differences = torch.cat([(ours[view] - theirs[view]).abs().flatten() for view in ours])
    assert differences.mean() <= ON_AVERAGE
    assert differences.quantile(0.999) <= WIDEST if differences.numel() < 2**24 else True
    far = (differences > WIDEST).float().mean()  # a blurred value beside 128 that is solarized on one side only
    assert far < 1e-3


def test_images_without_colors_and_with_other_channels() -> None:
    for channels in (1, 5):
        kind = Augmentation()
        plan = ViewPlan(
            (Crops(2, 20, (0.3, 1.0), augmentation=kind),),
            channels=channels,
            mean=(0.0,) * channels,
            std=(1 / 255,) * channels,
        )
        ours, theirs = both(plan, photographs(12, 40, 30, channels))
        assert all((ours[view] - theirs[view]).abs().max() <= WIDEST for view in ours)


def test_normalized_as_on_the_cpu() -> None:
    images = photographs(8, 60, 70)
    base = plan_of(**PLAIN)
    plan = ViewPlan(base.crops, mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225))
    on_cpu, on_device = (
        next(Loader(Arrays(images), plan, batch_size=8, epochs=1, seed=1, engine=engine).batches())[1]
        for engine in ("cpu", "gpu")
    )
    for view, theirs in on_cpu.views.items():  # crops of images that live on the device differ by 1
        assert (on_device.views[view] - theirs).abs().max() <= 2.01 / 255 / 0.224


@pytest.mark.parametrize("size", [12, 32, 50])
def test_crops_cut_on_the_device(size: int) -> None:
    images = photographs(16, 44, 36)
    plan = ViewPlan((Crops(3, size, (0.05, 1.0)),), **IDENTITY)
    draws = plan.sample_parameters(3, 0, np.arange(16))
    views = range(3)
    ours = crop_on_device(
        torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(pack(draws, views, (44, 36))), size
    ).unflatten(0, (3, 16))
    for row, image in enumerate(images):
        for view, box in enumerate(draws.boxes(row, 44, 36)):
            theirs = crop(torch.from_numpy(image).permute(2, 0, 1), box, size)
            difference = (ours[view, row].int() - theirs.int()).abs()
            assert difference.max() <= 2
            assert difference.float().mean() < 0.1


def test_autocast_changes_nothing() -> None:
    images, plan = photographs(6, 60, 70), plan_of()
    plain, _ = both(plan, images)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            under, _ = both(plan, images)
        assert all(under[view].dtype == torch.float32 and torch.equal(under[view], plain[view]) for view in plain)


COMPILED = """
from functools import partial
import numpy as np, torch
from coterie.data.device import DeviceApplier, cut, finish, pack
from coterie.data.views import Augmentation, Crops, ViewPlan

kind = Augmentation(rotation=0.2, vertical_flip=0.2, solarize=0.2)
crops = (Crops(2, 20, (0.3, 1.0), augmentation=kind), Crops(2, 10, (0.1, 0.3), augmentation=kind))
plan = ViewPlan(crops, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
images = torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8)
compiled, plain = DeviceApplier(plan, "cpu"), DeviceApplier(plan, "cpu")
compiler = torch.compile
torch.compile = partial(compiler, fullgraph=True, backend="aot_eager")  # a break in the graph raises
assert compiled.compile(4, range(4), images) is None
assert compiled.finish is not finish
for epoch in range(3):
    parameters = torch.from_numpy(pack(plan.sample_parameters(0, epoch, np.arange(4)), range(4), (24, 24)))
    ours, theirs = (each.of_images(images, parameters, range(4)) for each in (compiled, plain))
    assert all(torch.allclose(ours[view], theirs[view], atol=1e-3) for view in theirs)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4  # two functions, two sizes: none was compiled again

def broken(graph, inputs):
    raise RuntimeError("no compiler here\\nand more")

torch._dynamo.reset()
torch.compile = partial(compiler, backend=broken)
for stored in (images, None):
    assert "no compiler here" in compiled.compile(4, range(4), stored)
    assert compiled.finish is finish and compiled.cut is cut
"""


def test_compiles_to_one_graph_for_each_size() -> None:
    """In a process of its own: the shapes that are checked in tests would break the graph."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cannot_happen_is_left_out() -> None:
    assert operations(plan_of(**PLAIN), [0, 1]) == operations(plan_of(**PLAIN), [2])
    quiet, loud = operations(plan_of(**PLAIN), [0]), operations(plan_of(solarize=0.2, blur_radius=(0.1, 2.0)), [0])
    assert (quiet.turn, quiet.jitter, quiet.gray, quiet.margin, quiet.solarize) == (False, False, False, 0, False)
    assert (loud.jitter, loud.gray, loud.margin, loud.solarize) == (True, True, 2, True)


class OfTwoSizes(Arrays):
    def __getitem__(self, index: int) -> np.ndarray:
        image = super().__getitem__(index)
        return image[:50] if index == 7 else image


class SomeBad(Arrays):
    def __getitem__(self, index: int):
        return b"not an image" if index in (3, 4) else super().__getitem__(index)


@pytest.mark.parametrize("kind", [Arrays, OfTwoSizes])
def test_a_run_is_the_same_from_any_step_and_with_any_workers(kind: type[Arrays]) -> None:
    source = kind(photographs(20, 60, 70))
    settings = {"batch_size": 6, "epochs": 2, "seed": 4, "engine": "gpu"}
    whole = list(Loader(source, plan_of(), **settings).batches())
    on_cpu = list(Loader(source, plan_of(), **settings | {"engine": "cpu"}).batches())
    assert len(whole) == len(on_cpu) == 6
    for (progress, ours), (other_progress, theirs) in zip(whole, on_cpu, strict=True):
        assert progress == other_progress
        assert torch.equal(ours.index, theirs.index)
        for view in theirs.views:
            difference = (ours.views[view] - theirs.views[view]).abs()
            assert difference.max() <= CUT_HERE
            assert difference.mean() <= ON_AVERAGE
    for workers, start in ((1, 0), (2, 3), (0, 4)):
        loader = Loader(source, plan_of(), workers=workers, **settings)
        for (_, ours), (_, theirs) in zip(loader.batches(start), whole[start:], strict=True):
            assert all(torch.equal(ours.views[view], theirs.views[view]) for view in theirs.views)
        assert (loader.images is None) == (kind is OfTwoSizes)


def test_images_that_live_on_the_device() -> None:
    images = photographs(20, 30, 24)
    kept, bad = resident_images(SomeBad(images), 3, torch.device("cpu"), workers=1)
    assert kept.shape == (20, 3, 30, 24)
    assert [place for place, _ in bad] == [3, 4]
    stored = images.transpose(0, 3, 1, 2)
    assert np.array_equal(kept[[0, 2, 5, 19]].numpy(), stored[[0, 2, 5, 19]])
    assert np.array_equal(kept[[3, 4]].numpy(), stored[[5, 5]])  # as in a batch: the next that can be decoded
    assert resident_images(OfTwoSizes(photographs(20, 60, 70)), 3, torch.device("cpu")) is None
    assert resident_images(Arrays(images.astype(np.uint16)), 3, torch.device("cpu")) is None


def test_images_that_are_too_many_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coterie.data.loading.device_images.MOST_BYTES", 20 * 30 * 24 * 3 - 1)
    assert resident_images(Arrays(photographs(20, 30, 24)), 3, torch.device("cpu")) is None


def test_images_of_16_bits_are_finished_by_the_workers() -> None:
    images = photographs(8, 60, 70).astype(np.uint16) * 257
    settings = {"batch_size": 8, "epochs": 1, "seed": 1}
    ours, theirs = (
        next(Loader(Arrays(images), plan_of(), engine=engine, **settings).batches())[1] for engine in ("gpu", "cpu")
    )
    assert all(torch.equal(ours.views[view], theirs.views[view]) for view in theirs.views)
