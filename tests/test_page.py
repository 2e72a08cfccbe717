"""The page of evaluate.py --report: its numbers, names and links, and what a browser shows where there is one.

python -m pytest tests/test_page.py
"""

import contextlib
import html
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import saved_runs
from helpers import PROJECT, command
from saved_runs import ANSWERS, BY_EPOCH, change, write_run

import evaluate
from common import runs
from reporting import drawings, figures, published, summary, tables

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = dict(A="<img src=x onerror=alert(1)>", B='O\'Brien "&" co', C="C" * 300)
CHART = "WAR of all methods, leaving one speaker out, last epoch"


class Page(HTMLParser):
    """Elements and text of a page, and its tables {caption: rows of texts}; tags must be balanced."""

    def __init__(self, text):
        super().__init__()
        self.source, self.open, self.elements, self.tables, self.text = text, [], [], {}, ""
        self.feed(text)
        self.close()
        assert self.open == []
        self.labels = [given["aria-label"] for name, given in self.elements if name == "svg" and "aria-label" in given]

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self.open += [(name, len(self.text))] if name != "meta" else []
        if name in ("table", "tr"):
            self.rows = [] if name == "table" else [*self.rows, []]

    def handle_endtag(self, name):
        last, start = self.open.pop()
        assert last == name
        if name == "caption":
            self.caption = self.text[start:]
        elif name in ("td", "th"):
            self.rows[-1].append(self.text[start:])
        elif name == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data):
        self.text += data


def write_page(folder, *arguments):
    """Text of the page of some runs."""
    path = folder.parent / "page.html"
    assert command(evaluate.main, "--runs", folder, "--report", path, *arguments) == 0
    return path.read_text(encoding="utf-8")


def json_rows(folder, *arguments):
    """Rows of evaluate.py as JSON, of the papers' tables: {(table, source, method): row}."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert command(evaluate.main, "--runs", folder, "--db", "casia", "--format", "json", *arguments) == 0
    rows = [row for row in json.loads(output.getvalue()) if row["table"] != "databases"]
    return {(row["table"], row["source"], row["method"]): row for row in rows}


pytestmark = pytest.mark.usefixtures("few_resamples")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds of tft, both trainings of atfnn, a transductive method and a user's network; never changed."""
    folder = tmp_path_factory.mktemp("page") / "runs"
    for seed, answers in enumerate(ANSWERS):
        write_run(folder, answers, seed=seed)
    write_run(folder, BY_EPOCH, model="atfnn")
    write_run(folder, BY_EPOCH, model="atfnn", track="validation", best=2)
    write_run(folder, ANSWERS[0], model="mine", trained=False)
    write_run(folder, ANSWERS[1], model="ga-bel", trained=False)
    for path in folder.glob("casia/ga-bel/*/*/fold*"):
        facts = dict(fitted=True, published=["GA-BEL"], extent="reading")
        change(path, method=facts, settings__normalization="speaker", deviations=["a", "b"])
    return folder


@pytest.fixture(scope="module")
def shown(folder):
    return Page(write_page(folder, "--db", "casia"))


def test_the_numbers_of_tables_and_chart_are_those_of_the_json_table(folder, shown):
    name_of = {}  # model -> its name in the chart: that of its first row
    for (kind, source, method), row in json_rows(folder).items():
        name, rates = tables.marked(method, row["transductive"]), ("war", "uar")
        name_of.setdefault(row["model"], name)
        lines = shown.tables[f"casia: {kind}, {source}, ours leaving one speaker out, last epoch"]
        (line,) = [line for line in lines if line[0] == name]
        assert line[1:3] == [tables.percent(row[f"published_{rate}"]) for rate in rates]
        assert line[3:5] == [tables.percent(row[rate], row[f"{rate}_std"]) for rate in rates]
        assert line[5:7] == [tables.percent(row[f"fold_{rate}"]) for rate in rates]
        for rate in rates if kind == "comparison" and row["war"] is not None else ():
            ours, paper, (low, high) = (
                *map(tables.percent, (row[rate], row[f"published_{rate}"])),
                row[f"{rate}_speakers"],
            )
            lines = shown.tables[CHART.replace("WAR", rate.upper())]
            (line,) = [line for line in lines if line[0].startswith(f"{name_of[row['model']]} ")]
            assert line[2:] == [f"{ours}{low:.2f} to {high:.2f}", paper]
            assert any(label.startswith(f"{name_of[row['model']]}: ours {ours}; ") for label in shown.labels)


def test_the_chart_is_sorted_and_transductive_results_are_a_group_of_their_own(shown):
    names, extents = zip(*(line[0].split(" ", 1) for line in shown.tables[CHART][1:8]))
    assert names == ("Strict:", "TFT", "ATFNN", "mine", "Transductive:", "GA-BEL,", "Published,")
    assert extents[1] == "as its paper states it, 1 setting differs" and extents[3] == "of no paper"
    assert extents[5] == "ga-bel† our reading of an abstract, 2 settings differ"


def test_confusion_speakers_and_seeds_are_those_that_are_saved(folder, shown):
    row = json_rows(folder)["comparison", "TFT Table 4", "TFT"]
    matrix = shown.tables["TFT: WAR 70.00, UAR 70.56, seed 0-1"][2:]
    assert [line[1:] for line in matrix] == [[f"{x:.0f}" for x in line] for line in figures.rates(row["confusion"])]
    found, _ = summary.collect(folder, "speaker", None, "last")
    wars = figures.speaker_war([fold for folds in found["casia", "tft"].values() for fold in folds]).values()
    lines = [line[1:] for line in shown.tables["WAR of each speaker and each seed"] if line[0] == "TFT"]
    assert lines[0] == ["mean", *(f"{its.mean():.2f}" for its in wars), tables.percent(row["war"])]
    for seed in (0, 1):
        of_seed = json_rows(folder, "--seed", seed)["comparison", "TFT Table 4", "TFT"]["war"]
        assert lines[1 + seed] == [str(seed), *(f"{its[seed]:.2f}" for its in wars), tables.percent(of_seed)]


def test_curves_and_tracks(folder, shown):
    (label,) = [label for label in shown.labels if label.startswith("ATFNN, 3 epochs, seed 0, trained on all")]
    assert "training loss: 3.00 at epoch 1, 2.00 at epoch 2, 1.00 at epoch 3" in label
    assert "WAR of tested speakers: 20.00 at epoch 1, 80.00 at epoch 2, 60.00 at epoch 3" in label
    lines = shown.tables["casia: ablation, ATFNN Table III, ours leaving one speaker out"]
    (line,) = [line for line in lines if line[0] == "ATFNN"]
    for column, track in zip((3, 5, 7), runs.TRACKS):
        row = json_rows(folder, "--track", track)["ablation", "ATFNN Table III", "ATFNN"]
        assert line[column] == tables.percent(row["war"])
        assert any(f"WAR in per cent of the track {track}: {line[column]}" in label for label in shown.labels)


def test_marks_lie_at_their_numbers():
    ticks = drawings.scale([12, 48], 8)
    assert ticks == [10, 20, 30, 40, 50] and len(drawings.scale([50, 50], 5)) > 1
    drawn = drawings.dots("m", [(drawings.MEAN, 12, "ours", 25.0)], (20, 30), ticks, 50)
    assert 'x="37.50%"' in drawn and 'x1="25.00%" x2="50.00%"' in drawn


def test_the_published_page_has_our_results():
    path = PROJECT / "docs" / "casia.html"
    wars = {tables.percent(row["war"]) for row in json_rows(published.RESULTS).values() if row["war"] is not None}
    lines = Page(path.read_text(encoding="utf-8")).tables[CHART.replace("last epoch", "each method's own epoch")][1:]
    assert {line[2][:5] for line in lines if len(line) > 2} - {"-"} == wars
    assert path.stat().st_size < 1_000_000 and path.with_name("casia-page.png").stat().st_size < 100_000


def test_nothing_is_fetched(shown):
    attributes = [pair for _, given in shown.elements for pair in given.items()]
    assert [value for name, value in attributes if name in ("src", "href", "srcset", "data") and value[:1] != "#"] == []
    assert not re.search(r"url\(|@import|https?:|\bimport\b|fetch\(", shown.source)
    assert "default-src 'none'" in shown.source


def test_names_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setattr(saved_runs, "CLASSES", ("</td><script>alert(1)</script>", "fe\"ar' &amp; x", "happy"))
    answers = {HOSTILE[name]: its for name, its in BY_EPOCH.items()}
    database, model = "a<b>&$x '\"", 'm"><svg onload=x>'
    write_run(tmp_path / "runs", answers, name=database)
    shown = Page(write_page(write_run(tmp_path / "runs", answers, name=database, model=model, trained=False)))
    assert "img" not in dict(shown.elements) and shown.source.count("<script") == 1
    assert not any(name.startswith("on") for _, given in shown.elements for name in given)
    for name in (database, model, *saved_runs.CLASSES, *HOSTILE.values()):
        assert name in shown.text, name
    assert any(HOSTILE["B"] in label for label in shown.labels)


def test_what_is_incomplete_is_named(folder, tmp_path, capsys):
    folder = shutil.copytree(folder, tmp_path / "runs")
    shutil.rmtree(runs.fold_folder(folder, "casia", "tft", "speaker", 1, 2))
    shutil.rmtree(runs.fold_folder(folder, "casia", "mine", "speaker", 0, 1))
    runs.fold_folder(folder, "casia", "afnn", "speaker", 0, 1).mkdir(parents=True)
    damaged = runs.fold_folder(folder, "casia", "atfnn", "speaker", 0, 3)
    (damaged / "log.csv").write_text("")
    text = html.unescape(write_page(folder, "--db", "casia"))
    lines = ("ATFNN, mine: only 2 of 3 folds", "TFT: seeds 1 are not counted", "TFT: track validation not run")
    for line in (*lines, f"{damaged}: damaged", "afnn: no finished fold", ", ATNN", "partial database"):
        assert line in text, line
    assert "damaged since it was finished" in capsys.readouterr().err


def test_options_choose_what_is_shown_and_matplotlib_is_not_needed(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # an import of it raises ImportError
    folder = shutil.copytree(folder, tmp_path / "runs")
    assert "seed 0-1" not in write_page(folder, "--db", "casia", "--seed", "1")
    write_run(folder, ANSWERS[0], protocol="session", sessions=dict(A="first", B="second", C="second"))
    text = write_page(folder, "--db", "casia", "--protocol", "session")
    assert "leaving one session out" in text and "--protocol session --table" in text and "ATFNN, 3 epochs" not in text
    for arguments, words in (("page.txt", "ends in .html"), ("x.html --db iemocap", "no finished fold")):
        assert command(evaluate.main, "--runs", folder, "--report", *arguments.split()) == 2
        assert words in capsys.readouterr().err


MEASURE = """onload = () => {
const page = document.querySelector("iframe").contentDocument, result = {}, width = page.documentElement.clientWidth;
result.wide = [...page.body.querySelectorAll(":not(.scroll *, svg *)")].filter(
  element => element.getBoundingClientRect().right > width + 1).map(element => element.outerHTML.slice(0, 99));
result.overflow = page.documentElement.scrollWidth;
result.fetched = performance.getEntriesByType("resource").length;
result.background = getComputedStyle(page.body).backgroundColor;
page.querySelector("td svg[tabindex]").focus();
result.tip = page.getElementById("tip").textContent;
const table = page.querySelector("table.sortable:not(details *)"), column = [...table.tHead.rows].pop().cells[3];
column.firstChild.click();
result.sorted = [...table.tBodies[0].rows].map(row => row.cells[3].textContent);
document.body.dataset.result = JSON.stringify(result); }"""


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed: apt-get install chromium")
@pytest.mark.parametrize("width, dark", [(400, True), (800, False)])
def test_in_a_browser_nothing_overflows_and_colours_tips_and_sorting_work(width, dark, folder, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "runs")
    write_run(folder, {HOSTILE[name]: its for name, its in BY_EPOCH.items()}, name="W" * 90, model="atfnn")
    frame = f'<iframe style="width:{width}px;height:9000px" srcdoc="{html.escape(write_page(folder))}"></iframe>'
    path = tmp_path / "frame.html"
    path.write_text(f"<!DOCTYPE html><meta charset=utf-8>{frame}<script>{MEASURE}</script>", encoding="utf-8")
    flags = f"--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync \
        --user-data-dir={tmp_path} --blink-settings=preferredColorScheme={int(not dark)} --dump-dom".split()
    done = subprocess.run([BROWSER, *flags, path.as_uri()], capture_output=True, text=True, timeout=60)
    (result,) = re.findall(r'data-result="([^"]*)"', done.stdout)
    result = json.loads(html.unescape(result))
    assert (result["wide"], result["fetched"]) == ([], 0) and result["overflow"] <= width
    assert (sum(map(int, re.findall(r"\d+", result["background"]))) < 300) == dark
    assert "95 % interval over speakers" in result["tip"]
    numbers = [float(re.match(r"[\d.]+", cell)[0]) for cell in result["sorted"] if cell != "-"]
    assert numbers == sorted(numbers, reverse=True) and result["sorted"][-1] == "-"
