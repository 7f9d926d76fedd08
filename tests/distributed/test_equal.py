"""W processes follow the trajectory of one, and any other number of processes can resume it."""

from typing import Any

import pytest
import torch
from torch.utils import _pytree as tree

from tests.distributed.running import CASES, STEPS, on_processes

CHAIN = (
    (2, 0, 4),
    (1, 4, 5),
    (3, 5, 7),
    (2, 7, 9),
)  # processes, from step, to step: each starts in the middle of an epoch
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return on_processes(1, tmp_path_factory.mktemp("alone"), 0, STEPS, None)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder, states, links = tmp_path_factory.mktemp("chain"), None, []
    for world, start, until in CHAIN:
        states = on_processes(world, folder / str(start), start, until, states)
        links.append(states)
    return links


@pytest.mark.parametrize("case", CASES)
def test_any_number_of_processes_equals_one(case: str, alone: dict[str, Any], chain: list[dict[str, Any]]) -> None:
    assert CHAIN[-1][2] == STEPS
    losses = torch.tensor([loss for link in chain for loss in link[case]["losses"]], dtype=torch.float64)
    theirs = torch.tensor(alone[case]["losses"], dtype=torch.float64)
    torch.testing.assert_close(losses, theirs, **CLOSE)
    assert losses.std() > 1e-4, "nothing happened"
    seen = [index for link in chain for index in link[case]["indices"]]
    assert all(torch.equal(a, b) for a, b in zip(seen, alone[case]["indices"], strict=True))
    ours, spec = tree.tree_flatten(chain[-1][case]["state"])
    expected, other = tree.tree_flatten(alone[case]["state"])
    assert spec == other
    for mine, one in zip(ours, expected, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(mine, one, **CLOSE)
        else:
            assert mine == one
