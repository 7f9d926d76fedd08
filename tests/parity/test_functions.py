"""Single functions against the numbers of the originals."""

import os

import pytest
import torch

from coterie.evaluation.probes.knn import knn, knn_predictions
from coterie.grouping.assignment import Sinkhorn, assign
from coterie.optim.lars import Lars
from tests.parity.conftest import FOLDER, Golden, cases, subcases


@pytest.mark.parametrize(("file", "case"), subcases("codes_all"))
def test_sinkhorn(file: Golden, case: dict) -> None:
    arrays = file.tensors()
    codes = assign(Sinkhorn(case["epsilon"], case["iterations"]), arrays[f"{case['name']}/scores"])
    file.close(codes, arrays[f"{case['name']}/codes_all"], 1e-10)
    file.close(codes[-case["batch_rows"] :], arrays[f"{case['name']}/codes"], 1e-10)


@pytest.mark.parametrize(("file", "case"), subcases("codes_all", of="overflow_cases"))
def test_sinkhorn_where_a_plain_exponential_overflows(file: Golden, case: dict) -> None:
    arrays = file.tensors()
    sinkhorn = Sinkhorn(case["epsilon"], case["iterations"])
    file.close(assign(sinkhorn, arrays[f"{case['name']}/scores"]), arrays[f"{case['name']}/codes"], 1e-10)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        codes = assign(sinkhorn, arrays[f"{case['name']}/scores"].to(dtype))
        assert codes.dtype == torch.float32
        torch.testing.assert_close(codes.sum(dim=1), torch.ones(len(codes)), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("file", "case"), subcases("zero_gradient"))
def test_larc(file: Golden, case: dict) -> None:
    arrays, run = file.tensors(), case["name"]
    weights = {name: arrays[f"{run}/init/{name}"].clone().requires_grad_() for name in case["tensors"]}
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
    for (k, temperature), top1, top5 in zip(
        arrays["settings"].tolist(), arrays["top1"].tolist(), arrays["top5"].tolist(), strict=True
    ):
        name = f"k{int(k)}_t{temperature:g}"
        result = knn(*data, neighbors=[int(k)], temperatures=[temperature])
        assert result[f"{name}_top1"] == pytest.approx(top1, abs=1e-9)
        assert result[f"{name}_top5"] == pytest.approx(top5, abs=1e-9)
        predictions = knn_predictions(*data[:3], k=int(k), temperature=temperature)
        assert torch.equal(predictions, arrays[f"predictions/{name}"])


@pytest.mark.skipif("COTERIE_GOLDEN" in os.environ, reason="another folder of golden files is tested")
def test_the_golden_files_are_here() -> None:
    """So that nothing is skipped for want of a file."""
    assert {"sinkhorn", "larc", "knn", "swav_plain", "swav_multicrop_queue", "swav_multicrop_queue_bn"} <= {
        path.stem for path in FOLDER.glob("*.npz")
    }
