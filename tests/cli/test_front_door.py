"""The front door from outside: help, refusals that leave nothing behind, closed streams, completion, ``~``."""

import json
import os
import re
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

import coterie
from coterie.classifier.classifier_file import save_classifier
from coterie.cli.main import VERBS
from tests.cli.test_main import TINY, images, pretrain  # noqa: F401 -- a fixture
from tests.exporting.networks import small_classifier, small_model

COMMAND = [sys.executable, "-m", "coterie"]
HELP = """
import sys
from coterie.cli.main import main

for verb in sys.argv[1:]:
    sys.argv = ["coterie", verb, "--help"]
    main()
    print(end="\\f")
"""


@pytest.fixture(scope="module")
def run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("runs") / "run"
    return coterie.pretrain("swav", images, out=out, epochs=1, batch_size=16, settings=TINY[1::2])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_help_says_choices_and_defaults_at_every_width(call, width: int) -> None:
    environment = os.environ | {"COLUMNS": str(width)}  # in a process of its own: rich looks at the width once
    command = [sys.executable, "-c", HELP, *VERBS]
    pages = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split("\f")
    for verb, out in zip([*VERBS, ""], pages, strict=True):
        if not verb:
            assert out == ""
            continue
        assert f"coterie {verb}" in out
        assert max(map(len, out.splitlines())) <= width
        entries = re.split(r"\n│ (?:[* ]  )?(?=--)", out.partition("─ Parameters")[2])[1:]
        texts = [" ".join(re.sub("[│╰─╯]", " ", each).split()) for each in entries]
        assert all("[default:" in text or "[required]" in text for text in texts), texts
        assert all("[choices:" in text for text in texts if "CHOICE" in text), texts
    assert {"COMMAND", "--install-completion"} <= set(re.split(r"[\s│]+", call("help")[1]))
    assert call("help", "plan")[1] == call("plan", "--help")[1]
    assert call("-h")[1] == call("--help")[1] == call()[1]


REFUSED = [
    "pretrain swav missing --out new/a/run",
    "pretrain swva {images} --out new/a/run",
    "pretrain swav {images} --out new/a/run --probe missing",
    "pretrain swav {images} --out new/a/run --batch-size 1000",
    "pretrain swav {images} --out new/a/run --set backbone.weights=missing.pth",
    "pretrain swav {images} --out new/a/run --backbone resnet51",
    "pretrain swav {images} --out new/a/run --set groups.kind=kmeans",
    "pretrain swav {images} --out new/a/run --set run.workers=-2",
    "pretrain swav {images} --out new/a/run --probe {unlabeled} --epochs 1 --batch-size 16",
    "embed {run} missing --out new/a/rows.parquet",
    "embed {run} {broken} --out new/a/rows.parquet",
    "embed {run} {images} --out new/a/rows --part-images 7",
    "embed missing {images} --out new/a/rows",
    "train missing {images} --out new/a/run",
    "train {run} {unlabeled} --out new/a/run",
    "train {run} {images} --out new/a/run --classifier tree",
    "evaluate missing {images}",
    "select missing --out new/a/best.safetensors",
    "select {run} --by knn --out new/a/best.safetensors",
    "compare {run} missing --out new/a/page.html",
]


@pytest.mark.parametrize("words", REFUSED)
def test_a_refused_command_leaves_nothing(
    words: str,
    images: Path,  # noqa: F811
    run: Path,
    call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("unlabeled", "broken"):
        Path(name).mkdir()
    Image.new("RGB", (16, 16)).save("unlabeled/a.png")
    Path("broken/a.png").write_bytes(b"no image")
    before = sorted(Path().rglob("*"))
    names = {"images": str(images), "run": str(run), "unlabeled": "unlabeled", "broken": "broken"}
    status, out, err = call(*words.format(**names).split())
    assert (status, out) == (2, ""), err
    assert sorted(Path().rglob("*")) == before
    Path("new/a/run").mkdir(parents=True)  # and one that was there before stays as it was
    assert call(*words.format(**names).split())[0] == 2
    assert not any(Path("new/a/run").iterdir())


@pytest.mark.parametrize("verb", ["evaluate", "embed", "transfer", "select", "compare", "report", "export"])
def test_a_run_that_is_missing_or_is_none(
    verb: str,
    images: Path,  # noqa: F811
    run: Path,
    call,
    tmp_path: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "unsaved").mkdir()
    shutil.copy(run / "config.toml", tmp_path / "unsaved")
    rest = {"evaluate": [images], "embed": [images, "--out", tmp_path / "rows.parquet"], "transfer": [f"a={images}"]}
    rest |= {"compare": [run], "export": ["--format", "safetensors", "--out", tmp_path / "exported"]}
    for name, expected in (
        ("missing", "does not exist"),
        ("empty", "is not a run's folder"),
        ("unsaved", "is a run that has not been saved yet"),
    ):
        status, _, err = call(verb, tmp_path / name, *rest.get(verb, []))
        if verb == "compare" and name == "unsaved":  # compared by what is there, with a remark
            assert status == 0
            continue
        assert (status, err.count("\n")) == (2, 1)
        assert err.startswith(f"coterie: {tmp_path / name} {expected}")


@pytest.mark.parametrize(
    ("words", "closed"),
    [
        *(("--help", closed) for closed in ("pipe", "stdout", "both")),
        *(("compare {run} {copy}", closed) for closed in ("pipe", "stdout")),
        ("pretrain --help", "pipe"),
        ("schema", "pipe"),
        *(
            pytest.param(words, closed, marks=pytest.mark.slow)  # each way to print was tried above
            for words, closed in [
                ("compare {run} {copy}", "both"),
                *product(("pretrain --help", "schema"), ("stdout", "both")),
            ]
        ),
    ],
)
def test_output_that_nobody_reads(words: str, closed: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copy")
    command = COMMAND + words.format(run=run, copy=tmp_path / "copy").split()
    if closed == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, timeout=200)
        os.close(writer)
        assert done.returncode in (0, 141)
    else:
        closing = ">&-" if closed == "stdout" else ">&- 2>&-"
        shell = ["bash", "-c", f'"$@" {closing}', "-", *command]
        done = subprocess.run(shell, stderr=subprocess.PIPE, text=True, check=False, timeout=200)
        assert done.returncode == 0
    assert done.stderr == ""


def test_an_error_that_nobody_reads(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "plan", "nothing"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=writer, check=False, timeout=200)
    os.close(writer)
    assert (done.returncode, done.stdout) == (2, b"")  # the status of the error, which needs no reader


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_is_installed_and_the_shell_takes_it(shell: str, tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "SHELL": f"/bin/{shell}"}
    done = subprocess.run(
        [*COMMAND, "--install-completion", "--shell", shell],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    scripts = [path for path in tmp_path.rglob("*") if path.is_file() and "--batch-size" in path.read_text()]
    assert len(scripts) == 1
    assert all(verb in scripts[0].read_text() for verb in VERBS)
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here to read it")
    check = 'source "$1" && complete -p coterie' if shell == "bash" else 'zsh -n "$1"'
    found = subprocess.run([shell, "-c", check, "-", scripts[0]], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


def test_the_home_folder_everywhere(
    images: Path,  # noqa: F811
    run: Path,
    call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(images, tmp_path / "images.parquet")
    shutil.copytree(run, tmp_path / "old")
    more = ["--probe", "~/images.parquet", "--set", "backbone.weights=~/old", "--epochs", "1"]
    assert call(*pretrain(Path("~/images.parquet"), Path("~/new"), *more))[0] == 0
    assert (tmp_path / "new" / "model.safetensors").exists()
    assert call("pretrain", "--config", "~/new/config.toml", "--out", "~/again")[0] == 0
    assert call("evaluate", "~/new", "~/images.parquet", "--test", "~/images.parquet")[0] == 0
    assert (tmp_path / "new" / "evaluation.json").exists()
    assert call("transfer", "~/new", "a=~/images.parquet,~/images.parquet")[0] == 0
    assert call("embed", "~/new", "~/images.parquet", "--out", "~/rows.parquet")[0] == 0
    assert call("embed", "~/new", "~/images.parquet", "--out", "~/rows")[0] == 0
    assert (tmp_path / "rows" / "part-00000000.parquet").exists()
    assert call("select", "~/new", "--out", "~/best.safetensors")[0] == 0
    assert call("compare", "~/new", "~/old", "--out", "~/page.html")[0] == 0
    assert call("report", "~/new")[0] == 0
    assert {"rows.parquet", "best.safetensors", "page.html"} <= {each.name for each in tmp_path.iterdir()}
    coterie.load_backbone("~/new")
    assert coterie.compare(["~/new", "~/old"], out="~/python.html").names == ("new", "old")
    assert not Path("~").exists()


def test_names_with_line_breaks(run: Path, call, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(16):
        Image.new("RGB", (16, 16), (number * 9, 0, 0)).save(folder / f"{number}.png")
    for name in ("two\nlines.png", "a\ttab.png"):
        (folder / name).write_bytes(b"no image")
    out = tmp_path / "rows.parquet"
    assert call("embed", run, folder, "--out", out)[0] == 0
    assert "two\nlines.png" not in pq.read_table(out)["name"].to_pylist()
    listed = [line.split("\t") for line in Path(f"{out}.bad.txt").read_text().splitlines()]
    assert [name for name, _ in listed] == [r"a\ttab.png", r"two\nlines.png"]
    assert call(*pretrain(folder, tmp_path / "new"))[0] == 0
    listed = [line.split("\t") for line in (tmp_path / "new" / "bad_images.txt").read_text().splitlines()]
    assert [name for name, _ in listed] == [r"a\ttab.png", r"two\nlines.png"]


def test_the_schema_is_printed(call) -> None:
    assert json.loads(call("schema")[1])["properties"]["epochs"]["type"] == "integer"


def test_a_run_is_exported_with_its_card(run: Path, call, tmp_path: Path) -> None:
    words = ("export", run, "--format", "safetensors", "--license", "cc-by-4.0", "--out", tmp_path / "out")
    status, said, _ = call(*words)
    assert status == 0
    assert said.startswith(
        f"{tmp_path / 'out'}: README.md, config.json, model.safetensors, preprocessor_config.json; coterie "
    )
    assert "computes the same features, exactly" in said
    assert coterie.describe_backbone(tmp_path / "out").backbone == coterie.describe_backbone(run).backbone
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'license: "cc-by-4.0"' in card
    assert "method: swav" in card
    assert "Not evaluated on labels" in card
    assert call(*words)[0] == 2  # there is something already
    status, _, err = call("export", run, "--format", "torchvision", "--out", tmp_path / "other")
    assert status == 2
    assert "coterie: torchvision cannot hold this resnet18: its ResNets have no " in err
    assert not (tmp_path / "other").exists()


def test_a_classifier_is_exported_with_its_card(call, tmp_path: Path) -> None:
    about = {"model": "runs/cells", "kind": "linear", "images": "12", "accuracy": "91.0 % of 12 images held out"}
    save_classifier(tmp_path / "kept", small_classifier(small_model("test_vit", 48), threshold=0.5, about=about))
    status, said, _ = call("export", tmp_path / "kept", "--format", "timm", "--out", tmp_path / "out")
    assert status == 0
    assert "computes the same logits, exactly" in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A classifier of Coterie on the features of cells: linear, 12 labeled images." in card
    assert "| accuracy | 91.0 % of 12 images held out |" in card
    status, _, err = call("export", tmp_path / "kept", "--format", "timm", "--size", "64", "--out", tmp_path / "more")
    assert (status, "--size is for a MODEL" in err) == (2, True)
