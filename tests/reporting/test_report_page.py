import math
from html.parser import HTMLParser

import numpy as np
import pytest

from coterie.errors import UserError
from coterie.reporting.embedding_map import EmbeddingMap, Spot
from coterie.reporting.gallery import Gallery, Picture, Row, Strip
from coterie.reporting.report_page import BarChart, Report, render_report, write_report
from coterie.reporting.tables import Table

FIGURES = (("raw pixels", 17.2), ("untrained network", 21.0))
VOID = {"meta", "link", "img", "br", "hr", "input"}
NASTY = "\"><script>alert(1)</script><img src=x onerror=alert(2)> & '{{ 7 * 7 }}"


class Page(HTMLParser):
    """The elements and the text of a page; an element that is not closed in order is an error."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag, kind=None):
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (kind is None or kind in (attributes.get("class") or "").split())
        ]


def noise(side, channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, channels), dtype=np.uint8)


def a_report(text="plain", pictures=None):
    pixels = noise(32, 1) if pictures is None else pictures
    neighbors = tuple(Picture(pixels, f"{text} {rank}", right=rank < 3) for rank in range(8))
    strips = (Strip(f"untrained {text}", neighbors), Strip("pretrained", neighbors))
    metrics = [
        {"step": step, "epoch": 0, "loss": 4.0, "loss_over_ln_k": 1 - step / 200, "lr": 0.1, "groups_used": 9,
         "groups": 10, "perplexity": 8.0, "spread": 0.8, "images_per_second": 200.0, "data_wait": 0.02}
        for step in range(4, 100, 5)
    ]  # fmt: skip
    metrics[3]["warning"] = f"the run looks collapsed {text}"
    metrics.append({"step": 99, "epoch": 0, "knn": {"k20_t0.07_top1": 52.4}})
    return Report(
        title=f"Demo {text}",
        answer=f"kNN 20: raw pixels 17.2 %, untrained 21.0 %, pretrained 52.4 % {text}",
        summary=(f"It took 4 minutes. {text}",),
        bars=BarChart(f"kNN {text}", (*FIGURES, (f"pretrained {text}", 52.4)), chance=5.6),
        metrics=metrics,
        warnings=({"step": None, "message": f"3 images could not be decoded {text}"},),
        map=EmbeddingMap(
            f"{text} as a map",
            np.array([[0.0, 0.0], [0.4, 0.25], [1.0, 0.5]]),
            np.array([0, 0, -1]),
            (f"kind {text}",),
            (Spot(0.02, 0.02, 0, Picture(pixels, text, name=text)), Spot(0.98, 0.48, -1, Picture(pixels))),
        ),
        galleries=(Gallery(f"Neighbors {text}", (Row(Picture(pixels, text), strips), Row(None, strips)), text),),
        tables=(Table(f"kNN {text}", ("k", f"name {text}"), ((20, 45.678), (200, text))),),
        automatic=(("batch_size", "64", f"as many as there are {text}"),),
        config_text=f"[groups]\ncounts = [60] # {text}",
        environment={f"command {text}": f"coterie demo {text}", "cores": 2},
    )  # fmt: skip


def test_the_answer_comes_first_and_the_figures_are_there():
    page = Page(render_report(a_report()))
    body = page.text[page.text.index("Demo plain", page.text.index("Demo plain") + 1) :]
    assert body.split("\n")[1] == "kNN 20: raw pixels 17.2\u00a0%, untrained 21.0\u00a0%, pretrained 52.4\u00a0% plain"
    order = [
        body.index(words)
        for words in (
            "17.2\u00a0%", "17.2 %", "collapsed", "45.7", "Is it learning?", "plain as a map", "3 of 8",
            "as many as there are plain", "counts = [60]",
        )
    ]  # fmt: skip
    assert order == sorted(order)
    for words in ("52.4 %", "45.7", "chance, 5.6 %", "3 of 8", "coterie demo", "Step 19"):
        assert words in body
    assert [each["style"] for each in page.all("i") if "width" in each.get("style", "")] == [
        "width: 17.20%", "width: 21.00%", "width: 52.40%",
    ]  # fmt: skip


def test_every_link_of_the_navigation_has_its_section():
    page = Page(render_report(a_report()))
    wanted = [each["href"].removeprefix("#") for each in page.all("a")]
    assert wanted == ["probes", "curves", "map", "gallery-1", "made"]
    assert {each.get("id") for each in page.all("section")} >= set(wanted)


def test_the_map_is_drawn_as_dots_and_pictures():
    page = Page(render_report(a_report()))
    dots = {each["class"]: each["d"] for each in page.all("path") if each["class"] != "flag"}
    assert dots == {"k-": "M100.00 50.00h0", "k0": "M0.00 0.00h0M40.00 25.00h0"}
    assert [(each["class"], each["title"]) for each in page.all("i", "spot")] == [
        ("spot k0", "plain, plain"), ("spot k-", ""),
    ]  # fmt: skip
    assert [each["viewbox"] for each in page.all("svg") if "points" in each["aria-label"]] == [
        f"-1 -1 102 {100 * a_report().map.height + 2}"
    ]
    assert "kind plain" in page.text
    assert "others" in page.text


def test_neighbors_of_the_same_class_are_marked_by_more_than_color():
    page = Page(render_report(a_report()))
    assert len(page.all("figure", "right")) == 4 * 3
    assert len(page.all("figure", "wrong")) == 4 * 5
    assert page.text.count("✓ plain") == 4 * 3
    assert page.text.count("✗ plain") == 4 * 5


def test_a_picture_opens_larger_with_the_name_of_its_file_without_a_script():
    strip = Strip("near", (Picture(noise(32, 1), "cat", name="a/1.png"), Picture(noise(32, 1), name="a/2.png")))
    text = render_report(Report("run", "it learned", galleries=(Gallery("Groups", (Row(None, (strip,)),), "note"),)))
    page = Page(text)
    assert [each["tabindex"] for each in page.all("figure")] == ["-1", "-1"]  # a click or a tap gives it the focus
    assert page.text.count("a/1.png") == page.text.count("a/2.png") == 1
    assert ("unseen" in page.all("figcaption")[1]["class"], "class" in page.all("figcaption")[0]) == (True, False)
    assert "figure:focus .shot img { position: fixed;" in text


def test_a_run_of_one_logged_step_draws_no_lone_dots():
    line = {"step": 4, "epoch": 0, "loss": 4.0, "loss_over_ln_k": 0.875, "spread": 0.8, "lr": 0.1}
    one, two = (
        Page(render_report(Report("run", "it ended", metrics=[line, {**line, "step": 9}][:lines]))) for lines in (1, 2)
    )
    assert (len(one.all("svg")), len(one.all("circle"))) == (0, 0)
    assert "0.875" in one.text
    assert len(two.all("svg")) == len(two.all("polyline")) == 3


def test_a_warning_is_shown_once_and_marked_in_the_charts():
    report = a_report()
    again = {"step": 19, "message": "the run looks collapsed plain"}
    page = Page(
        render_report(Report("run", "it collapsed", metrics=report.metrics, warnings=(again, *report.warnings)))
    )
    warnings = page.text[: page.text.index("Curves")]
    assert warnings.count("the run looks collapsed") == 1
    assert warnings.index("could not be decoded") < warnings.index("the run looks collapsed")
    assert len(page.all("path", "flag")) == 3  # loss, groups, spread


def test_the_page_loads_nothing_and_runs_nothing():
    text = render_report(a_report())
    page = Page(text)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    for words in ("http:", "https:", "@import"):
        assert words not in text
    assert text.count("url(") == text.count("url(data:image/") == 1
    policy = [each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_all_values_are_escaped():
    plain, nasty = Page(render_report(a_report())), Page(render_report(a_report(NASTY)))
    assert [tag for tag, _ in nasty.elements] == [tag for tag, _ in plain.elements]
    assert [attributes.keys() for _, attributes in nasty.elements] == [
        attributes.keys() for _, attributes in plain.elements
    ]
    assert nasty.text.count(NASTY) == plain.text.count("plain")


def test_the_page_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr("coterie.reporting.html.MAX_PAGE_BYTES", 500_000)  # pages of 5 MB take long
    picture = Picture(noise(200, 3), "noise")
    row = Row(picture, (Strip("all", (picture,) * 10),))
    write_report(tmp_path / "report.html", Report("large", "too much", galleries=(Gallery("many", (row,) * 20),)))
    page = Page((tmp_path / "report.html").read_text())
    assert (tmp_path / "report.html").stat().st_size < 500_000
    assert 0 < len(page.all("div", "row")) < 20
    shown = len(page.all("div", "row"))
    assert f"Only the first {shown} of 20 rows are shown" in page.text


def test_a_page_that_stays_too_large_has_no_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr("coterie.reporting.html.MAX_PAGE_BYTES", 60_000)
    write_report(tmp_path / "report.html", a_report(pictures=noise(200, 3)))
    page = Page((tmp_path / "report.html").read_text())
    assert not page.all("img")
    assert not page.all("i", "spot")
    assert (tmp_path / "report.html").stat().st_size < 60_000


def test_a_report_may_be_nearly_empty(tmp_path):
    write_report(tmp_path / "new" / "report.html", Report("Run", "Nothing was logged yet."))
    page = Page((tmp_path / "new" / "report.html").read_text())
    assert "Nothing was logged yet." in page.text
    assert not page.all("section")


def test_values_that_are_not_numbers_do_no_harm():
    lines = [
        {"step": 0, "lr": math.nan, "spread": math.nan}, {"step": 5, "lr": 0.1, "spread": None}, {"step": 9, "lr": 0.2},
    ]  # fmt: skip
    table = Table("odd", ("a", "b", "c"), ((math.nan, math.inf, True),))
    page = Page(render_report(Report("odd", "odd", metrics=lines, tables=(table,), environment={"none": None})))
    assert len(page.all("svg")) == 1
    assert "nan" not in " ".join(str(attributes) for _, attributes in page.elements)


def test_a_page_that_cannot_be_made_leaves_the_old_one_intact(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("the old one")
    with pytest.raises(KeyError, match="message"):
        write_report(path, Report("new", "new", warnings=({"step": 4},)))
    assert path.read_text() == "the old one"
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(UserError, match="cannot write"):
        write_report(tmp_path, Report("new", "a folder is no file"))
