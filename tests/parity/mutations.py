"""One thing done differently at a time: the trajectories that should notice it, and whether they do."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

import coterie.grouping.objective
from coterie.types import Target
from tests.parity.checks import AnotherLossError, check_outcome, same_losses
from tests.parity.golden_files import FOLDER, Golden
from tests.parity.trajectory import run

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """A change of the product's code, the files in which it shows, and in words what such a file has."""

    apply: Callable[[Patch], None]
    files: list[Golden]
    needs: str


def each_where_it_shows(mutations: Iterable[Mutation]) -> list[Any]:
    """A test parameter for each mutation and file."""
    parameters = []
    for mutation in mutations:
        name = mutation.apply.__name__
        parameters += [pytest.param(mutation.apply, file, id=f"{name}-{file.id}") for file in mutation.files]
        if not mutation.files:
            missing = pytest.mark.skip(f"no golden file in {FOLDER} has {mutation.needs}")
            parameters.append(pytest.param(mutation.apply, None, id=f"{name}-none", marks=missing))
    return parameters


def assert_caught(file: Golden) -> None:
    """With a mutation in place, losses or final state are not those of the file; the run ends at the first other loss.

    Without one they are within a hundredth of its tolerance.
    """
    try:
        trace = run(file, watch=[same_losses(file)])
    except AnotherLossError:
        return
    with pytest.raises(AssertionError):
        check_outcome(file, trace)


def changing(files: list[Golden], name: str) -> list[Golden]:
    """The files whose array of one value per step is not constant."""
    return [file for file in files if len(set(file.arrays()[name].tolist())) > 1]


def within(files: list[Golden], name: str, low: float, high: float) -> list[Golden]:
    """The files in whose array of one value per step some value lies above ``low`` and below ``high``."""
    return [file for file in files if any(low < value < high for value in file.arrays()[name].tolist())]


def change_each_target(patch: Patch, change: Callable[[Target], Target]) -> None:
    loss = coterie.grouping.objective.prediction_loss

    def with_others(p, centers, targets, *rest):
        return loss(p, centers, [change(target) for target in targets], *rest)

    patch.setattr(coterie.grouping.objective, "prediction_loss", with_others)
