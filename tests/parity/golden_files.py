"""The golden files, found by the arrays they hold and not by their names, so other files of the same schema are tested too.

``golden/README.md`` describes the schema. ``$COTERIE_GOLDEN`` names another folder of such files.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

OTHER_FOLDER = "COTERIE_GOLDEN" in os.environ
FOLDER = Path(os.environ.get("COTERIE_GOLDEN", Path(__file__).parent / "golden"))


@dataclass(frozen=True)
class Golden:
    """One golden file: its settings, and its arrays when they are needed."""

    path: Path
    meta: dict[str, Any]

    @property
    def id(self) -> str:
        return self.meta["case"] if self.meta["case"] == self.path.stem else f"{self.meta['case']}@{self.path.stem}"

    @property
    def tolerance(self) -> float:
        return self.meta["tolerance"]["float64_absolute_plus_relative"]

    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name != "meta"}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(array) for name, array in self.arrays().items()}

    def close(self, ours: Any, theirs: Any, tolerance: float | None = None) -> None:
        tolerance = self.tolerance if tolerance is None else tolerance
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=tolerance, atol=tolerance)

    def equal(self, ours: Any, theirs: Any) -> None:
        """Equality of integers; the file says that its labels are clear enough for that."""
        assert self.meta["tolerance"]["integers"] == "equal"
        assert self.meta.get("smallest_argmax_margin", 1.0) > self.tolerance, (
            "rounding could change a label of this file"
        )
        assert torch.equal(torch.as_tensor(ours).long(), torch.as_tensor(theirs).long())


def golden(*keys: str) -> list[Golden]:
    """The files that hold an array with each of these names, or with a name that ends in ``/`` and it."""
    found = []
    for path in sorted(FOLDER.glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files) | {name.rsplit("/", 1)[-1] for name in file.files}
            if set(keys) <= names:
                found.append(Golden(path, json.loads(file["meta"].item())))
    return found


def cases(*keys: str) -> list[Any]:
    """A test parameter for each file, named after its case."""
    missing = pytest.mark.skip(f"no golden file with {' and '.join(keys)} in {FOLDER}")
    return by_case(golden(*keys)) or [pytest.param(None, id="none", marks=missing)]


def by_case(files: list[Golden]) -> list[Any]:
    return [pytest.param(file, id=file.id) for file in files]


def subcases(*keys: str, of: str = "cases") -> list[Any]:
    """A test parameter for each case inside each file, named after both."""
    found = [
        pytest.param(file, case, id=f"{file.id}-{case['name']}")
        for file in golden(*keys)
        for case in file.meta.get(of, [])
    ]
    missing = pytest.mark.skip(f"no {of} in a golden file with {' and '.join(keys)} in {FOLDER}")
    return found or [pytest.param(None, None, id="none", marks=missing)]
