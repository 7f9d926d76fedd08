"""The page of a real run, at its end and written again later from its folder alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import coterie
from coterie.cli.demo import write_patches
from coterie.config.hardware import Runtime
from coterie.config.toml import from_dict, read_toml
from coterie.data.sources.builtin_photos import photo_patches
from coterie.data.sources.open import open_source
from coterie.embedding.embed import embed_source
from coterie.errors import BadRun
from coterie.exporting.backbone_file import load_backbone
from coterie.grouping.loss import cosine_scores
from coterie.logger import NullLogger
from coterie.reporting.run_report import gallery_groups, report_run, rewrite_report, sample_size
from coterie.training import checkpoint_io
from coterie.training.build import build_student
from coterie.training.environment import environment
from coterie.training.run_folder import write_facts
from coterie.training.student import preprocessing_of

SETTINGS = (
    "views.crops.0.size=16 views.crops.1.size=8 views.crops.1.count=1 backbone.width=0.125 groups.counts=[8] "
    "run.threads=1 run.log_steps=2 run.workers=0"
).split()


class Hearing(NullLogger):
    def __init__(self) -> None:
        self.warned: list[str] = []

    def warning(self, text: str) -> None:
        self.warned.append(text)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_patches(folder / "patches.parquet", photo_patches("train", 72, 16))
    return coterie.pretrain(
        "swav", folder / "patches.parquet", out=folder / "swav", epochs=1, batch_size=16, settings=SETTINGS
    )


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The run once more, with a page that any report replaces."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("old")
    return tmp_path / "run"


def test_it_is_written_again_from_the_folder_alone(copy: Path) -> None:
    why = [("batch_size", "16", "because it is a test")]
    write_facts(copy, images=72, automatic=why, environment={"device": "the machine of the run"})
    (copy / "evaluation.json").write_text(json.dumps({"linear": {"top1": 61.5}}))
    assert rewrite_report(copy, runtime=Runtime()) == copy / "report.html"
    page = (copy / "report.html").read_text()
    for words in (
        "because it is a test",
        "the machine of the run",
        "61.5",
        "72 images, by t-SNE",
        "Nearest neighbors",
    ):
        assert words in page
    assert "of 8 groups contain at least one of 72 images" in page
    assert 'class="spot k' in page


def test_the_page_is_the_same_each_time(copy: Path) -> None:
    pages = [rewrite_report(copy, runtime=Runtime()).read_text() for _ in range(2)]
    assert pages[0] == pages[1]


def test_embeddings_that_are_at_hand_are_taken_and_those_that_are_no_numbers_counted(copy: Path) -> None:
    config = from_dict(read_toml(copy / "config.toml"))
    known = embed_source(load_backbone(copy), open_source(*config.data), preprocessing_of(config))
    known.rows[3:8] = torch.nan
    rewrite_report(copy, runtime=Runtime(), embeddings=known)
    page = (copy / "report.html").read_text()
    assert "67 images (5 more are left out: NaN or infinity in their embeddings)" in page
    rewrite_report(copy, runtime=Runtime(), embeddings=replace(known, rows=torch.full_like(known.rows, torch.nan)))
    page = (copy / "report.html").read_text()
    assert "Curves" in page
    assert "t-SNE" not in page


def test_without_the_images_there_is_a_page_without_pictures(copy: Path) -> None:
    text = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(text.replace("patches.parquet", "gone.parquet"))
    logger = Hearing()
    rewrite_report(copy, runtime=Runtime(logger=logger))
    page = (copy / "report.html").read_text()
    assert "<img" not in page
    assert "Curves" in page
    assert "gone.parquet: no such file" in page
    assert len(logger.warned) == 1
    assert "without pictures" in logger.warned[0]


def test_other_images_than_the_run_saw_are_told(copy: Path, tmp_path: Path) -> None:
    write_patches(tmp_path / "fewer.parquet", photo_patches("train", 54, 16))
    text = (copy / "config.toml").read_text().replace(from_dict(read_toml(copy / "config.toml")).data[0], "DATA")
    (copy / "config.toml").write_text(text.replace("DATA", str(tmp_path / "fewer.parquet")))
    logger = Hearing()
    rewrite_report(copy, runtime=Runtime(logger=logger))
    assert logger.warned == ["the run saw 72 images, and there are 54 now"]


def test_no_run_or_no_checkpoint_is_one_plain_line(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "checkpoint")
    with pytest.raises(BadRun, match="is a run that has not been saved yet"):
        rewrite_report(copy, runtime=Runtime())
    assert (copy / "report.html").read_text() == "old"
    with pytest.raises(BadRun, match="nowhere does not exist"):
        rewrite_report(tmp_path / "nowhere", runtime=Runtime())


def test_the_group_of_an_image_is_the_nearest_center_of_its_projection(run: Path) -> None:
    config = from_dict(read_toml(run / "config.toml"))
    student = build_student(config)
    student.load_state_dict(checkpoint_io.load(run / "checkpoint")[1]["student"])
    images = torch.randn(20, 3, 16, 16)
    with torch.no_grad():
        h, z, _ = student.eval()([images])
        expected = cosine_scores(z[0], student.groups.centers()[0])
    student.train()
    found = gallery_groups(student, h[0])
    assert student.training
    assert torch.equal(found.group, expected.argmax(dim=1))
    torch.testing.assert_close(found.score, expected.max(dim=1).values)
    assert found.count == 8


def test_where_the_batch_was_the_groups_there_is_no_gallery_of_groups(run: Path, tmp_path: Path) -> None:
    config = from_dict(read_toml(run / "config.toml"))
    student = build_student(config)
    student.groups = None
    source = open_source(*config.data)
    (tmp_path / "new").mkdir()
    network, look = student.encoder.backbone, preprocessing_of(config)
    report_run(tmp_path / "new", config, source, network, look, Runtime(), student=student)
    page = (tmp_path / "new" / "report.html").read_text()
    assert "Nothing was logged." in page
    assert "Nearest neighbors" in page
    assert "groups contain" not in page


def test_fewer_large_images_are_embedded_on_a_cpu() -> None:
    assert sample_size(50_000, 32, "cpu") == sample_size(50_000, 224, "cuda") == 2000
    assert sample_size(300, 32, "cpu") == 300
    assert sample_size(50_000, 224, "cpu") == 512
    assert 512 < sample_size(50_000, 96, "cpu") < 2000


def test_the_environment_is_told() -> None:
    found = environment(torch.device("cpu"))
    assert found["torch"].startswith(torch.__version__.split("+")[0])
    assert {"device", "memory", "system", "python", "coterie", "timm"} <= found.keys()
    assert all(isinstance(value, str) for value in found.values())
