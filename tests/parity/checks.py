"""Every number that a golden trajectory states, compared with what the product's run gave."""

import re

import torch
from torch import Tensor

from coterie.grouping.assignment import Centered
from coterie.grouping.kmeans import nearest_centers
from coterie.grouping.loss import cosine_scores
from coterie.training.loop import StepHook
from coterie.types import Progress, StepResult
from tests.parity.golden_files import Golden
from tests.parity.network import golden_names
from tests.parity.trace import Trace, newest_batch_first

INPUTS = (
    r"index|epoch|step|lr|encoder_momentum|target_temperature|init_index|init_views_large|kmeans_starts\d+"
    r"|(views|family_[ab])_(large|small)|init(_buffers)?/.*"
)
NOT_OURS = r"final/groups0"
"""Of SwAV: the groups as the optimizer left them, before they are divided by their norm; ours are divided at once."""


def check(file: Golden, trace: Trace) -> None:
    """All of them; a file with an array that nothing here compares fails too."""
    arrays = file.tensors()
    ours = step_values(file.meta, trace) | final_values(file.meta, trace) | refreshed_values(trace)
    for step in file.meta["probe_steps"]:
        probes = {f"probe/{step}/{name}": value for name, value in probe_values(trace, step).items()}
        gradients = f"probe/{step}/grad/"
        assert stated(probes, gradients) == stated(arrays, gradients)  # frozen groups have no gradient at all
        ours |= probes
    outputs = [name for name in arrays if not re.fullmatch(INPUTS, name)]
    if "final/groups0_unit" in arrays:
        outputs.remove(NOT_OURS)
    assert not {*outputs} - {*ours}, "nothing of ours is compared with these"
    for name in outputs:
        compare(file, name, ours[name], arrays[name])
    if "image_visits_without_label" in file.meta:
        without = [(result.targets[0].values == -100).sum().item() for result in trace.results.values()]
        assert sum(without) == file.meta["image_visits_without_label"]


class AnotherLossError(Exception):
    """The loss of a step is not that of the file."""


def same_losses(file: Golden) -> StepHook:
    """Ends a run at the first step whose loss is another than in the file: nothing after it needs to be computed."""
    losses = file.tensors()["loss"]

    def compare(progress: Progress, result: StepResult) -> None:
        try:
            file.close(result.loss.detach(), losses[progress.step])
        except AssertionError as error:
            raise AnotherLossError from error

    return compare


def check_outcome(file: Golden, trace: Trace) -> None:
    """The losses and the final state alone."""
    arrays = file.tensors()
    file.close(torch.tensor(trace.losses, dtype=torch.float64), arrays["loss"])
    for name, value in final_values(file.meta, trace).items():
        if name in arrays and not (name == NOT_OURS and "final/groups0_unit" in arrays):
            compare(file, name, value, arrays[name])


def compare(file: Golden, name: str, ours: Tensor, theirs: Tensor) -> None:
    try:
        if theirs.is_floating_point():
            file.close(ours, theirs)
        else:
            file.equal(ours, theirs)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error


def stated(values: dict[str, Tensor], start: str) -> set[str]:
    return {name for name in values if name.startswith(start)}


def step_values(meta: dict, trace: Trace) -> dict[str, Tensor]:
    """What the file states of every step."""
    steps = range(len(trace.losses))
    values = {
        "loss": torch.tensor(trace.losses, dtype=torch.float64),
        "queue_used": torch.tensor(trace.memory_used),
    }
    if isinstance(trace.objective.assignment, Centered):
        used = [trace.teachers[step]["center"] for step in steps]
        values["center"] = torch.stack([*used[1:], trace.objective.assignment.get_buffer("center0")])
    if "beta_start" in meta:
        heads = range(len(meta["groups"]))
        progress = [Progress(step, meta["steps_per_epoch"], len(steps)) for step in steps]
        beta = [trace.objective.groups.momentum.at(each) for each in progress]
        labels = [torch.stack([target.values for target in trace.results[step].targets]) for step in steps]
        values["beta"] = torch.tensor(beta, dtype=torch.float64)
        values["target_labels"] = torch.stack(labels).unflatten(1, (len(heads), -1))
        values["own_labels"] = torch.stack([own_labels(meta, trace, step) for step in steps])
        values |= {f"groups_after_step{h}": torch.stack([trace.groups[step][h] for step in steps]) for h in heads}
    return values


def own_labels(meta: dict, trace: Trace, step: int) -> Tensor:
    """For each head, the old group nearest to each of the rows that move its groups (the student's first views)."""
    grouped = trace.results[step].z[: len(meta["student_large_views"])]
    old = [trace.parameters[step][f"groups{h}"] for h in range(len(meta["groups"]))]
    return torch.stack([nearest_centers(grouped[h % len(grouped)], centers) for h, centers in enumerate(old)])


def probe_values(trace: Trace, step: int) -> dict[str, Tensor]:
    """What the file states of its probe steps."""
    parameters, teacher = trace.parameters[step], trace.teachers.get(step, {})
    groups = {name: value for name, value in parameters.items() if name.startswith("groups")}
    z = trace.results[step].z.flatten(0, 1)
    targets = torch.stack([target.values for target in trace.results[step].targets])
    values = {"z": z, "p": trace.predictions[step].flatten(0, 1), "codes": targets, "labels": targets}
    values["scores"] = cosine_scores(z, groups["groups0"])
    for h, centers in enumerate(groups.values()):
        values |= {f"scores{h}": cosine_scores(z, centers), f"groups_before{h}": centers}
    if step in trace.teacher_embeddings:
        values["z_target"] = trace.teacher_embeddings[step].flatten(0, 1)
        values["scores_target"] = cosine_scores(values["z_target"], teacher.get("groups0", groups["groups0"]))
    for kind, each in (("param", parameters), ("grad", trace.gradients[step]), ("target_param", teacher)):
        values |= {f"{kind}/{name}": value for name, value in each.items()}
    if "center" in teacher:
        values["center_before"] = teacher["center"]
    if step in trace.memories:
        values["queue_before"] = trace.memories[step]
    return values


def final_values(meta: dict, trace: Trace) -> dict[str, Tensor]:
    """What the file states of the end of the run."""
    values = {}
    networks = {"final": trace.student.encoder}
    if trace.teachers:
        networks["final_target"] = trace.objective.target.network
        values |= {f"final_target/groups{h}": each for h, each in enumerate(trace.objective.target.heads)}
    for place, network in networks.items():
        state = network.state_dict()
        for ours, theirs in golden_names(network).items():
            values[f"{place}{'_buffers' * ('running' in theirs)}/{theirs}"] = state[ours]
    for h, centers in enumerate(trace.objective.groups.centers()):
        values[f"final/groups{h}"] = values[f"final/groups{h}_unit"] = centers.detach()
    memory = trace.objective.memory
    if memory is not None:
        values |= {"final_memory": memory.rows, "final_memory_index": memory.index}
        values["final_queue"] = newest_batch_first(memory.rows, memory.pushed, meta["batch"])
    return values


def refreshed_values(trace: Trace) -> dict[str, Tensor]:
    """What the file states of each epoch's k-means."""
    if not trace.refreshes:
        return {}
    values = {"initial_memory": trace.first_memory}
    values["memory_index_at_epoch"] = torch.stack([each["index"] for each in trace.refreshes])
    for h in range(len(trace.refreshes[0]["centers"])):
        values[f"centers{h}"] = torch.stack([each["centers"][h] for each in trace.refreshes])
    if trace.refreshes[0]["labels"] is not None:
        values["labels"] = torch.stack([each["labels"] for each in trace.refreshes])
    return values
