"""Augmentation on the GPU against the CPU, image by image: the same parameters, pixels within stated bounds."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch._subclasses.fake_tensor import FakeTensorMode

from coterie.data.augmentation.cpu import augment_batch, crop_batch, resized_crop
from coterie.data.augmentation.gpu import (
    COLUMNS,
    EnabledOperations,
    GpuAugmenter,
    crop_on_device,
    enabled_operations,
    pack_parameters,
    places_by_size,
)
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan
from coterie.data.loading.loader import Loader
from coterie.data.sources.arrays import Arrays

LARGEST = 3  # of 255: one rounding of a blur instead of six
AVERAGE = 0.4
LARGEST_AFTER_CROP = 20  # of 255: a crop that differs by 1 or 2, amplified by the operations that follow
IDENTITY = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255,) * 3}  # normalized pixels are then 0 to 255
PLAIN = {"flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "solarize": 0.0}


def photographs(count: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth images with edges and grain, in all colors."""
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
    """The views by the augmentation of the GPU (run on the CPU), and by that of the CPU."""
    views = range(plan.num_views)
    parameters = plan.sample_parameters(seed, 0, np.arange(len(images)))
    on_cpu = augment_batch(images, plan, parameters, views)
    theirs = {view: torch.from_numpy(np.stack(each)).float() for view, each in enumerate(on_cpu)}
    crops = crop_batch(images, plan, parameters, views)
    by_size = {
        size: torch.from_numpy(np.stack([np.stack(crops[place]) for place in places]))
        for size, places in places_by_size(plan, views).items()
    }
    packed = torch.from_numpy(pack_parameters(parameters, views))
    return GpuAugmenter(plan, "cpu").views_from_crops(by_size, packed, views), theirs


OPERATIONS = {
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


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_but_blur_differs_by_one_at_most(name: str) -> None:
    ours, theirs = both(plan_of(**PLAIN | OPERATIONS[name]), photographs(24, 60, 70))
    untouched = both(plan_of(**PLAIN), photographs(24, 60, 70))[0]
    assert any(not torch.equal(ours[view], untouched[view]) for view in ours), "nothing was done"
    for view in ours:
        difference = (ours[view].round() - theirs[view]).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 1e-3


@pytest.mark.parametrize("radius", [(0.1, 0.4), (0.1, 2.0), (3.0, 9.0)])
def test_blur_differs_only_by_rounding(radius: tuple[float, float]) -> None:
    plan = plan_of(**PLAIN | {"blur": 0.7, "blur_radius": radius})
    ours, theirs = both(plan, photographs(24, 60, 70))
    for view in ours:
        difference = (ours[view] - theirs[view]).abs()
        assert difference.max() <= LARGEST
        assert difference.mean() <= AVERAGE


def test_the_whole_chain() -> None:
    ours, theirs = both(plan_of(rotation=0.2, vertical_flip=0.2, solarize=0.2), photographs(48, 60, 70))
    differences = torch.cat([(ours[view] - theirs[view]).abs().flatten() for view in ours])
    assert differences.mean() <= AVERAGE
    assert differences.quantile(0.999) <= LARGEST if differences.numel() < 2**24 else True
    far = (differences > LARGEST).float().mean()  # blurred values next to 128 that only one of them solarizes
    assert far < 1e-3


def test_images_of_one_and_of_five_channels() -> None:
    for channels in (1, 5):
        kind = Augmentation()
        plan = ViewPlan(
            (Crops(2, 20, (0.3, 1.0), augmentation=kind),),
            channels=channels,
            mean=(0.0,) * channels,
            std=(1 / 255,) * channels,
        )
        ours, theirs = both(plan, photographs(12, 40, 30, channels))
        assert all((ours[view] - theirs[view]).abs().max() <= LARGEST for view in ours)


def test_views_are_normalized_as_on_the_cpu() -> None:
    images = photographs(8, 60, 70)
    base = plan_of(**PLAIN)
    plan = ViewPlan(base.crops, mean=(0.485, 0.456, 0.406), std=(0.228, 0.224, 0.225))
    on_cpu, on_device = (
        next(Loader(Arrays(images), plan, batch_size=8, epochs=1, seed=1, engine=engine).batches())[1]
        for engine in ("cpu", "gpu")
    )
    for view, theirs in on_cpu.views.items():  # crops of images stored on the device differ by 1
        assert (on_device.views[view] - theirs).abs().max() <= 2.01 / 255 / 0.224


@pytest.mark.parametrize("size", [12, 32, 50])
def test_crops_made_on_the_device(size: int) -> None:
    images = photographs(16, 44, 36)
    plan = ViewPlan((Crops(3, size, (0.05, 1.0)),), **IDENTITY)
    parameters = plan.sample_parameters(3, 0, np.arange(16))
    views = range(3)
    ours = crop_on_device(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(pack_parameters(parameters, views, (44, 36))),
        size,
    ).unflatten(0, (3, 16))
    for row, image in enumerate(images):
        for view, box in enumerate(parameters.boxes(row, 44, 36)):
            theirs = resized_crop(torch.from_numpy(image).permute(2, 0, 1), box, size)
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
from coterie.data.augmentation.gpu import GpuAugmenter, augment_crops, crop_on_device, pack_parameters
from coterie.data.augmentation.view_plan import Augmentation, Crops, ViewPlan

kind = Augmentation(rotation=0.2, vertical_flip=0.2, solarize=0.2)
crops = (Crops(2, 20, (0.3, 1.0), augmentation=kind), Crops(2, 10, (0.1, 0.3), augmentation=kind))
plan = ViewPlan(crops, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
images = torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8)
compiled, plain = GpuAugmenter(plan, "cpu"), GpuAugmenter(plan, "cpu")
compiler = torch.compile
torch.compile = partial(compiler, fullgraph=True, backend="aot_eager")  # a break in the graph raises
assert compiled.compile(4, range(4), images) is None
assert compiled.augment is not augment_crops
for epoch in range(3):
    packed = torch.from_numpy(pack_parameters(plan.sample_parameters(0, epoch, np.arange(4)), range(4), (24, 24)))
    ours, theirs = (each.views_from_images(images, packed, range(4)) for each in (compiled, plain))
    assert all(torch.allclose(ours[view], theirs[view], atol=1e-3) for view in theirs)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 4  # two functions, two sizes: nothing is recompiled

def broken(graph, inputs):
    raise RuntimeError("no compiler here\\nand more")

torch._dynamo.reset()
torch.compile = partial(compiler, backend=broken)
for stored in (images, None):
    assert "no compiler here" in compiled.compile(4, range(4), stored)
    assert compiled.augment is augment_crops and compiled.crop is crop_on_device
"""


def test_compiles_to_one_graph_for_each_size() -> None:
    """In a separate process: the shape checks of the tests would break the graph."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_operations_that_a_plan_cannot_apply_are_left_out() -> None:
    assert enabled_operations(plan_of(**PLAIN), [0, 1]) == enabled_operations(plan_of(**PLAIN), [2])
    assert enabled_operations(plan_of(**PLAIN), [0]) == EnabledOperations(False, False, False, 0, False)
    full = plan_of(solarize=0.2, blur_radius=(0.1, 2.0))
    assert enabled_operations(full, [0]) == EnabledOperations(False, True, True, 2, True)
    assert enabled_operations(plan_of(**PLAIN | {"rotation": 0.1}), [0]).rotate
    assert enabled_operations(plan_of(**PLAIN | {"vertical_flip": 0.1}), [0]).rotate


def test_all_tensors_stay_on_the_given_device() -> None:
    """With torch's fake tensors, which compute nothing but refuse operands on different devices."""
    plan = plan_of(rotation=0.2, vertical_flip=0.2, solarize=0.2)
    with FakeTensorMode():
        augmenter = GpuAugmenter(plan, "cuda")
        packed = torch.empty(4, 5, COLUMNS, device="cuda")
        crops = {size: torch.empty(2, 5, 3, size, size, dtype=torch.uint8, device="cuda") for size in (40, 18)}
        images = torch.empty(5, 3, 60, 70, dtype=torch.uint8, device="cuda")
        for views in (
            augmenter.views_from_crops(crops, packed, range(4)),
            augmenter.views_from_images(images, packed, range(4)),
        ):
            assert {view.device.type for view in views.values()} == {"cuda"}
            assert [tuple(views[number].shape) for number in range(4)] == [(5, 3, 40, 40)] * 2 + [(5, 3, 18, 18)] * 2
