"""Tables as evaluate.py prints them, and its options, on run folders written by hand (tests/saved_runs.py).

python -m pytest tests/test_tables.py
"""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import command
from saved_runs import ANSWERS, BY_EPOCH, change, write_run

import evaluate
from common import cli, runs
from reporting import audit, figures, published, significance, tables

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals are measured in their own tests."""
    monkeypatch.setattr(significance, "RESAMPLES", 200)


@pytest.fixture
def run(capsys):
    """Exit code, output and errors of evaluate.py."""

    def call(*arguments):
        capsys.readouterr()
        return command(evaluate.main, *arguments), *capsys.readouterr()

    return call


@pytest.fixture
def rows(run):
    """Rows of evaluate.py as JSON."""

    def call(*arguments):
        code, out, error = run(*arguments, "--format", "json")
        assert code == 0, error
        return json.loads(out)

    return call


@pytest.fixture
def refused(run):
    """The one line that a command ends with."""

    def call(*arguments):
        code, out, error = run(*arguments)
        assert (code, out, error.count("\n")) == (2, "", 1), (out, error)
        return error

    return call


@pytest.fixture
def folder(tmp_path):
    """Two seeds of tft, each with three folds."""
    for seed, answers in enumerate(ANSWERS):
        write_run(tmp_path / "runs", answers, seed=seed)
    return tmp_path / "runs"


@pytest.fixture
def tracks(tmp_path):
    """A seed of tft with both trainings: last 60.00, validation 80.00, oracle 100.00."""
    write_run(tmp_path / "runs", BY_EPOCH)
    return write_run(tmp_path / "runs", BY_EPOCH, track="validation", best=2)


def lines_of(text):
    return [re.sub(" +", " ", line) for line in text.splitlines()]


# ------------------------------------------------------------------------------------- what is printed


def test_the_text_row_of_a_method_is_exact(folder, run):
    _, out, _ = run("--runs", folder, "--db", "casia", "--table", "ablation")
    assert "T+F+TF 53.17 53.17 70.00±14.14 70.56±22.78 72.22 72.92 3/3 0-1" in lines_of(out)
    assert "T+F 40.32 40.32 - - - - - -" in lines_of(out)
    assert "casia: ablation, TFT Table 5, ours leaving one speaker out, last epoch" in lines_of(out)


def test_other_protocols_of_the_papers_are_starred_or_left_empty(run, tmp_path):
    _, out, _ = run("--runs", tmp_path, "--table", "comparison", "--db", "iemocap")
    assert re.search(r"^CNN-LSTM\* +68\.80 59\.40 ", out, re.M) and re.search(r"^DNN-BN +59\.70 61\.40 ", out, re.M)
    assert out.count("* published under leave-one-session-out") == 2  # once for each paper's table
    _, out, _ = run("--runs", tmp_path, "--table", "comparison", "--db", "abc")
    assert re.search(r"^RGSR-LPDA +- 49\.40 ", out, re.M) and "*" not in out


def test_incomplete_runs_are_shown_as_incomplete(folder, run):
    for seed in (0, 1):
        shutil.rmtree(runs.fold_folder(folder, "casia", "tft", "speaker", seed, 2))
    _, out, _ = run("--runs", folder, "--table", "ablation", "--db", "casia")
    assert re.search(r"^T\+F\+TF .* 2/3 +0-1$", out, re.M) and "T+F+TF: incomplete: only 2/3 folds" in out


def test_a_damaged_fold_is_reported_and_the_others_are_shown(folder, run):
    path = runs.fold_folder(folder, "casia", "tft", "speaker", 0, 2)
    (path / "log.csv").write_text("")
    code, out, error = run("--runs", folder, "--db", "casia", "--track", "all")
    assert code == 0 and "seeds 0 left out" in out
    assert error == f"evaluate.py: {path}: damaged since it was finished, not counted; repeat the training command\n"


def test_the_tracks_stand_side_by_side(tracks, run):
    _, out, _ = run("--runs", tracks, "--db", "casia", "--table", "ablation", "--track", "all")
    assert lines_of(out)[2:4] == [" paper last valid. oracle+", "method WAR UAR WAR UAR WAR UAR WAR UAR"]
    assert "T+F+TF 53.17 53.17 60.00 58.89 80.00 77.78 100.00 100.00" in lines_of(out)


@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
@pytest.mark.parametrize("track", ["last", "oracle", "all"])
def test_the_oracle_is_labelled_as_a_diagnostic_in_all_tables(track, style, tracks, run):
    write_run(tracks, BY_EPOCH, model="atfnn")
    _, out, _ = run("--runs", tracks, "--db", "casia", "--table", "ablation", "--track", track, "--format", style)
    papers = out.split("casia: ablation, ")[1:]
    assert len(papers) == 2
    for text in papers:
        assert ("a diagnostic and not a result" in text) == ("oracle" in text) == (track != "last")


@pytest.mark.parametrize("style", ["text", "markdown", "latex"])
def test_a_track_that_was_not_run_leaves_its_column_empty(style, tmp_path, run):
    write_run(tmp_path, BY_EPOCH, name="mine")
    arguments = ("--db", "mine", "--table", "ablation", "--track", "all", "--format", style)
    code, out, error = run("--runs", tmp_path, *arguments)
    row = next(line for line in out.splitlines() if line.lstrip("| ").startswith("T+F+TF"))
    cells = row.strip("| \\").replace("|", " ").replace("&", " ").split()
    assert (code, error) == (0, "") and cells == "T+F+TF - - 60.00 58.89 - - 100.00 100.00".split()


def test_a_published_row_comes_once_over_all_tracks(capsys):
    arguments = ["--db", "casia", "--runs", published.RESULTS, "--table", "comparison", "--track", "all"]
    assert command(evaluate.main, *arguments) == 0
    first, _ = capsys.readouterr().out.split("\n\n")
    assert [first.count(f"\n{name}") for name in ("GA-BEL", "DCNN-DTPM", "TFT", "gmm-hmm")] == [1] * 4


def test_significance_is_shown_for_each_track_with_the_notes_of_both_models(tracks, run):
    write_run(tracks, BY_EPOCH, model="atfnn")
    write_run(tracks, BY_EPOCH, model="atfnn", track="validation", best=2)
    change(runs.fold_folder(tracks, "casia", "tft", "speaker", 0, 2), code={"train.py": "d" * 16})
    _, out, _ = run("--runs", tracks, "--db", "casia", "--table", "significance", "--track", "all")
    parts = out.split("\n\n")
    titles = [part.splitlines()[0].rsplit(", ", 1)[1] for part in parts]
    assert titles == ["last epoch", "epoch chosen on held-out speakers", "a diagnostic"]
    assert ["not a result" in part for part in parts] == [False, False, True]
    assert "\ntft: folds of different versions of the code\n" in parts[0] and "atfnn: folds" not in out
    assert "\natfnn: epochs 3 instead of 100\n" in parts[0] and "not separable, 3 speakers" in parts[0]


# -------------------------------------------------------------------------------------------- formats


def test_text_tables_fit_a_terminal(tmp_path, run):
    """Five seeds that differ much, ten folds, long names."""
    answers = {f"{n}{letter}": text for n in "12345" for letter, text in (("F", "aa fh hh"), ("M", "aa ff"))}
    for model, seeds in (("atfnn", 5), ("tft-t+tf", 2), ("tft-f+tf", 2)):
        for seed in range(seeds):
            changed = {who: text.replace("hh", "ha") if seed % 2 else text for who, text in answers.items()}
            write_run(tmp_path, changed, name="iemocap", model=model, seed=seed)
    for arguments, shown in [
        ([], r"\d±\d\d\.\d\d .* 10/10 +0-4$"), (["--track", "all"], r"^T\+TF .*\d$"), (["--track", "oracle"], r" 0-4$"),
        (["--table", "significance", "--models", "tft-t+tf", "tft-f+tf"], r"^tft-t\+tf - tft-f\+tf .*0/2$"),
    ]:  # fmt: skip
        code, out, _ = run("--runs", tmp_path, *arguments)
        assert code == 0 and re.search(shown, out, re.M), arguments
        assert [line for line in out.splitlines() if len(line) > 80] == []


def test_columns_of_wide_characters_stay_in_line():
    cells = [["\u60b2\u4f24", "-", "6"], ["angry", "10", "7"]]
    lines = tables.as_text("zh", ["", "published", "found"], cells, []).splitlines()
    assert [cli.width(line) for line in lines[1:]] == [21] * 6
    assert lines[4].startswith("\u60b2\u4f24          - ")


def test_markdown_escapes_what_a_class_may_be_called():
    out = tables.as_markdown("title", ["", "found"], [["glad|merry", "3"], ["CNN*", "1"]], [])
    assert r"| glad\|merry | 3 |" in out and r"| CNN\* | 1 |" in out


@pytest.mark.parametrize("character, escaped", [
    *((character, "\\" + character) for character in "_%&#${}"), ("~", r"\textasciitilde{}"),
    ("^", r"\textasciicircum{}"), ("\\", r"\textbackslash{}"), ("†", r"$\dagger$"),
])  # fmt: skip
def test_latex_escapes(character, escaped):
    given, expected = f"x{character}y", f"x{escaped}y"
    out = tables.as_latex(given, ["head", given], [[given, "1"]], [given])
    assert rf"\caption{{{expected}. {expected}}}" in out
    assert rf"head & {expected} \\" in out and rf"{expected} & 1 \\" in out


def test_csv_holds_what_json_holds(folder, run, rows):
    for arguments in ([], ["--track", "all"]):
        expected = rows("--runs", folder, *arguments)
        _, out, _ = run("--runs", folder, *arguments, "--format", "csv")
        got = list(csv.DictReader(io.StringIO(out)))
        assert len(got) == len(expected) > 40 and {row["table"] for row in got} == set(tables.TABLES)
        for text, row in zip(got, expected):
            assert all(text[name] == "" for name in set(text) - set(row))
            for name, value in row.items():
                parse = {list: json.loads, bool: "True".__eq__, int: int, float: float, str: str}
                assert (text[name] == "") if value is None else parse[type(value)](text[name]) == value, name


# -------------------------------------------------------------------------------------- the command


def test_help_loads_no_torch_and_no_scipy():
    code = (
        "import sys; sys.modules['torch'] = sys.modules['scipy'] = sys.modules['matplotlib'] = None\n"
        "import evaluate; evaluate.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0 and "--export" in done.stdout


@pytest.mark.parametrize("arguments, message", [
    (["--db", "nobody"], "--db nobody: choose iemocap, "),
    (["--db", "some/mine.csv"], "holds no tested fold of mine; first run python train.py --db some/mine.csv"),
    (["--seed", "3-1"], "--seed 3-1: give a number"), (["--seed", "x"], "--seed x: give a number"),
    (["--table", "significance"], "--models tft atfnn: no two of them have all folds of a seed on one database"),
    (["--db", "toy", "--protocol", "session"], "has no results of toy for this --protocol, --seed and --track"),
    (["--figure", "confusion"], "--out"), (["--figure", "attention", "--out", "x.png"], "--utterance"),
    (["--figure", "confusion", "--out", "x.png", "--track", "all"], "--track all"),
    (["--figure", "confusion", "--audit"], "--audit: not allowed with argument --figure"),
    (["--audit", "--export", "x"], "--export: not allowed with argument --audit"),
])  # fmt: skip
def test_what_would_mislead_is_refused(arguments, message, folder, refused, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write_run(folder, name="toy")
    assert message in refused("--runs", folder, *arguments)


def test_a_missing_runs_folder_that_was_named_is_refused(refused, tmp_path):
    assert f"--runs {tmp_path / 'no'}: no such folder" in refused("--runs", tmp_path / "no")
    assert "no such folder" in refused("--runs", tmp_path / "no", "--audit")


def test_options_that_are_not_needed_are_ignored(folder, run, monkeypatch):
    plain = run("--runs", folder, "--db", "casia", "--table", "ablation")
    more = ("--models", "tft", "--root", "nowhere", "--out", "x.png", "--utterance", "A/0", "--counts")
    assert run("--runs", folder, "--db", "casia", "--table", "ablation", *more) == plain
    drawn = []
    monkeypatch.setattr(figures, "check_options", lambda options: None)
    monkeypatch.setattr(figures, "make_figure", drawn.append)
    assert run("--runs", folder, "--figure", "confusion", "--out", "x.png", "--root", "nowhere")[0] == 0
    assert (drawn[0].figure, drawn[0].protocol) == ("confusion", "speaker")


def test_the_audit_takes_a_database_and_ends_with_the_number_of_faults(folder, run, monkeypatch):
    asked = []

    def check_runs(folder, results, db, protocol):
        asked.append((str(folder), db, protocol, results("casia", "tft", "speaker", "last", [1]).seeds))
        yield from [("ok", False), *[("FAULT", True)] * faults]

    monkeypatch.setattr(audit, "check_runs", check_runs)
    for faults, (code, last) in enumerate([(0, "no faults in"), (1, "1 fault in"), (1, "2 faults in")]):
        result = run("--runs", folder, "--audit", "--db", "casia", "--track", "oracle", "--format", "csv")
        assert result[0] == code and result[1].splitlines()[-1] == f"{last} {folder}"
    assert asked == [(str(folder), "casia", None, [1])] * 3


# ----------------------------------------------------------------------- without a folder of results


@pytest.fixture
def clone(folder, tmp_path, monkeypatch):
    """A fresh clone that publishes two seeds of tft on CASIA, as the current folder."""
    assert command(evaluate.main, "--runs", folder, "--export", tmp_path / "clone/benchmarks/results") == 0
    monkeypatch.setattr(published, "RESULTS", tmp_path / "clone/benchmarks/results")
    monkeypatch.chdir(tmp_path / "clone")
    return folder


NOTE = "showing the published results of this suite in benchmarks/results\n"


@pytest.mark.parametrize("style", tables.FORMATS)
def test_a_fresh_clone_shows_the_published_results_and_where_they_are(style, clone, run):
    code, out, error = run("--table", "ablation", "--format", style)
    note = f"no runs folder: {NOTE}"
    if style in ("text", "markdown"):
        assert (code, error) == (0, "") and out.startswith(f"{note}\n")
        out = out.removeprefix(f"{note}\n")
    else:
        assert (code, error) == (0, note)
    assert out == run("--runs", "benchmarks/results", "--table", "ablation", "--format", style)[1]


def test_a_runs_folder_is_shown_unless_it_lacks_what_is_asked_for(clone, run, refused):
    write_run("runs", name="toy")
    for arguments in (("--db", "toy"), ("--db", "iemocap")):
        assert "showing the published results" not in run(*arguments)[1]
    assert run()[1].startswith(f"the folder runs holds no casia: {NOTE}")  # the others are its own
    assert run("--db", "casia")[1].startswith(f"the folder runs holds no casia: {NOTE}")
    shutil.copytree(clone / "casia", "runs/casia")
    assert run("--db", "casia")[1].startswith("casia (Mandarin)")


def test_an_export_never_takes_the_published_results(clone, refused):
    assert "runs: has no finished fold" in refused("--export", "again")


def test_the_published_results_of_this_suite_are_shown_next_to_the_papers(monkeypatch, rows):
    monkeypatch.chdir(PROJECT / "tests")  # no runs folder
    found = [row for row in rows("--table", "ablation") if row["database"] == "casia"]
    assert len(found) == 8 and all(row["war"] > 25 and row["published_war"] for row in found)
    assert {row["model"]: row["seeds"] for row in found}["tft"] == [0]
    assert all(row["seeds"] == [0, 1, 2, 3, 4] for row in found if row["model"] != "tft")


def test_databases_that_were_not_run_here_show_our_published_results(folder, tmp_path, monkeypatch, capsys):
    """After a first training of one's own the tables of CASIA are still there, with a line that says whose they are."""
    (tmp_path / "here").mkdir()
    write_run(tmp_path / "here" / "runs", name="toy", model="tft")
    monkeypatch.chdir(tmp_path / "here")
    assert command(evaluate.main, "--table", "ablation", "--format", "json") == 0
    out, error = capsys.readouterr()
    wars = {(row["database"], row["model"]): row["war"] for row in json.loads(out)}
    assert round(wars["casia", "tft"], 2) == 29.33 and wars["toy", "tft"] is not None
    assert "the folder runs holds no casia" in error and "published results of this suite" in error
