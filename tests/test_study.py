"""benchmarks/study.py: train.py takes its commands, and its report is what the published predictions give."""

import csv
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import PROJECT, command
from saved_runs import ANSWERS, write_run

import evaluate
import train
from benchmarks import study
from common import config, methods
from reporting import published

pytestmark = pytest.mark.usefixtures("machine")

# ------------------------------------------------------------------------------------------ commands


def printed(capsys, *arguments):
    """[(arguments after python, purpose)] of a study that prints its commands."""
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    capsys.readouterr()
    study.main([*arguments[:end], "--print", *arguments[end:]])
    lines = [line.split("  # ") for line in capsys.readouterr().out.splitlines()]
    return [(shlex.split(text)[1:], purpose) for text, purpose in lines]


def trainings(commands):
    """Options of the trainings among some commands."""
    return [config.parse_command_line(words[1:]) for words, _ in commands if words[0].endswith("train.py")]


def test_each_published_figure_of_a_network_has_a_training(capsys):
    trained = set()
    for db in ("iemocap", "abc", "casia"):
        trained |= {(db, options.model, options.protocol) for options in trainings(printed(capsys, "--db", db))}
    rows = [row for row in published.read_published() if row["model"]]
    assert len(rows) > 20
    assert {(row["database"], row["model"], row["protocol"] or "speaker") for row in rows} <= trained


def test_all_commands_are_ones_that_train_takes_and_go_to_folders_of_their_own(capsys):
    commands = printed(capsys, "--db", "casia", "--root", "/corpus", "--part", "all", "--runs", "here")
    folders = set()
    for options in trainings(commands):
        config.check_options(options)
        assert (options.seed, options.root) == ("0-4", "/corpus")
        folders.add((options.runs, options.model))
    assert len(folders) == len(trainings(commands))
    exports = [words for words, _ in commands if words[0].endswith("evaluate.py")]
    assert {words[words.index("--runs") + 1] for words in exports} == {folder for folder, _ in folders}
    assert exports[1][-1].endswith("benchmarks/results/studies/epochs-100")


def test_a_study_of_a_setting_changes_that_setting_alone(capsys):
    seen = set()
    for options in trainings(printed(capsys, "--db", "casia", "--part", "settings")):
        settings = dict(config.settings_of(options, methods.find(options.model)), model=options.model)
        changes = [line for line in config.deviations_of(settings) if not line.startswith("epochs")]
        assert len(changes) == 1 and options.track == "validation"
        name, value = changes[0].split()[:2]
        path = Path(options.runs).name
        assert path.startswith(name.replace("_", "-"))
        assert name == "double_softmax" or float_or_text(path[len(name) + 1 :]) == float_or_text(value)
        seen.add(path)
    assert seen == set(study.PARTS["settings"]) - {"precision-float32"}  # which all have anyway


def float_or_text(text):
    try:
        return float(text)
    except ValueError:
        return text


def test_arguments_after_the_dashes_go_to_each_training_but_the_setting_wins(capsys):
    arguments = ["--db", "casia", "--part", "precision-float32", "epochs-10-15", "--model", "tft"]
    commands = printed(capsys, *arguments, "--", "--precision", "bfloat16", "--epochs", "3")
    assert [(options.precision, options.epochs) for options in trainings(commands)] == [("float32", 3), ("bfloat16", 3)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--db"),
        (["--db", "casia", "--part", "nothing"], "invalid choice"),
        (["--db", "nowhere", "--report"], "--db nowhere"),
        (["--db", "casia", "--", "--runs", "x"], "--runs: is an option of study.py itself"),
        (["--db", "casia", "--", "--seed=9"], "--seed=9"),
        (["--db", "casia", "--part", "gate-none", "--model", "tft"], "trains none of --model tft"),
        (["--db", "casia", "--results", "x", "--", "--bn-momentum", "0.01"], "--bn-momentum: only"),  # ATFNN has none
        (["--db", "casia"], "holds tft with precision bfloat16, not float32; name another --results"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_is_trained(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *words: pytest.fail("something is trained"))
    assert command(study.main, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error


def test_a_failed_training_ends_the_study_with_its_code(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(subprocess, "run", lambda words: SimpleNamespace(returncode=3))
    assert command(study.main, "--db", "abc", "--results", tmp_path) == 3
    assert capsys.readouterr().out.count("\n") == 1


def test_the_commands_of_gpu_sh_are_ones_that_train_takes(tmp_path):
    script = [shutil.which("bash"), PROJECT / "benchmarks/gpu.sh", tmp_path, tmp_path / "out"]
    subprocess.run(script, env=dict(os.environ, PYTHON="echo"), check=True, capture_output=True)
    logs = list((tmp_path / "out").glob("*.log"))
    for log in logs:
        options = config.parse_command_line(shlex.split(log.read_text())[1:])
        config.check_options(options)
        assert options.device == "cuda" and options.engine == ("auto" if log.stem in methods.DEEP else "compiled")
    assert len(logs) == 5 + 8
    again = subprocess.run(script, env=dict(os.environ, PYTHON="false"), check=True, capture_output=True, text=True)
    assert again.stdout.count("is done") == 10  # what is measured is not measured again


# ---------------------------------------------------------------------------------------- comparisons


def stub(name, models):
    """Stands in for study.Results. models: {model: (arguments of train.py, {column of COLUMNS: {seed: WAR}})}."""
    return SimpleNamespace(
        name=name,
        settings=lambda model: (
            study.settings_of(models[model][0].split(), model) | dict(model=model, eval_every=10)
            if model in models
            else None
        ),
        wars=lambda model: dict.fromkeys(study.COLUMNS, {}) | models[model][1],
    )


def cells_of(table):
    """{(first cell, second cell): other cells} of a Markdown table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return {(first, second): others for first, second, *others in rows}


def by_seed(*wars):
    return dict(enumerate(wars))


HELD, TESTED, CHOSEN, LAST = study.COLUMNS


def test_held_out_speakers_decide_between_settings():
    base = {HELD: by_seed(50, 52, 54, 50, 52), LAST: by_seed(30, 32, 34)}
    better = {HELD: by_seed(55, 57, 61, 54, 58), LAST: by_seed(29, 31, 33)}
    level = {HELD: by_seed(51, 51, 54, 51, 51), LAST: by_seed(90, 92, 94)}
    studies = [
        stub(study.BASELINE, dict(tft=("", base), atfnn=("", base))),
        stub("dropout-0.1", dict(tft=("--dropout 0.1", better), atfnn=("--dropout 0.1", better))),
        stub("double-softmax", dict(tft=("--double-softmax", level))),  # better on tested speakers: decides nothing
        stub("overlap-0.5", dict(tft=("--overlap 0.5", better))),  # ATFNN has it too, and was not trained
        stub("gate-none", dict(atfnn=("--gate none", {HELD: by_seed(90, 92, 94, 90)}))),  # too few seeds
        stub("gate-softmax", dict(atfnn=("--gate softmax --lr 0.1", better))),
    ]
    table, verdict = study.settings_section(studies).split("\n\n")
    cells = cells_of(table)
    assert cells[study.BASELINE, "tft"] == ["0-4 / 0-2", "51.60 (std 1.67)", "-", "-", "32.00 (std 2.00)"]
    assert cells["dropout-0.1", "tft"] == [
        "0-4 / 0-2", "57.00, +5.40 (SE 0.51)", "-", "-", "31.00, -1.00 (SE 0.00)"
    ]  # fmt: skip
    assert cells["gate-none", "atfnn"][:2] == ["0-3", "91.50, +40.00 (SE 0.00)"]
    assert cells["gate-softmax", "atfnn"][0] == "differs in lr too: not compared"
    first, refuted, undecided = verdict.split(": ")[1:]
    assert first.startswith("dropout-0.1.") and refuted.startswith("double-softmax.")
    assert undecided == "overlap-0.5, gate-softmax, gate-none."


def test_ablations_are_compared_with_their_full_network_over_common_seeds():
    studies = [
        stub("a", {"tft": ("", {LAST: by_seed(30, 32, 35)}), "tft-t+f": ("", {LAST: by_seed(32, 34, 36, 99)})}),
        stub("b", {"atfnn": ("--f-encoder-heads 4", {}), "afnn": ("", {}), "atnn": ("", {LAST: by_seed(7)})}),
        stub("c", {"afnn": ("", {})}),
    ]
    cells = cells_of(study.ablation_table(studies))
    assert cells["a", "tft-t+f"] == ["0-2", "-", "-", "-", "34.00, +1.67 (SE 0.33)"]
    assert cells["b", "afnn"][0] == "differs in f_encoder_heads too: not compared"
    assert cells["b", "atnn"] == ["-"] * 5  # has no heads, and no seed in common
    assert list(cells) == [("a", "tft"), ("a", "tft-t+f"), ("b", "atfnn"), ("b", "afnn"), ("b", "atnn")]
    assert study.ablation_table(studies[2:]) == ""


@pytest.mark.parametrize(
    "gains, better",
    [
        ([(2.1, 1.0), (0.3, 0.1)], True),
        ([(1.9, 1.0), (0.3, 0.1)], False),
        ([(5.0, 1.0), (None, None)], None),
        ([(1.9, 1.0), (None, None)], False),  # whatever the other would give
        ([(5.0, 0.0)], None),  # all seeds alike
    ],
)
def test_better_is_by_two_standard_errors_for_both_networks(gains, better):
    assert study.is_better(gains) is better


# -------------------------------------------------------------------------------------------- reports


@pytest.fixture(scope="module")
def report():
    """Report of the published results of CASIA."""
    return list(study.report(published.RESULTS, "casia"))


def section(report, start):
    """Part of the report that begins so."""
    return next(part for part in report if part.startswith(start))


def test_published_figures_are_those_counted_by_hand(report):
    cells = {row[0]: row[1] for row in cells_of(section(report, "| model | paper")).items()}
    with open(published.RESULTS / "casia" / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for (model, paper), row in cells.items():
        columns = [name for name in rows[0] if name.startswith(f"{model}/speaker/") and name.endswith("/last")]
        wars = [100 * np.mean([line[name] == line["emotion"] for line in rows]) for name in columns]
        std = f" (std {np.std(wars, ddof=1):.2f})" if len(wars) > 1 else ""
        assert row[1] == f"{np.mean(wars):.2f}{std}" and row[3] == f"{np.mean(wars) - float(paper):+.2f}"


def test_the_report_has_the_figures_that_the_findings_rest_on(report):
    settings = cells_of(section(report, "| setting |").split("\n\n")[0])
    assert settings["overlap-0.5", "tft"][1] == "29.40, +3.43 (SE 1.61)"
    assert settings["overlap-0.5", "atfnn"][1] == "33.62, +4.20 (SE 1.25)"
    assert settings["normalization-none", "atfnn"][4] == "34.85, +4.15 (SE 1.67)"
    assert settings["dropout-0.1", "tft"][3] == "25.12, +2.10 (SE 1.09)"
    assert settings["precision-float32", "tft"] == ["0-1", "-", "-", "-", "30.29, -0.50"]
    assert "both have the setting: overlap-0.5. Not so: normalization-none," in section(report, "| setting |")
    ablations = cells_of(section(report, "| study | model | seeds | held-out"))
    assert ablations["epochs-100", "tft-t+f"][4] == "33.43, +3.98 (SE 1.55)"
    assert ablations["main", "afnn"][4] == "39.22, +5.18 (SE 0.82)"
    assert ablations[study.BASELINE, "atnn"][4] == "34.72, +4.02 (SE 1.31)"
    curve = cells_of(section(report, "| epochs-30, validation: epoch | atfnn"))
    assert curve["30", "0.315"] == ["31.80 (std 5.38)", "29.25 (std 2.86)"]


def test_a_tiny_study_from_recordings_to_report(corpus, tiny, tmp_path, monkeypatch, capsys):
    def run(words, purpose, options):
        main = dict(train=train, evaluate=evaluate, study=study)[Path(words[0]).stem].main
        assert command(main, *words[1:]) == 0, purpose

    monkeypatch.setattr(study, "run", run)
    arguments = ["--db", corpus / "small.csv", "--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    arguments += ["--model", "atfnn", "--seed", "0", "--part", study.BASELINE, "gate-none"]
    quick = "--epochs 1 --eval-every 1 --batch-size 32 --device cpu --quiet".split()
    assert command(study.main, *arguments, "--", *quick) == 0
    text = (tmp_path / "results" / "small.md").read_text()
    assert "| gate-none | atfnn | 0 |" in text and f"| {study.BASELINE}, validation: epoch |" in text
    assert command(study.main, *arguments, "--", *quick) == 0  # finished folds are skipped


def test_seeds_without_all_folds_are_in_no_comparison(tmp_path):
    for seed, answers in enumerate(ANSWERS):
        write_run(tmp_path / "runs", answers, seed=seed)
    shutil.rmtree(tmp_path / "runs/casia/tft/speaker/seed1/fold2")
    evaluate.main(["--runs", str(tmp_path / "runs"), "--export", str(tmp_path / "results")])
    study.main(["--db", "casia", "--report", "--results", str(tmp_path / "results")])
    text = (tmp_path / "results" / "casia.md").read_text()
    assert "| tft | 53.17 | 53.17 | 60.00 | 54.44 |" in text and "seeds 1 left out" in text
    assert "| B | 66.67 |" in text and "| main, last: epoch |" in text
