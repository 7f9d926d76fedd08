"""What ten minutes, an hour and ten hours would train: one rehearsal, scaled by counted operations."""

from dataclasses import replace

from coterie.config.facts import Facts
from coterie.config.from_options import Request, Resolved
from coterie.config.schema import PretrainConfig
from coterie.errors import UserError
from coterie.methods.budget import BudgetPlan, slower
from coterie.training.profiling.estimate import Alternative
from coterie.training.profiling.extrapolation import Rehearsal

BUDGETS = (10.0, 60.0, 600.0)
MEASURED_SIDE = 64
"""Color images up to this side are like those of the one table with an accuracy."""
MEASURED = (
    "measured on small color images: 20-NN 60.8 % after 20 minutes of one core, on 10,000 images of CIFAR-10 "
    "(docs/log.md)"
)


def budget_table(
    request: Request, config: PretrainConfig, rehearsal: Rehearsal, before: float, device: str
) -> tuple[Alternative, ...]:
    """A row for each budget; nothing is rehearsed.

    Args:
        request: what the caller wants.
        config: the settings that were rehearsed.
        rehearsal: what was measured.
        before: seconds from the start of the command to the first batch.
        device: type of the device that trains.
    """

    def scaled(run: Resolved) -> Rehearsal:
        times = slower(run.config, config)
        step = rehearsal.step * times * run.config.batch_size / config.batch_size
        return replace(rehearsal, step=step, embedding=rehearsal.embedding * times)

    return tuple(_row(BudgetPlan(request, minutes, scaled, lambda: before, device=device)) for minutes in BUDGETS)


def measured_line(facts: Facts) -> str | None:
    """The accuracy that the committed tables have for such images; None: they have none."""
    return MEASURED if facts.color and facts.side <= MEASURED_SIDE else None


def _row(plan: BudgetPlan) -> Alternative:
    try:
        fitted = plan.fitted()
    except UserError:  # the line of the table says it
        return Alternative(plan.minutes, None, 0, 0)
    config, images = fitted.resolved.config, len(fitted.resolved.source)
    return Alternative(plan.minutes, config, config.epochs, config.total_steps(images) * config.batch_size)
