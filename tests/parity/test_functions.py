"""Single functions against the numbers of the originals."""

import re

import pytest
import torch

from coterie.evaluation.probes.knn import knn, knn_predictions
from coterie.grouping.assignment import Sinkhorn, assign
from coterie.optim.lars import Lars
from tests.parity.golden_files import FOLDER, OTHER_FOLDER, Golden, cases, subcases


@pytest.mark.parametrize(("file", "case"), subcases("codes_all"))
def test_sinkhorn(file: Golden, case: dict) -> None:
    arrays = file.tensors()
    scores = arrays[f"{case['name']}/scores"]
    assert scores.shape == (case["extra_rows"] + case["batch_rows"], case["groups"])
    codes = assign(Sinkhorn(case["epsilon"], case["iterations"]), scores)
    file.close(codes, arrays[f"{case['name']}/codes_all"], 1e-10)
    file.close(codes[-case["batch_rows"] :], arrays[f"{case['name']}/codes"], 1e-10)


@pytest.mark.parametrize(("file", "case"), subcases("codes_all", of="overflow_cases"))
def test_sinkhorn_where_a_plain_exponential_overflows(file: Golden, case: dict) -> None:
    arrays = file.tensors()
    scores = arrays[f"{case['name']}/scores"]
    assert scores.shape == (case["rows"], case["groups"])
    sinkhorn = Sinkhorn(case["epsilon"], case["iterations"])
    file.close(assign(sinkhorn, scores), arrays[f"{case['name']}/codes"], 1e-10)
    for dtype, finite in case["plain_exponential_finite"].items():
        plain = (scores / case["epsilon"]).to(getattr(torch, dtype)).exp()
        assert finite == bool(plain.isfinite().all() and plain.any())
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        codes = assign(sinkhorn, scores.to(dtype))
        assert codes.dtype == torch.float32
        torch.testing.assert_close(codes.sum(dim=1), torch.ones(len(codes)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("file", "case"), subcases("zero_gradient"))
def test_larc(file: Golden, case: dict) -> None:
    arrays, run = file.tensors(), case["name"]
    weights = {name: arrays[f"{run}/init/{name}"].clone().requires_grad_() for name in case["tensors"]}
    assert {name: list(weight.shape) for name, weight in weights.items()} == case["tensors"]
    assert len(arrays[f"{run}/lr"]) == case["steps"]
    optimizer = Lars(
        weights.values(),
        momentum=case["momentum"],
        weight_decay=case["weight_decay"],
        trust_coeff=case["trust_coefficient"],
        trust_clip=case["clip"],
        eps=case["eps"],
    )
    for step in range(case["steps"]):
        optimizer.param_groups[0]["lr"] = arrays[f"{run}/lr"][step].item()
        for name, weight in weights.items():
            has = bool(arrays[f"{run}/has_grad/{name}"][step])
            weight.grad = arrays[f"{run}/grad/{name}"][step].clone() if has else None
        optimizer.step()
        for name, weight in weights.items():
            file.close(weight.detach(), arrays[f"{run}/after/{name}"][step], 1e-10)
    for name, weight in weights.items():
        file.close(optimizer.state[weight]["momentum_buffer"], arrays[f"{run}/momentum/{name}"], 1e-10)


@pytest.mark.parametrize("file", cases("train_features", "test_features"))
def test_knn(file: Golden) -> None:
    arrays = file.tensors()
    data = [arrays[name] for name in ("train_features", "train_labels", "test_features", "test_labels")]
    assert data[1].unique().tolist() == list(range(file.meta["classes"]))
    assert [[case["k"], case["temperature"]] for case in file.meta["cases"]] == arrays["settings"].tolist()
    for case, top1, top5 in zip(file.meta["cases"], arrays["top1"].tolist(), arrays["top5"].tolist(), strict=True):
        k, temperature = case["k"], case["temperature"]
        name = f"k{k}_t{temperature:g}"
        result = knn(*data, neighbors=[k], temperatures=[temperature])
        assert result[f"{name}_top1"] == pytest.approx(top1, abs=1e-9) == pytest.approx(case["top1"], abs=1e-9)
        assert result[f"{name}_top5"] == pytest.approx(top5, abs=1e-9) == pytest.approx(case["top5"], abs=1e-9)
        predictions = knn_predictions(*data[:3], k=k, temperature=temperature)
        assert torch.equal(predictions, arrays[f"predictions/{name}"])


@pytest.mark.skipif(OTHER_FOLDER, reason="another folder of golden files is tested")
def test_every_golden_file_of_the_readme_is_here() -> None:
    """So that nothing is skipped for want of a file."""
    named = re.findall(r"^\| `(\w+)\.npz`", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert {*named} == {path.stem for path in FOLDER.glob("*.npz")}
    assert len(named) == 21
