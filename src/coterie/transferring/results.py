"""What heads trained on several networks reach: one table, with the deviation over the seeds."""

import statistics
from collections.abc import Mapping, Sequence

from coterie.formatting import end_of
from coterie.table import ShownInTables, TextTable

NEW = "new weights"
"""The row of the untrained network."""
_ROOM = 44
"""Characters of a row's name, at most."""


class HeadResults(ShownInTables, dict[str, dict[str, list[float]]]):
    """``{network: {metric: [value of each seed]}}``, in percent; the first row is that of :data:`NEW` weights.

    Attributes:
        columns: the figures of the table, the leading one first, and how people call them.
        seeds: in the order of the values.
        line: what was trained on what.
        details: whether every figure is shown.
    """

    def __init__(
        self, columns: Mapping[str, str], seeds: Sequence[int], figures: Mapping[str, Mapping[int, dict[str, float]]]
    ) -> None:
        """Hold the figures of each network and seed; those that not all seeds have are left out."""
        super().__init__()
        self.columns, self.seeds, self.details, self.line = dict(columns), tuple(seeds), False, ""
        for name, found in figures.items():
            every = [found[seed] for seed in seeds]
            self[name] = {key: [each[key] for each in every] for key in every[0] if all(key in each for each in every)}

    @property
    def gains(self) -> dict[str, list[float]]:
        """By how much each network is above new weights in the leading figure: seed by seed, on the same images."""
        leading = next(iter(self.columns))
        new = self[NEW][leading]
        return {
            name: [value - other for value, other in zip(found[leading], new, strict=True)]
            for name, found in self.items()
            if name != NEW
        }

    def summary(self) -> dict[str, dict[str, dict[str, float]]]:
        """``{network: {metric: {"mean": ..., "deviation": ...}}}``; the deviation is that of a sample, of two seeds or more."""
        return {
            name: {key: _mean_and_deviation(values) for key, values in found.items()} for name, found in self.items()
        }

    def headline(self) -> str:
        """What the MODEL reaches, and by how much that is above new weights, in a sentence."""
        leading, title = next(iter(self.columns.items()))
        first, gain = next(iter(self.gains.items()))
        told = f"{end_of(first, _ROOM)}: {title} {said(self[first][leading])}"
        return f"{told}, {said(gain, signed=True)} over {NEW} ({self._seeds})"

    @property
    def _seeds(self) -> str:
        return f"{len(self.seeds)} seeds, ± their standard deviation" if len(self.seeds) > 1 else "one seed"

    def table(self) -> TextTable:
        """A row for each network."""
        title, gains = next(iter(self.columns.values())), self.gains
        keys = self.columns if not self.details else {**{key: key for key in next(iter(self.values()))}, **self.columns}
        shown = {key: name for key, name in keys.items() if all(key in found for found in self.values())}
        rows = [
            (
                end_of(name, _ROOM),
                *(said(found[key]) for key in shown),
                said(gains[name], signed=True) if name in gains else "",
            )
            for name, found in self.items()
        ]
        header = (f"%, {self._seeds.partition(',')[0]}", *shown.values(), f"{title} over {NEW}")
        return TextTable(header, tuple(rows), "<" + ">" * (len(shown) + 1))

    def tables(self) -> Sequence[TextTable | str]:
        """A headline, and a row for each network."""
        return [*([self.line] if self.line else []), self.headline(), "", self.table()]


def said(values: Sequence[float], *, signed: bool = False) -> str:
    """A mean and its deviation in a few characters, such as 55.1 ± 1.2.

    Args:
        values: one for each seed.
        signed: whether a plus is written too.
    """
    found = _mean_and_deviation(values)
    mean = f"{found['mean']:+.1f}" if signed else f"{found['mean']:.1f}"
    return f"{mean} ± {found['deviation']:.1f}" if "deviation" in found else mean


def _mean_and_deviation(values: Sequence[float]) -> dict[str, float]:
    found = {"mean": statistics.fmean(values)}
    return found | {"deviation": statistics.stdev(values)} if len(values) > 1 else found
