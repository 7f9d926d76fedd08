"""What fits into a budget of time on this machine: method, network, size of the images and epochs, each with its reason.

A guess from counted operations says which network and size to rehearse; the rehearsal says whether the guess was right, and how
many epochs fit. Tables that the choices rest on: ``benchmarks/README.md``.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date

from coterie.config.choice import Choice, Scale
from coterie.config.duration import format_minutes
from coterie.config.facts import Facts
from coterie.config.from_options import LENGTH, Request, Resolved
from coterie.config.hardware import Runtime
from coterie.config.schema import PretrainConfig
from coterie.errors import UserError
from coterie.formatting import format_duration
from coterie.methods.imagenet import PUBLISHED
from coterie.models.backbone import OWN
from coterie.reporting.run_callbacks import embedded_images
from coterie.training.profiling.estimate import estimate
from coterie.training.profiling.extrapolation import Rehearsal
from coterie.training.profiling.operations import forward_operations
from coterie.usable_cores import usable_cores

MARGIN = 0.03
"""Share of a budget that is not planned for: checkpoints, and what a rehearsal does not see."""
DEFAULT_MINUTES = 60.0
"""What a run on a CPU takes at most where neither its time nor its length is given."""
GROUPING_MINUTES = 10.0
"""From so many on groups add to the features; between 5 and 20 nothing was measured."""
ENOUGH_IMAGES, ENOUGH_EPOCHS = 400_000, 200
"""A larger network has to see so many images, or all of them so many times: about what the tables' 20 minutes of a core see."""
WIDTHS = (3 / 16, 1 / 4, 1 / 2, 1.0)
"""Of a ResNet-18 for small images, the first as in the tables."""
REDUCED = (Scale(96, "resnet18", 1 / 4), Scale(128, "resnet18", 1 / 4), Scale(128, "resnet18", 1 / 2))
"""Of a ResNet-18 for photographs that are seen small, with crops of 3/4 and 1/2 of the side."""
LARGER = (Scale(128, "resnet18"), Scale(171, "resnet18"))
SLOWER = 0.8
"""A network that computes r times as much takes r to this power as long: 8 to 12 times for 13 to 28 (``docs/log.md``)."""
OPERATIONS_PER_SECOND = {"cpu": 6e10, "cuda": 2e13}
"""Of a core, or of a GPU, in a training step: the guess that a rehearsal corrects."""
PASSES = 3
"""Forward and backward pass of a step, in forward passes."""


@dataclass(frozen=True)
class Measured:
    """A rehearsal of a run, or where there can be none, a guess."""

    rehearsal: Rehearsal
    guessed: bool = False


_PUBLISHED = {each.__name__ for each in PUBLISHED}

Measure = Callable[[Resolved], Rehearsal | None]
"""Rehearses a run; None where that is not possible."""


@dataclass(frozen=True)
class Fitted:
    """A run that fits into a budget.

    Attributes:
        resolved: its images, settings and reasons.
        rehearsal: what its time was extrapolated from; None: a guess.
        most_steps: the steps beyond which it is not trained, however much time is left.
    """

    resolved: Resolved
    rehearsal: Rehearsal | None
    most_steps: int


def choose_method(facts: Facts, minutes: float) -> tuple[str, str]:
    """The method for such images and such a budget, where none is named, and why.

    20-NN on 5,000 other training images, after 5 and after 20 minutes of a core on 10,000 images of CIFAR-10, one seed
    (``docs/log.md``): simclr 49.4 and 59.0, swav 48.4 and 60.8, smog 48.9 and 61.0. Groups of a network that knows little teach
    little. SwAV is chosen over SMoG because it has been tried on more kinds of images.

    Args:
        facts: about the images.
        minutes: the budget.
    """
    if minutes < GROUPING_MINUTES:
        return (
            "simclr",
            "no method is named; ahead after 5 minutes on small images (docs/log.md: 20-NN 49.4, swav 48.4)",
        )
    return "swav", "no method is named; ahead after 20 minutes on small images (docs/log.md: 20-NN 60.8, simclr 59.0)"


class BudgetPlan:
    """Fits a run into a budget."""

    def __init__(
        self,
        request: Request,
        minutes: float,
        measure: Measure,
        used: Callable[[], float],
        *,
        device: str,
        default: bool = False,
    ) -> None:
        """Plan a run.

        Args:
            request: what the caller wants.
            minutes: the budget.
            measure: rehearses a run.
            used: seconds of the budget that are used by now.
            device: type of the device that trains.
            default: nobody asked for this budget: a run that it cannot pay for is not refused.
        """
        self.request, self.minutes, self.measure, self.used = request, minutes, measure, used
        self.device, self.default = device, default
        self.says = f"{format_duration(60 * minutes)} on this {'CPU' if device == 'cpu' else 'GPU'}"
        if default:
            self.says = f"about {self.says}, the default without --time and --epochs"
        self.method, self.reasons = request.method, dict[str, str]()
        if self.method is None:
            self.method, self.reasons["method"] = choose_method(request.facts, minutes)

    def fitted(self) -> Fitted:
        """The run that fits.

        Raises:
            UserError: not one epoch fits; the line says what would.
        """
        scales, sizes = self.scales()
        seconds = [self.guessed_step(each) for each in sizes]
        number = self._affordable(seconds, sizes[0])
        found = self._measured(scales[number], sizes[number], seconds[number])
        scaled = [found.rehearsal.step * slower(each, sizes[number]) for each in sizes]
        better = self._affordable(scaled, sizes[0])
        if better != number and not found.guessed:
            number, before = better, scaled[better]
            found = self._measured(scales[number], sizes[number], before)
        return self._with_epochs(scales, number, found)

    def scales(self) -> tuple[tuple[Scale, ...], list[PretrainConfig]]:
        """What there is to choose between, from the fastest to the slowest, and the settings of each."""
        chosen = self._scales() if self.request.planned and self.method not in _PUBLISHED else (Scale(),)
        return chosen, [self._resolved(each).config for each in chosen]

    def _scales(self) -> tuple[Scale, ...]:
        """What the user sets is not chosen: a network, the weights to start from, crops."""
        request, paths = self.request, [path for path, _ in self.request.overrides]
        own_network = request.start is not None or any(
            path.startswith("backbone.") for path in (*request.requested, *paths)
        )
        own_size = request.start is not None or any(path.startswith("views.crops") for path in paths)
        if request.facts.small:
            scales = [Scale(None, "resnet18", width) for width in WIDTHS]
        else:
            scales = [*REDUCED, *LARGER, *([Scale()] if self.device != "cpu" or own_size else [])]
        scales = [replace(each, side=None) if own_size else each for each in scales]
        scales = [Scale(each.side) if own_network else each for each in scales]
        return tuple(dict.fromkeys(scales))

    def _resolved(self, scale: Scale, epochs: int | None = None) -> Resolved:
        return self.request.resolved(Choice(self.method, scale, epochs, self.reasons))

    @property
    def _images(self) -> int:
        return len(self.request.source)

    def most(self, config: PretrainConfig) -> int:
        """The most steps: those that were requested, or about ten million images."""
        return config.total_steps(self._images)

    def _left(self) -> float:
        return 60 * self.minutes * (1 - MARGIN) - self.used()

    def _affordable(self, seconds: Sequence[float], config: PretrainConfig) -> int:
        """The number of the slowest scale that sees enough images in the budget; else of the fastest."""
        limit = self.most(config) * config.batch_size
        wanted = min(ENOUGH_IMAGES, ENOUGH_EPOCHS * self._images, limit)
        enough = [number for number, each in enumerate(seconds) if self._left() / each * config.batch_size >= wanted]
        return max(enough, default=0)

    def guessed_step(self, config: PretrainConfig) -> float:
        """The time of a step, guessed."""
        if config.backbone.name.startswith(OWN):
            return 0.0
        cores = len(usable_cores()) if self.device == "cpu" else 1
        each = PASSES * forward_operations(config) / (OPERATIONS_PER_SECOND[self.device] * cores)
        return each * config.batch_size

    def _measured(self, scale: Scale, config: PretrainConfig, step: float) -> Measured:
        """Rehearse a run of about the length that fits; a guess where that is not possible."""
        per_epoch = max(1, self._images // config.batch_size)
        epochs = int(max(1, min(config.epochs, self._left() / max(step, 1e-9) / per_epoch)))
        found = self.measure(self._resolved(scale, epochs))
        if found is not None:
            return Measured(found)
        batch = config.batch_size
        guess = Rehearsal(step, 0.0, 0.0, step / batch / PASSES, 0.0, batch, batch, 1, date.today().isoformat())
        return Measured(guess, guessed=True)

    def fitting_epochs(self, config: PretrainConfig, rehearsal: Rehearsal) -> tuple[int, float]:
        """The epochs that fit, 0 if none does, and the seconds that one epoch takes with everything before and after it."""
        runtime = Runtime.of_run(config.run)

        def seconds(epochs: int) -> float:
            length = replace(config, epochs=epochs, images=None)
            return estimate(length, self._images, rehearsal, **embedded_images(length, self._images, runtime)).seconds

        per_epoch = max(1, self._images // config.batch_size)
        most = -(-self.most(config) // per_epoch)
        return bisect_right(range(1, most + 1), self._left(), key=seconds), seconds(1)

    def _with_epochs(self, scales: Sequence[Scale], number: int, found: Measured) -> Fitted:
        full, step = self._resolved(scales[number]), found.rehearsal.step
        epochs, one = self.fitting_epochs(full.config, found.rehearsal)
        if not epochs and not found.guessed and not self.default:
            shortest = format_minutes((one + self.used()) / (1 - MARGIN) / 60)
            raise UserError(
                f"--time {format_minutes(self.minutes)} is too short for one epoch of {self._images:,} images: give --time "
                f"{shortest} or more"
            )
        most, per_epoch = self.most(full.config), self._images // full.config.batch_size
        asked = not self.request.planned or any(self.request.asked(path) is not None for path in LENGTH)
        if max(1, epochs) * per_epoch >= most:
            before = "requested" if asked else full.reasons["epochs"]
            epochs, why = full.config.epochs, f"{before}; that fits into {self.says}"
        elif epochs:
            fewer = f"the {full.config.epochs} requested" if asked else f"the {full.config.epochs} that may help"
            basis = (
                "guessed, as several processes are not rehearsed" if found.guessed else f"from {found.rehearsal.basis}"
            )
            why = f"what fits into {self.says}, fewer than {fewer}: {step:.2g} s per step ({basis})"
        else:
            epochs, why = 1, f"one epoch takes longer than {self.says}"
        reasons = self._scale_reasons(scales, number) | {"epochs": why}
        keeps_images = epochs == full.config.epochs and full.config.images is not None
        choice = Choice(self.method, scales[number], None if keeps_images else epochs, reasons)
        resolved = self.request.resolved(choice)
        return Fitted(resolved, None if found.guessed else found.rehearsal, most)

    def _scale_reasons(self, scales: Sequence[Scale], number: int) -> dict[str, str]:
        """Why this network and this size."""
        if len(scales) == 1:
            return self.reasons
        scale, reasons = scales[number], dict(self.reasons)
        size = "the largest" if number == len(scales) - 1 else "the smallest" if not number else "one"
        wanted = min(ENOUGH_IMAGES, ENOUGH_EPOCHS * self._images)
        why = f"{size} of {len(scales)} that see some {wanted:,} images in {self.says}"
        if not number:
            why = f"{size} of {len(scales)}: {self.says} are short for {wanted:,} images seen"
        if scale.network is not None:
            reasons |= {"backbone.name": why, "backbone.width": why}
        if scale.side is not None:
            seen = f"whole images are seen at {scale.side} pixels, crops at 3/4 and 1/2 of that"
            reasons["views.crops"] = f"{seen}; {why}"
        return reasons


def slower(config: PretrainConfig, other: PretrainConfig) -> float:
    """How many times as long as with ``other`` a step of as many images takes, from counted operations."""
    if config == other or config.backbone.name.startswith(OWN):
        return 1.0
    return float((forward_operations(config) / forward_operations(other)) ** SLOWER)


def is_long(request: Request, device: str) -> bool:
    """Whether a run on a CPU of which neither time nor length is given takes longer than the default, by a guess."""
    if device != "cpu" or not request.planned or any(request.asked(path) is not None for path in LENGTH):
        return False
    plan = BudgetPlan(request, DEFAULT_MINUTES, lambda _: None, lambda: 0.0, device=device)
    config = request.resolved(Choice(plan.method)).config
    return plan.guessed_step(config) * plan.most(config) > 60 * DEFAULT_MINUTES
