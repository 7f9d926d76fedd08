"""What only a CUDA device can show; skipped without one."""

import json
from pathlib import Path

import pytest
import torch

import coterie
from coterie.cli.demo import write_patches
from coterie.data.sources.builtin_photos import photo_patches
from coterie.grouping.assignment import Sinkhorn, assign

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def test_codes_on_the_device_are_those_of_the_cpu() -> None:
    scores = torch.rand(2, 512, 300, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(
        assign(Sinkhorn(), scores.cuda()).cpu(), assign(Sinkhorn(), scores), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_train_stop_go_on_embed_and_evaluate(tmp_path: Path, precision: str) -> None:
    table = tmp_path / "patches.parquet"
    write_patches(table, photo_patches("train", 256, 32))
    settings = ("run.device=cuda", f"run.precision={precision}", "run.save_steps=3", "run.log_steps=1", "run.workers=2")
    small = ("backbone.width=0.25", "groups.counts=[20]", "memory.length=64", "memory.start_epoch=1")
    run = coterie.pretrain("swav", table, out=tmp_path / "run", epochs=4, batch_size=64, settings=(*settings, *small))
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(torch.tensor(losses).isfinite())
    newest = sorted((run / "checkpoint").glob("step-*.pt"))[-1]
    newest.unlink()  # as if it had been stopped before the end
    coterie.pretrain("swav", table, out=run, epochs=4, batch_size=64, settings=(*settings, *small))
    again = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert again == pytest.approx(losses, rel=0.05)
    assert coterie.embed(run, table, tmp_path / "rows.parquet") == 256
    assert coterie.evaluate(run, table)["knn"]["k1_t0.07_top1"] > 0
