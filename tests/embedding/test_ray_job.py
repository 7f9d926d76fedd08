"""The same parts, written by actors of a real Ray on this machine."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import coterie
from coterie.errors import UserError
from tests.conftest import ROOT
from tests.embedding.running import BROKEN, IMAGES, Made, assert_same_rows, stamps

needs_ray = pytest.mark.skipif(
    find_spec("ray") is None,
    reason="Ray is not installed: scripts/install test-ray",
)


def actors(process: subprocess.Popen[str]) -> list[int]:
    """The processes that write parts for this driver."""
    parents, named = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"ray::MapWorker" in (folder / "cmdline").read_bytes():
                named.append(int(folder.name))
        except OSError:  # it has just ended
            continue

    def ours(number: int) -> bool:
        return number == process.pid or (number in parents and ours(parents[number]))

    return [number for number in named if ours(number)]


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "network", "work"),
    [
        ("made", ": a run, a resnet18", "embedding"),
        ("predicted", ": a classifier (linear) of 3 classes on a resnet18", "predicting"),
    ],
)
def test_an_actor_is_killed_and_every_image_is_there_once(
    request: pytest.FixtureRequest, tmp_path: Path, which: str, network: str, work: str
) -> None:
    made, out = request.getfixturevalue(which), tmp_path / "out"
    process = made.started(out, "--workers", "1", "--ray", "local", "--actors", "2")
    deadline = time.monotonic() + 200
    while not stamps(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    there, working = stamps(out), actors(process)
    assert working, process.communicate()
    assert os.getpriority(os.PRIO_PROCESS, working[0]) == os.getpriority(os.PRIO_PROCESS, process.pid), "starves"
    os.kill(working[0], signal.SIGKILL)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert said.splitlines()[-1] == f"{out}: {IMAGES - len(BROKEN)} images"  # after Ray's own messages about the kill
    assert {name: stamp for name, stamp in stamps(out).items() if name in there} == there, "made again"
    assert_same_rows(out, made)
    left_out = ("core_worker", "raylet", "unknown: images whose")
    ours = [line for line in errors.splitlines() if not any(words in line for words in left_out)]
    assert ours[-2:] == [
        f"warning: 3 images could not be decoded: {out / '_bad_images'} lists them",
        "5 of 5 parts are there",
    ]
    assert ours[0].endswith(network), errors
    assert ours[1].startswith("images: 16 pixels"), errors
    assert all(line.startswith(f"{work}, in parts: ") for line in ours[2:-2]), errors
    assert "sage statistics" not in errors


@needs_ray
@pytest.mark.slow
def test_what_an_actor_refuses_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.embedding.actors"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.stdout == "refused: no images here, for 3 workers\n", done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("which", ["made", "predicted"])
def test_without_ray_one_line_says_what_to_install(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    made: Made = request.getfixturevalue(which)
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    verb = coterie.embed if made.verb == "embed" else coterie.predict
    with pytest.raises(UserError, match=r"^--ray needs more packages: pip install 'coterie\[ray\]'.*$"):
        verb(made.run, made.images, tmp_path / "out", ray="local", quiet=True)
    assert not list(tmp_path.iterdir())
