"""Both pages in a real browser, on a laptop and on a phone, in light and in dark mode."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch

from coterie.data.loading.center_crop import Preprocessing
from coterie.embedding.embed import Embeddings
from coterie.reporting.baselines import beside_tables, latest_bars
from coterie.reporting.comparison import compare_runs, write_comparison
from coterie.reporting.gallery import GroupAssignment
from coterie.reporting.pictures import report_pictures
from coterie.reporting.report_page import Report, write_report
from coterie.reporting.run_figures import RunRecord
from coterie.reporting.tables import probe_tables

LONG = "a_very_long_name_without_any_place_to_break_" * 3
COUNT, GROUPS = 90, 15
BESIDE = {
    name: {"knn": {"k20_t0.07_top1": value}, "linear": {"top1": value + 3}}
    for name, value in (("raw pixels", 20.4), ("untrained network", 31.5), (LONG, 70.2))
}
EVALUATED = {
    "entries": [
        {
            "asked": {"train": ["a"], "test": [LONG]},
            "figures": {"knn": {"k20_t0.07_top1": 66.6}, "linear": {"top1": 70.0}},
            "baselines": BESIDE,
        }
    ]
}

INSPECT = """<!doctype html><iframe id="page" style="border:0;width:WIDTHpx;height:900px" src="PAGE"></iframe>
<img id="sheet" src="SHEET"><p id="found"></p>
<script>
window.addEventListener("load", () => {  // by now all images are loaded, or never will be
  const frame = document.getElementById("page"), page = frame.contentDocument, view = frame.contentWindow;
  const sheet = document.getElementById("sheet"), spots = [...page.querySelectorAll(".spot")], root = page.documentElement;
  const images = [...page.images], wider = (item, least) => item.getBoundingClientRect().width > least;
  const drawn = spots.filter(spot => view.getComputedStyle(spot).backgroundImage === `url("${sheet.getAttribute("src")}")`);
  const color = view.getComputedStyle(page.body).backgroundColor.match(/\\d+/g).map(Number);
  const anchors = [...page.querySelectorAll("a[href^='#']")];
  document.getElementById("found").textContent = JSON.stringify({
    broken: images.filter(image => !image.complete || image.naturalWidth === 0).length,
    pictures: images.filter(image => image.naturalWidth > 0 && wider(image, 15)).length,
    spots: sheet.naturalWidth > 0 ? drawn.filter(spot => wider(spot, 5)).length : 0,
    outside: view.performance.getEntriesByType("resource").map(each => each.name).filter(name => !name.startsWith("data:")),
    wide: root.scrollWidth - root.clientWidth,
    curves: [...page.querySelectorAll(".curve")].filter(curve => wider(curve, 10)).length,
    lost: anchors.filter(anchor => !page.querySelector(anchor.getAttribute("href"))).length,
    dark: color[0] + color[1] + color[2] < 384,
  });
});
</script>"""


@pytest.fixture(scope="module")
def inspect(tmp_path_factory: pytest.TempPathFactory):
    """Open a page in a browser: what it shows, and the messages of its console."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no chromium: install it to test the pages in a browser")

    def run(page: Path, width: int, dark: bool = False) -> tuple[dict, list[str]]:
        folder = tmp_path_factory.mktemp("browser")
        sheet = re.search(r"url\((data:[^)]*)\)", page.read_text())
        words = {"WIDTH": str(width), "PAGE": page.as_uri(), "SHEET": sheet[1] if sheet else ""}
        (folder / "inspect.html").write_text(re.sub("WIDTH|PAGE|SHEET", lambda word: words[word[0]], INSPECT))
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
             "--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars",
             "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--disable-web-security",
             "--allow-file-access-from-files", "--enable-logging=stderr", f"--window-size={max(width, 500)},900",
             f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--virtual-time-budget=20000", "--dump-dom",
             (folder / "inspect.html").as_uri()],
            capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        found = unescape(done.stdout.partition('<p id="found">')[2].partition("</p>")[0])
        assert found, done.stderr[-2000:]
        return json.loads(found), [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return run


class Squares:
    """Images of one color each, in three classes."""

    classes = ("red", "green", LONG)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> np.ndarray:
        image = np.random.default_rng(index).integers(0, 60, (32, 32, 3), dtype=np.uint8)
        image[..., index % 3] += 150
        return image

    def name(self, index: int) -> str:
        return f"{LONG}/{index}.png"

    def label(self, index: int) -> int:
        return index % 3


def a_log() -> list[dict]:
    log: list[dict] = []
    for step in range(4, 200, 5):
        log.append({"step": step, "epoch": step // 50, "loss": 4.0, "loss_over_ln_k": 1 / (1 + step / 200), "lr": 0.1,
                    "groups_used": 9, "groups": 15, "perplexity": 8.0, "spread": 0.8, "images_per_second": 2e2 + step,
                    "data_wait": 0.02})  # fmt: skip
        if step % 50 == 49:
            metrics = {"rankme": step / 2, "effective_rank": step / 3, "alpha_req": 1.5, "lidar": 9.0, "stability": 0.5}
            log.append({"step": step, "epoch": step // 50, "label_free": metrics})
            log.append({"step": step, "epoch": step // 50, "knn": {"k20_t0.07_top1": 40 + step / 10}})
    log[3]["warning"] = f"the run looks collapsed {LONG}"
    return log


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = torch.randn(COUNT, 16, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(COUNT) % 3
    rows[:, :3] += 4 * torch.nn.functional.one_hot(labels, 3)
    grouped = GroupAssignment((torch.arange(COUNT).sqrt() * 1.6).long().clamp(max=GROUPS - 1), rows[:, 0], GROUPS)
    seen = Embeddings(np.arange(COUNT), rows, labels, ())
    pictures = report_pictures(seen, Squares(), Preprocessing(32, 3, (0.5,) * 3, (0.2,) * 3), lambda _: grouped)
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        path,
        Report(
            title=LONG,
            answer="No sign of collapse: loss 2.11 (0.78 of ln K), 9 of 15 groups used, spread 0.80.",
            metrics=a_log(),
            map=pictures.map,
            galleries=pictures.galleries,
            bars=latest_bars(EVALUATED),
            tables=(
                *beside_tables(EVALUATED),
                *probe_tables({"linear": {"top1": 61.5, LONG: 3.0}, "knn": {"k20_t0.07_top1": 50.0}}),
            ),
            automatic=(("batch_size", "64", f"because {LONG}"),),
            config_text=f'data = ["{LONG}"]\n' * 3,
            environment={"device": LONG},
        ),
    )
    return path


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"method": "swav", "epochs": 4, "batch_size": 64, "data": [LONG], "backbone": {"name": "resnet18"}}
    runs = [
        RunRecord(name, settings | {"seed": seed}, a_log(), {"linear": {"top1": 60.0 + seed}}, 3200, 11_000_000, 200)
        for seed, name in enumerate(("swav", "smog", LONG, "four", "five"))
    ]
    path = tmp_path_factory.mktemp("comparison") / "compare.html"
    write_comparison(path, compare_runs(runs))
    return path


@pytest.mark.parametrize(("width", "dark"), [(360, False), (1280, True)])
def test_the_report_is_complete(inspect, report: Path, width: int, dark: bool) -> None:
    found, console = inspect(report, width, dark)
    text = report.read_text()
    assert console == []
    assert found["outside"] == []
    assert found["broken"] == found["lost"] == 0
    assert found["wide"] <= 0
    assert found["pictures"] == text.count("<img") > 100
    assert found["spots"] == text.count('class="spot ') > 50
    assert found["curves"] == text.count('class="curve"') > 10
    assert found["dark"] == dark


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1280, False)])
def test_the_comparison_is_complete(inspect, comparison: Path, width: int, dark: bool) -> None:
    found, console = inspect(comparison, width, dark)
    assert console == []
    assert found["outside"] == []
    assert found["wide"] <= 0
    assert found["curves"] == comparison.read_text().count('class="curve"') > 25
    assert found["dark"] == dark


def test_a_broken_page_is_noticed(inspect, tmp_path: Path) -> None:
    """The inspection itself: it finds what it must find."""
    (tmp_path / "bad.html").write_text(
        '<!doctype html><body style="background:white"><a href="#nowhere">x</a><img src="data:image/png;base64,AAAA">'
        '<img src="http://example.invalid/a.png"><div style="width:3000px">x</div><script>console.error("no")</script>'
    )
    found, console = inspect(tmp_path / "bad.html", 360)
    assert found["broken"] == 2
    assert found["outside"] == ["http://example.invalid/a.png"]
    assert found["lost"] == 1
    assert found["wide"] > 2000
    assert found["pictures"] == 0
    assert any('"no"' in line for line in console)
