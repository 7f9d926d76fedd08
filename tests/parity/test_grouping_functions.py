"""Groups, labels and losses of the other methods against the numbers of the originals."""

import pytest
import torch

from coterie.grouping.assignment import Nearest, Sinkhorn, Softmax, assign, label_rows
from coterie.grouping.batch_objective import BatchObjective, Identity
from coterie.grouping.kmeans import moved_centers, nearest_centers, spherical_kmeans
from coterie.grouping.loss import cosine_scores, prediction_loss
from coterie.grouping.regularizers import mean_entropy_loss
from coterie.types import Batch, Progress, Roles, Target
from tests.parity.golden_files import Golden, subcases

START = Progress(0, 1, 1)


@pytest.mark.parametrize(("file", "case"), subcases("starts", "rows"))
def test_spherical_kmeans(file: Golden, case: dict) -> None:
    arrays, name = file.tensors(), case["name"]
    rows = arrays[f"{name}/rows"]
    assert rows.shape == (case["rows"], case["dim"])
    assert len(arrays[f"{name}/starts"]) == case["groups"]
    centers = spherical_kmeans(rows, rows[arrays[f"{name}/starts"]], case["iterations"])
    file.close(centers, arrays[f"{name}/centers"], 1e-10)
    assert torch.equal(nearest_centers(rows, centers), arrays[f"{name}/labels"])


@pytest.mark.parametrize(("file", "case"), subcases("moved", "grad_rows"))
def test_group_move(file: Golden, case: dict) -> None:
    arrays, name = file.tensors(), case["name"]
    rows, groups = arrays[f"{name}/rows"].requires_grad_(), arrays[f"{name}/groups"]
    assert (rows.shape, len(groups)) == ((case["rows"], case["dim"]), case["groups"])
    labels = nearest_centers(rows, groups)
    assert case["groups"] - len(labels.unique()) == case["empty_groups"]
    assert torch.equal(labels, arrays[f"{name}/labels"])
    moved = moved_centers(groups, rows, labels, case["momentum"])
    file.close(moved.detach(), arrays[f"{name}/moved"], 1e-10)
    (moved * arrays[f"{name}/weights"]).sum().backward()
    file.close(rows.grad, arrays[f"{name}/grad_rows"], 1e-10)


@pytest.mark.parametrize(("file", "case"), subcases("labels_converged"))
def test_sela_labels(file: Golden, case: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """SeLa starts from powers of probabilities; the rows stream through in chunks of a few."""
    arrays, name = file.tensors(), case["name"]
    assert arrays[f"{name}/scores"].shape == (case["rows"], case["groups"])
    probabilities = arrays[f"{name}/scores"].log_softmax(dim=1)
    exactly = Sinkhorn(1 / case["sharpness"], case["iterations"], hard=True)
    exact_labels = assign(exactly, probabilities)
    assert torch.equal(exact_labels, arrays[f"{name}/labels"])
    assert torch.equal(exact_labels.bincount(minlength=case["groups"]), arrays[f"{name}/counts"])
    nearest = assign(Nearest(), arrays[f"{name}/scores"])
    assert torch.equal(nearest, arrays[f"{name}/nearest_labels"])
    assert (exact_labels != nearest).double().mean().item() == pytest.approx(case["share_changed_by_balancing"])
    to_the_limit = Sinkhorn(1 / case["sharpness"], 2_000, hard=True, tolerance=1e-6)
    monkeypatch.setattr("coterie.grouping.chunks.CPU_ELEMENTS", 99 * case["groups"])
    labels = label_rows(to_the_limit, arrays[f"{name}/scores"], torch.eye(case["groups"], dtype=torch.float64))
    assert torch.equal(labels, arrays[f"{name}/labels_converged"])
    assert (labels == exact_labels).all() == case["labels_equal_to_converged"]


@pytest.mark.parametrize(("file", "case"), subcases("prototypes", "anchors"))
def test_msn_loss(file: Golden, case: dict) -> None:
    arrays, name = file.tensors(), case["name"]
    anchors, prototypes = (arrays[f"{name}/{each}"].requires_grad_() for each in ("anchors", "prototypes"))
    assert prototypes.shape == (case["groups"], case["dim"])
    p = torch.nn.functional.normalize(anchors, dim=1).unflatten(0, (case["anchor_views"], case["batch"]))
    centers = [torch.nn.functional.normalize(prototypes, dim=1)]
    targets = torch.nn.functional.normalize(arrays[f"{name}/targets"], dim=1)
    sharp = case["temperature"] * case["target_sharpen_temperature"]
    rounds = case["sinkhorn_iterations"]
    assignment = Sinkhorn(sharp, rounds, normalized=True) if rounds else Softmax(sharp)
    codes = assign(assignment, cosine_scores(targets, centers[0]))
    file.close(codes, arrays[f"{name}/target_probabilities"], 1e-10)
    loss = prediction_loss(p, centers, [Target(codes, 0, None)], case["temperature"], range(case["anchor_views"]))
    if case["entropy_weight"]:
        loss = loss + case["entropy_weight"] * mean_entropy_loss(p, centers, case["temperature"])
    file.close(loss.detach(), arrays[f"{name}/loss"], 1e-10)
    loss.backward()
    file.close(anchors.grad, arrays[f"{name}/grad_anchors"], 1e-10)
    file.close(prototypes.grad, arrays[f"{name}/grad_prototypes"], 1e-10)


@pytest.mark.parametrize(("file", "case"), subcases("embeddings", "terms"))
def test_simclr_with_many_crops(file: Golden, case: dict) -> None:
    arrays, name = file.tensors(), case["name"]
    z, terms = arrays[f"{name}/embeddings"].requires_grad_(), arrays[f"{name}/terms"]
    assert z.shape == (case["crops"], case["batch"], case["dim"])
    views = tuple(range(case["crops"]))
    batch = Batch(torch.arange(case["batch"]), dict.fromkeys(views, torch.zeros(case["batch"], 1, 1, 1)))

    def loss(anchors: tuple[int, ...], positives: tuple[int, ...]) -> torch.Tensor:
        # Every crop is in the denominator; only the anchors and their positives change.
        objective = BatchObjective(
            Identity(), Roles(views, views, views), temperature=case["temperature"], gradient=True
        )
        result = objective(lambda _: (z, z, z), batch, START)
        chosen = [target for target in result.targets if target.view in positives]
        return prediction_loss(z[list(anchors)], [z.flatten(0, 1)], chosen, case["temperature"], anchors)

    whole = loss(views, views)
    file.close(whole.detach(), arrays[f"{name}/loss"], 1e-10)
    whole.backward()
    file.close(z.grad, arrays[f"{name}/grad_embeddings"], 1e-10)
    for anchor in views:
        for positive in set(views) - {anchor}:
            file.close(loss((anchor,), (positive,)).detach(), terms[anchor, positive].mean(), 1e-10)
