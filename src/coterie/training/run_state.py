"""The state of a run besides its weights: facts from its start, bad images, and work that is due."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunState:
    """The part of a checkpoint that belongs to the run itself; plain values only.

    Attributes:
        threads: CPU threads of the main process, kept on a resume so that it is bitwise.
        images: number of images in the source.
        bad_images: the reason for each image that could not be decoded, by its position in the source.
        ended: why the run ended before its last step; None if it did not.
        ended_by: the name of the callback that ended it.
        pending: the names of the callbacks whose slow work is due after the last step and not done, in order.
        lengths: (first step, total steps) of the run as it was started, and of each extension since: the schedules of a step
            span the total that was in force then, or go on along ``stretch``.
        stretch: the values of :class:`coterie.types.Stretch`, since a budget has changed the length; (): none.
        used: seconds of a budget that are used.
        most: steps beyond which a run with a budget is not trained; 0: it has none.
        minutes: the budget by which it was laid out last; 0: none.
    """

    threads: int
    images: int
    bad_images: dict[int, str] = field(default_factory=dict)
    ended: str | None = None
    ended_by: str | None = None
    pending: list[str] = field(default_factory=list)
    lengths: list[tuple[int, int]] = field(default_factory=list)
    stretch: tuple[int, float, int] | tuple[()] = ()
    used: float = 0.0
    most: int = 0
    minutes: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Copy the state for a checkpoint."""
        copies = {name: type(value)(value) for name, value in vars(self).items() if isinstance(value, dict | list)}
        return vars(self) | copies

    @classmethod
    def from_checkpoint(cls, state: Mapping[str, Any]) -> "RunState":
        """Read the state from a checkpoint.

        Earlier versions kept it as ``extra``, without work that is due; only label-free metrics could end a run.
        """
        if "run" in state:
            return cls(**state["run"])
        extra = state["extra"]
        ended = extra.get("ended")
        return cls(extra["threads"], extra["images"], dict(extra["bad"]), ended, "label_free" if ended else None)
