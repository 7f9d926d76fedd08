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
from coterie.errors import BadRun, UserError
from coterie.exporting.backbone_file import load_backbone
from coterie.grouping.loss import cosine_scores
from coterie.logger import NullLogger
from coterie.reporting.run_report import gallery_groups, report_images, report_run, rewrite_report
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
        "Accuracy on labeled images: linear classifier 61.5",
    ):
        assert words in page
    assert "of 8 groups contain at least one of 72 images" in page
    assert 'class="spot k' in page


def test_a_low_rank_that_an_earlier_version_did_not_warn_of_is_on_the_page(copy: Path) -> None:
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "label_free" in line:
            line["label_free"]["effective_rank"] = 1.2
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    coterie.report(copy)
    page = (copy / "report.html").read_text()
    assert "the features vary along only about 1.2 of 64 directions" in page
    assert "See the warning below." in page
    assert "No sign of collapse" not in page


def test_the_page_leads_with_the_accuracy_of_the_run_s_probe(run: Path, copy: Path) -> None:
    images = run.parent / "patches.parquet"
    config = (copy / "config.toml").read_text()
    (copy / "config.toml").write_text(config + f'\n[probe]\ntrain = ["{images}"]\n')
    with (copy / "metrics.jsonl").open("a") as log:
        log.write(json.dumps({"step": 3, "epoch": 0, "knn": {"k20_t0.07_top1": 84.06}}) + "\n")
    coterie.report(copy)
    page = (copy / "report.html").read_text()
    answer = page[page.index('class="answer"') :].partition("</p>")[0]
    assert "Accuracy on labeled images: kNN 84.1\u00a0% (chance 5.6\u00a0%)." in answer


def test_the_page_is_the_same_each_time(copy: Path) -> None:
    pages = [rewrite_report(copy, runtime=Runtime()).read_text() for _ in range(2)]
    assert pages[0] == pages[1]
    assert "Accuracy on the images&#39; own labels: kNN" in pages[0]
    assert "Each of 72 images was classified by its 20 nearest neighbors among the others." in pages[0]
    assert "(chance 5.6" in pages[0]


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


def moved(copy: Path, data: str) -> None:
    """Let the settings of a run name other images."""
    known = from_dict(read_toml(copy / "config.toml")).data[0]
    (copy / "config.toml").write_text((copy / "config.toml").read_text().replace(known, data))


def test_images_that_are_not_found_leave_the_page_as_it_was(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for data, place in (
        ("gone.parquet", f"{tmp_path}/elsewhere/gone.parquet"),
        ("/old/gone.parquet", "/old/gone.parquet"),
    ):
        moved(copy, data)
        before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
        with pytest.raises(UserError) as caught:
            coterie.report(copy)
        assert str(caught.value) == (
            f"the images of {copy} were not found ({place}: no such file or folder): say where they are with --images PATH. "
            "Nothing was written"
        )
        assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    moved(copy, "gone.parquet")
    (tmp_path / "elsewhere" / "gone.parquet").mkdir()
    with pytest.raises(UserError, match=r"no image in this folder.*: say where they are with --images"):
        coterie.report(copy)
    assert (copy / "report.html").read_text() == "old"


def test_images_of_which_none_can_be_read_leave_the_page_as_it_was(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("gone/1.png\ngone/2.png\n")
    moved(copy, str(tmp_path / "list.txt"))
    with pytest.raises(UserError, match=r"none of a sample of 2 can be read.*--images PATH"):
        coterie.report(copy)
    assert (copy / "report.html").read_text() == "old"


def test_images_are_found_from_anywhere_by_their_absolute_path_or_where_the_user_says(
    copy: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = run.parent / "patches.parquet"
    moved(copy, "patches.parquet")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    coterie.report(copy, images=images)
    pages = [(copy / "report.html").read_text()]
    moved(copy, str(images))
    coterie.report(copy)
    pages.append((copy / "report.html").read_text())
    monkeypatch.chdir(run.parent)  # as of a run of an earlier version
    moved(copy, "patches.parquet")
    coterie.report(copy)
    pages.append((copy / "report.html").read_text())
    assert all('class="spot k' in page and "Nearest neighbors" in page for page in pages)
    assert pages[0] == pages[1].replace(str(images), "patches.parquet") == pages[2]
    with pytest.raises(UserError, match=r"^there.parquet: no such file or folder$"):
        coterie.report(copy, images="there.parquet")


def test_other_images_than_the_run_saw_are_told(copy: Path, tmp_path: Path) -> None:
    write_patches(tmp_path / "fewer.parquet", photo_patches("train", 54, 16))
    logger = Hearing()
    coterie.report(copy, images=tmp_path / "fewer.parquet", logger=logger)
    assert logger.warned == ["the run saw 72 images, and there are 54 now"]
    assert "the run saw 72 images, and there are 54 now" in (copy / "report.html").read_text()


def test_no_run_or_no_checkpoint_is_one_plain_line(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "checkpoint")
    with pytest.raises(BadRun, match="has not been saved yet"):
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


def test_fewer_images_are_embedded_for_a_short_run_and_fewer_large_ones_on_a_cpu(run: Path) -> None:
    short = from_dict(read_toml(run / "config.toml"))

    def number(size: int, device: str, images: int = 50_000, epochs: int = 100) -> int:
        config = replace(short, epochs=epochs, views=replace(short.views, image_size=size))
        return report_images(config, images, device)

    assert number(16, "cpu") == number(224, "cuda", epochs=10_000) == 2000
    assert number(16, "cpu", images=300) == 300
    assert number(224, "cpu", epochs=10_000) == number(16, "cpu", images=600, epochs=1) == 384
    assert 384 < number(96, "cpu", epochs=10_000) < 2000


def test_the_environment_is_told() -> None:
    found = environment(torch.device("cpu"))
    assert found["torch"].startswith(torch.__version__.split("+")[0])
    assert {"device", "memory", "system", "python", "coterie", "timm"} <= found.keys()
    assert all(isinstance(value, str) for value in found.values())
