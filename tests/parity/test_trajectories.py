"""SwAV, SMoG, DeepCluster-v2 and momentum teachers against the originals, step by step."""

import pytest
import torch

from tests.parity.checks import check
from tests.parity.golden_files import OTHER_FOLDER, Golden, cases
from tests.parity.trace import Trace
from tests.parity.trajectory import Listed, run, schedule_of

ROUNDINGS = 100
"""A float32 run rounds after every operation, not only at its start: its losses were up to 60 times as far off."""

SCHEDULES = ("encoder_momentum", "target_temperature")


def losses(trace: Trace) -> torch.Tensor:
    return torch.tensor(trace.losses, dtype=torch.float64)


@pytest.mark.parametrize("file", cases("lr", "loss"))
def test_every_number_of_the_trajectory(file: Golden) -> None:
    check(file, run(file))


def drift_of_one_rounding(file: Golden) -> float:
    """By how much the losses change if the start is rounded to float32 once."""
    arrays = file.tensors()
    rounded = {name: value.float().double() if name.startswith("init/") else value for name, value in arrays.items()}
    return (losses(run(file, arrays=rounded)) - arrays["loss"]).abs().max().item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
@pytest.mark.parametrize("file", cases("lr", "loss"))
def test_a_gpu_gives_the_same_losses(file: Golden) -> None:
    """In float64, within 1e-9 or what the trajectory itself makes of one float32 rounding of its start."""
    theirs, drift = file.tensors()["loss"], drift_of_one_rounding(file)
    file.close(losses(run(file, device=torch.device("cuda"))), theirs, max(1e-9, drift))


@pytest.mark.parametrize("file", cases("queue_used", "views_large"))
def test_float32_stays_near(file: Golden) -> None:
    """Within the bounds of golden/README.md, or what the trajectory itself makes of one rounding of its start."""
    theirs, drift = file.tensors()["loss"], drift_of_one_rounding(file)
    ours = losses(run(file, torch.float32))
    file.close(ours[0], theirs[0], 1e-5)
    file.close(ours, theirs, max(1e-3, ROUNDINGS * drift))


@pytest.mark.parametrize("file", cases("encoder_momentum", "views_large"))
def test_the_products_schedules_give_the_values_of_the_file(file: Golden) -> None:
    arrays = file.tensors()
    found = {name: schedule_of(arrays[name], file.meta["steps_per_epoch"]) for name in SCHEDULES if name in arrays}
    listed = [name for name, schedule in found.items() if isinstance(schedule, Listed)]
    if listed and OTHER_FOLDER:
        pytest.skip(
            f"no schedule of the product gives {' and '.join(listed)}: the trajectory was run with the listed values"
        )
    assert not listed
