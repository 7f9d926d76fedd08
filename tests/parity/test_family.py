"""SMoG, DeepCluster-v2 and momentum teachers against the originals, step by step."""

import pytest
import torch

from coterie.types import Progress
from tests.parity.conftest import Golden, cases
from tests.parity.trajectory import Trace, golden_names, run

SMOG = cases("beta", "own_labels")
DEEPCLUSTER = cases("kmeans_starts0", "views_large")
TEACHER = cases("encoder_momentum", "views_large")


def check_losses_and_weights(file: Golden, trace: Trace, arrays: dict[str, torch.Tensor]) -> None:
    file.close(torch.tensor(trace.losses, dtype=torch.float64), arrays["loss"])
    for step in file.meta["probe_steps"]:
        for kind, ours in (("param", trace.parameters), ("grad", trace.gradients), ("target_param", trace.teachers)):
            theirs = {k.split("/")[-1]: v for k, v in arrays.items() if k.startswith(f"probe/{step}/{kind}/")}
            assert kind == "target_param" or {*theirs} >= {*trace.gradients[step]}
            for name, value in theirs.items():
                file.close(ours[step][name], value)
        file.close(trace.results[step].z.flatten(0, 1), arrays[f"probe/{step}/z"])
        if f"probe/{step}/p" in arrays:
            file.close(trace.predictions[step].flatten(0, 1), arrays[f"probe/{step}/p"])
        if f"probe/{step}/z_target" in arrays:
            file.close(trace.decided[step].flatten(0, 1), arrays[f"probe/{step}/z_target"])
    networks = [("final", trace.student.encoder)]
    if trace.teachers:
        networks.append(("final_target", trace.objective.target.network))
    for place, network in networks:
        state = network.state_dict()
        for ours, theirs in golden_names(network).items():
            key = f"{place}/{theirs}" if f"{place}/{theirs}" in arrays else f"{place}_buffers/{theirs}"
            file.close(state[ours], arrays[key])


def check_refreshes(file: Golden, trace: Trace, arrays: dict[str, torch.Tensor]) -> None:
    file.close(trace.first_memory, arrays["initial_memory"])
    file.close(trace.objective.memory.rows, arrays["final_memory"])
    assert torch.equal(trace.objective.memory.index, arrays["final_memory_index"])
    assert len(trace.refreshed) == file.meta["epochs"]
    for epoch, seen in enumerate(trace.refreshed):
        assert torch.equal(seen["index"], arrays["memory_index_at_epoch"][epoch])
        for head, centers in enumerate(seen["centers"]):
            file.close(centers, arrays[f"centers{head}"][epoch])
        if "labels" in arrays:
            assert torch.equal(seen["labels"].long(), arrays["labels"][epoch])
    for head, centers in enumerate(trace.objective.groups.centers()):
        file.close(centers.detach(), arrays[f"final/groups{head}"])


@pytest.mark.parametrize("file", SMOG)
def test_smog(file: Golden) -> None:
    arrays, trace = file.tensors(), run(file)
    check_losses_and_weights(file, trace, arrays)
    check_refreshes(file, trace, arrays)
    for step, result in trace.results.items():
        labels = torch.stack([target.values for target in result.targets]).unflatten(0, (-1, 2))
        assert torch.equal(labels, arrays["target_labels"][step])
        for head, centers in enumerate(trace.groups[step]):
            file.close(centers, arrays[f"groups_after_step{head}"][step])
        progress = Progress(step, file.meta["steps_per_epoch"], len(arrays["loss"]))
        beta = trace.objective.groups.momentum.at(progress)
        file.close(torch.tensor(beta, dtype=torch.float64), arrays["beta"][step])


@pytest.mark.parametrize("file", DEEPCLUSTER)
def test_deepcluster_v2(file: Golden) -> None:
    arrays, trace = file.tensors(), run(file)
    check_losses_and_weights(file, trace, arrays)
    check_refreshes(file, trace, arrays)
    for step in file.meta["probe_steps"]:
        labels = torch.stack([target.values for target in trace.results[step].targets])
        assert torch.equal(labels, arrays[f"probe/{step}/labels"])


@pytest.mark.parametrize("file", TEACHER)
def test_momentum_teacher(file: Golden) -> None:
    arrays, trace = file.tensors(), run(file)
    check_losses_and_weights(file, trace, arrays)
    for step in file.meta["probe_steps"]:
        codes = torch.stack([target.values for target in trace.results[step].targets])
        file.close(codes, arrays[f"probe/{step}/codes"])
        if "center" in arrays:
            file.close(trace.teachers[step]["center"], arrays[f"probe/{step}/center_before"])
            file.close(trace.teachers[step + 1]["center"], arrays["center"][step])
    file.close(trace.objective.groups.centers()[0].detach(), arrays["final/groups0"])
    if "final_target/groups0" in arrays:
        file.close(trace.objective.target.heads[0].detach(), arrays["final_target/groups0"])
