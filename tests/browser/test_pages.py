"""The pages in a real browser: they load without a complaint, and their filters and links do what they say.

Chromium runs headless; a script put behind a page's own does what a person would do and leaves what it saw in an attribute.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cmal.reports.anchors import write_anchors_page
from cmal.reports.evaluation import write_evaluation_page
from cmal.reports.run_report import write_run_report
from cmal.runs.evaluate import run_evaluation
from cmal.runs.evaluation_inputs import EvaluationRequest
from cmal.runs.probe import ProbeRequest, run_probe

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHOOSE = """
const seen = {};
const choose = (id, value) => { const box = document.getElementById(id); box.value = value;
  box.dispatchEvent(new Event("change")); };
const shown = () => [...document.querySelectorAll(".pair")].map((card, i) => card.hidden ? -1 : i).filter(i => i >= 0);
window.addEventListener("load", () => { %s; document.body.dataset.seen = JSON.stringify(seen); });
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """visit(page, what a person does) -> (what was seen, console lines)."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    folder = tmp_path_factory.mktemp("browser")

    def visit(page: Path, script: str = "") -> tuple[dict, list[str]]:
        source = page.read_text(encoding="utf-8")
        copy = folder / page.name
        copy.write_text(source.replace("</body>", f"<script>{CHOOSE % script}</script></body>"), encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1280,900"]
        options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
        done = subprocess.run([program, *options, copy.as_uri()], capture_output=True, text=True, timeout=240)
        found = re.search(r'data-seen="([^"]*)"', done.stdout)
        assert found, f"the page did not load: {done.stderr[-2000:]}"
        return json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return visit


@pytest.fixture(scope="module")
def anchors_page(tiny_world, tmp_path_factory) -> Path:
    scenes, page = tiny_world / "data" / "scenes", tmp_path_factory.mktemp("pages") / "anchors.html"
    request = ProbeRequest(scenes / "test.jsonl", scenes / "regions", tiny_world / "runs" / "tiny")
    write_anchors_page(page, run_probe(request, device="cpu"), None, 20)
    return page


def test_anchors_page_filters_by_state_and_concept_and_links_words_to_boxes(browser, anchors_page):
    script = """
      seen.all = shown().length;
      seen.links = document.querySelectorAll(".links path").length;
      const own = (mark) => mark.dataset.anchors.split(" ");
      seen.wordsTimesBoxes = [...document.querySelectorAll("mark")].reduce((n, mark) => n + own(mark).length, 0);
      const mark = document.querySelector("mark").getBoundingClientRect();
      const line = document.querySelector(".links path").getPointAtLength(0);
      const card = document.querySelector(".pair").getBoundingClientRect();
      seen.start = Math.hypot(line.x + card.left - mark.left - mark.width / 2, line.y + card.top - mark.top);
      seen.pictures = [...document.querySelectorAll("symbol image")].length;
      const first = document.querySelector("[data-concept]").dataset.concept;
      choose("concept", first); seen.concept = shown(); seen.count = document.getElementById("count").textContent;
      seen.conceptWanted = [...document.querySelectorAll(".pair")].map((c, i) =>
        [...c.querySelectorAll("[data-concept]")].some(r => r.dataset.concept === first) ? i : -1).filter(i => i >= 0);
      choose("concept", ""); choose("state", "false"); seen.wrong = shown();
      seen.wrongWanted = [...document.querySelectorAll(".pair")].map((c, i) =>
        c.querySelector('[data-states~="false"]') ? i : -1).filter(i => i >= 0);
      choose("state", "none"); seen.none = shown();
      seen.noneWanted = [...document.querySelectorAll(".pair")].map((c, i) =>
        c.querySelector("[data-states]") ? -1 : i).filter(i => i >= 0);
      choose("state", "");
      const region = document.querySelector(".box.region");
      seen.before = getComputedStyle(region).display;
      document.getElementById("all-regions").click(); seen.after = getComputedStyle(region).display;
      const busy = [...document.querySelectorAll(".pair")].find(c => c.querySelectorAll("mark").length > 1);
      const boxes = [...busy.querySelectorAll("[data-anchor]")], word = busy.querySelector("mark");
      word.dispatchEvent(new Event("mouseenter"));
      seen.faint = boxes.map(b => b.classList.contains("faint"));
      seen.others = boxes.map(b => !own(word).includes(b.dataset.anchor));
      word.dispatchEvent(new Event("mouseleave")); seen.left = busy.querySelectorAll(".faint").length;
    """
    seen, console = browser(anchors_page, script)
    assert console == []
    assert seen["all"] == 20 and seen["links"] == seen["wordsTimesBoxes"] > 0 and seen["start"] < 2
    assert 0 < len(seen["concept"]) < 20 and seen["concept"] == seen["conceptWanted"]
    assert seen["count"] == f"{len(seen['concept'])} of 20"
    assert seen["wrong"] == seen["wrongWanted"] and seen["none"] == seen["noneWanted"]
    assert (seen["before"], seen["after"]) == ("none", "inline")
    assert seen["faint"] == seen["others"] and True in seen["faint"] and seen["left"] == 0
    assert seen["pictures"] > 0


def test_evaluation_page_filters_right_and_wrong(browser, tiny_world, tiny_tasks, tmp_path):
    regions = tiny_world / "data" / "scenes" / "regions"
    request = EvaluationRequest("scenes-rec", "testA", checkpoint=tiny_tasks["rec"], regions=regions)
    evaluations = run_evaluation(request, device="cpu")
    write_evaluation_page(tmp_path / "rec.html", request, evaluations, None, 30)
    script = """
      seen.all = shown().length;
      for (const state of ["right", "wrong", "partly"]) { choose("state", state); seen[state] = shown().length; }
      const picture = document.querySelector(".picture");
      choose("state", ""); seen.width = picture.getBoundingClientRect().width;
    """
    seen, console = browser(tmp_path / "rec.html", script)
    assert console == []
    assert seen["right"] + seen["wrong"] == seen["all"] > seen["right"] and seen["partly"] == 0
    assert seen["width"] > 200


def test_entailment_page_filters_by_label_and_unfolds_its_tables(browser, tiny_world, tiny_tasks, tmp_path):
    regions = tiny_world / "data" / "scenes" / "regions"
    request = EvaluationRequest("scenes-ve", "test", checkpoint=tiny_tasks["ve"], regions=regions)
    write_evaluation_page(tmp_path / "ve.html", request, run_evaluation(request, device="cpu"), None, 30)
    script = """
      seen.all = shown().length; seen.labels = {};
      for (const option of document.getElementById("concept").options) {
        if (option.value) { choose("concept", option.value); seen.labels[option.value] = shown().length; } }
      const folds = [...document.querySelectorAll("details")];
      seen.closed = folds.filter(fold => fold.querySelector("table").checkVisibility()).length;
      folds.forEach(fold => fold.querySelector("summary").click());
      seen.titles = folds.map(fold => fold.querySelector("summary").textContent);
      seen.open = folds.filter(fold => fold.querySelector("table").checkVisibility()).length;
    """
    seen, console = browser(tmp_path / "ve.html", script)
    assert console == []
    assert set(seen["labels"]) == {"entailment", "neutral", "contradiction"}
    assert sum(seen["labels"].values()) == seen["all"] > 0
    assert seen["closed"] == 0 and seen["open"] == len(seen["titles"]) >= 3
    assert seen["titles"][0] == "per label" and seen["titles"][-1] == "How it was scored"


def test_report_has_charts_and_nothing_in_the_console(browser, tiny_world):
    seen, console = browser(
        write_run_report(tiny_world / "runs" / "tiny"),
        'seen.charts = [...document.querySelectorAll(".chart")].filter(c => c.getBoundingClientRect().height > 50).length;'
        "seen.wide = document.documentElement.scrollWidth <= window.innerWidth;",
    )
    assert console == [] and seen["charts"] >= 6 and seen["wide"]


def test_a_complaint_would_be_seen(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<body><script>nothing.there()</script></body>")
    _, console = browser(page)
    assert any("nothing is not defined" in line for line in console)
