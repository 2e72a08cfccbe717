"""The commands of benchmarks/reproduce.py are ones that train.py takes, and the published report is what they give."""

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_evaluate import ANSWERS, EARLIER, write_run

import archive
import evaluate
import protocols
import recipes
import results
from benchmarks import report, reproduce, synthetic

PROJECT = Path(__file__).resolve().parents[1]


def printed(capsys, *arguments):
    """[(command without python, its purpose)] of reproduce.py --print."""
    reproduce.main([*arguments, "--print"] if "--" not in arguments else ["--print", *arguments])
    lines = [line.split("  # ") for line in capsys.readouterr().out.splitlines()]
    return [(shlex.split(command)[1:], purpose) for command, purpose in lines]


def test_every_row_of_every_table_has_its_command(capsys):
    told = printed(capsys)
    trained = {(c[c.index("--db") + 1], c[c.index("--model") + 1]) for c, _ in told if c[0] == "train.py"}
    needed = {(row["database"], row["model"]) for row in evaluate.read_published() if row["model"]}
    assert needed <= trained
    assert {purpose for c, purpose in told if "session" in c and c[0] == "train.py"} == {
        f"{tables}, leaving one session out" for tables in reproduce.ROWS.values()
    }


def test_every_training_command_is_one_that_train_takes(capsys):
    for command, purpose in printed(capsys, "--db", "casia", "--root", "/somewhere", "--tft-epochs", "15"):
        if command[0] == "train.py":
            config = recipes.parse_command_line(command[1:])
            recipes.check_options(config)
            assert (config.seed, config.track, config.root) == ("0-4", "all", "/somewhere")
            assert config.epochs == (15 if recipes.RECIPES[config.model] is recipes.TFT_RECIPE else None)
            changed = recipes.settings_of(config, config.model) != recipes.settings_of(
                recipes.Config(model=config.model, epochs=config.epochs), config.model
            )
            assert changed == ("sensitivity" in config.runs), purpose


def test_what_follows_the_dashes_goes_to_every_training(capsys):
    told = printed(capsys, "--db", "abc", "--", "--device", "cuda")
    assert all(("cuda" in command) == (command[0] == "train.py") for command, _ in told)


def test_a_setting_of_the_study_wins_over_what_every_training_is_given(capsys):
    arguments = ["--db", "casia", "--part", "sensitivity", "--track", "validation", "--model", "tft"]
    told = printed(capsys, *arguments, "--", "--precision", "bfloat16")
    ((command, purpose),) = [one for one in told if "precision " in one[1]]  # rows have the other
    config = recipes.parse_command_line(command[1:])
    assert (config.precision, config.track, purpose) == ("float32", "validation", "tft: precision float32")


def test_a_named_setting_that_the_rows_have_is_told(capsys):
    with pytest.raises(protocols.UsageError, match="--setting precision float32: the rows have it already"):
        reproduce.main(["--db", "casia", "--root", "nowhere", "--setting", "gate none", "precision float32"])
    assert not capsys.readouterr().out


def test_a_killed_study_ends_its_training(tmp_path):
    synthetic.write_corpus("casia", tmp_path / "casia")
    command = [sys.executable, str(PROJECT / "benchmarks/reproduce.py"), "--db", "casia", "--root", "casia"]
    command += ["--part", "rows", "--model", "tft", "--", "--partial"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    study = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, **pipes)
    try:
        assert any("folds to train" in line for line in iter(study.stdout.readline, ""))
        study.terminate()
        _, error = study.communicate(timeout=60)  # the pipes are closed when the training has ended too
        assert study.returncode == results.EXIT_INTERRUPTED and error.count("\n") == 1 and "interrupted" in error
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(study.pid, signal.SIGKILL)


def test_every_gpu_figure_has_a_command_that_train_takes(tmp_path):
    script = [shutil.which("bash"), str(PROJECT / "benchmarks/gpu.sh"), str(tmp_path), str(tmp_path / "out")]
    (tmp_path / "out/corpus").mkdir(parents=True)  # as if it had been made
    subprocess.run(script, env=dict(os.environ, PYTHON="echo"), check=True, capture_output=True)
    logs = list((tmp_path / "out").glob("*.log"))
    for log in logs:
        command = shlex.split(log.read_text())
        config = recipes.parse_command_line(command[1:])
        recipes.check_options(config)
        assert (command[0], config.device, Path(config.runs).name) == ("train.py", "cuda", log.stem)
    told = (tmp_path / "out/wall.txt").read_text()
    assert len(told.splitlines()) == len(logs) > 6
    subprocess.run(script, env=dict(os.environ, PYTHON="false"), capture_output=True)
    assert (tmp_path / "out/wall.txt").read_text() == told  # what is measured is not measured again


@pytest.mark.parametrize("arguments", [["--root", "/x"], ["--db", "emodb"], ["--part", "all"], ["--setting", "x"]])
def test_mistakes_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(arguments)
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--", "--runs", "x"], "--runs"),
        (["--", "--seed=9"], "--seed"),
        (["--tft-epochs", "0"], "at least 1"),
        (["--model", "tft", "--setting", "gate none"], "gate none"),
        (["--part", "rows", "--setting", "gate none"], "--setting"),
        (["--db", "abc", "--part", "results", "--runs", "nowhere"], "nowhere"),
        (["--part", "sensitivity", "--model", "afnn"], "--part sensitivity"),
        (
            ["--db", "casia", "--model", "tft", "atfnn", "--", "--bn-momentum", "0.01"],
            "--bn-momentum: only",
        ),  # not atfnn
    ],
)
def test_what_would_be_passed_over_or_fail_later_is_refused(arguments, told, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *command: pytest.fail("something is trained"))
    monkeypatch.setattr("sys.argv", ["reproduce.py", *arguments])
    with pytest.raises(SystemExit) as stopped, results.plain_errors("reproduce.py"):
        reproduce.main()
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and told in error


def test_a_failed_command_ends_the_study_with_its_code(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        reproduce.main(["--db", "casia", "--root", "nowhere", "--part", "rows", "--model", "tft"])
    assert stopped.value.code == results.EXIT_USAGE


def test_each_setting_is_what_it_is_called():
    for setting, flags, models in reproduce.SENSITIVITY:
        for model in models:
            config = recipes.parse_command_line(["--model", model, *flags])
            changes = recipes.deviations_of(dict(recipes.settings_of(config, model), model=model))
            if setting == "precision float32":  # the papers' own
                assert not changes and config.precision == "float32"
                continue
            assert len(changes) == 1
            name, _, value = setting.replace("double softmax", "double-softmax True").partition(" ")
            told = changes[0].split()
            assert told[0] == name.replace("-", "_") and told[0] != "epochs"
            assert told[1] == value or float(told[1]) == float(value)


# ------------------------------------------------------------------------------------ the sensitivity table


class Study:
    """Stands in for report.Runs: {model: (settings, {seed: {epoch: (held-out WAR, test WAR)}})}, one fold a seed.

    None: its track was not trained. Trained without the held-out speakers the tested one's WAR is always 20, but 10
    more than the seed at the chosen epoch. The loss of an epoch is its number, one more on the track `last`.
    """

    def __init__(self, told, folder=Path("x")):
        self.told, self.folder, self.db = told, folder, "casia"

    def folds(self, model, track="last"):
        settings, _ = self.told.get(model, ({}, {}))
        config = dict(settings=settings, deviations=[], machine={}, code={"models.py": "c" * 16})
        return {
            seed: [
                SimpleNamespace(
                    config=config,
                    labels=np.zeros(100, int),
                    scores=np.eye(2)[(np.arange(100) >= 10 + seed).astype(int)],
                )
            ]
            for seed in self.curves(model, track)
        }

    counted = folds

    def curves(self, model, track, counted=False):
        at = ("validation", "last").index(track)
        return {
            seed: [
                SimpleNamespace(
                    epochs=np.array(list(epochs)), held=[hits(held) for held, _ in epochs.values()],
                    loss=np.arange(1.0, max(epochs) + 1) + at,
                    test=[hits(test if track == "last" else 20) for _, test in epochs.values()],
                )
            ]
            for seed, epochs in self.told.get(model, ({}, {}))[1].items()
            if None not in [pair[at] for pair in epochs.values()]
        }  # fmt: skip


def hits(per_cent):
    return None if per_cent is None else np.array([[per_cent, 100 - per_cent], [0, 0]])


def settings(model, *flags):
    config = recipes.parse_command_line(["--model", model, *flags])
    return dict(model=model, seed=0, fold=1, track="last", recordings="r") | recipes.settings_of(config, model)


def lines_of_sensitivity(monkeypatch, rows, studies, seeds_to_decide=3):
    """{(setting, model): cells}, and the verdict."""
    monkeypatch.setattr(report, "SEEDS_TO_DECIDE", seeds_to_decide)
    monkeypatch.setattr(report, "Runs", lambda folder, db: Study(studies.get(folder.name, {}), folder))
    text, verdict, _ = [*report.sensitivity(Study(rows)).split("\n\n"), "", ""][:3]
    return cells_of(text), verdict


def cells_of(text):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    return {(first, second): others for first, second, *others in cells}


def test_held_out_speakers_decide_what_a_setting_is_worth(monkeypatch):
    short = ("--epochs", "9")
    rows = {
        "tft": (settings("tft", *short), {0: {9: (50, 30)}, 1: {9: (52, 32)}, 2: {9: (54, 34)}}),
        "atfnn": (settings("atfnn", *short), {0: {9: (40, 30)}, 1: {9: (42, 31)}, 2: {9: (44, 32)}}),
    }
    dropout, overlap = ("--dropout", "0.1"), ("--overlap", "0.5")
    studies = {
        "dropout-0.1": {
            "tft": (settings("tft", *short, *dropout), {0: {9: (55, 29)}, 1: {9: (57, 31)}, 2: {9: (61, 33)}}),
            "atfnn": (settings("atfnn", *short, *dropout), {0: {9: (50, 30)}, 1: {9: (53, 31)}, 2: {9: (56, 33)}}),
        },
        "double-softmax": {  # far better on the tested speakers, which decide nothing
            "tft": (settings("tft", *short, "--double-softmax"), {0: {9: (51, 90)}, 1: {9: (51, 91)}, 2: {9: (54, 94)}})
        },
        "bn-momentum-0.01": {
            "tft": (
                settings("tft", *short, "--bn-momentum", "0.01"),
                {0: {9: (60, 3)}, 1: {9: (63, 3)}, 2: {9: (66, 3)}},
            )  # fmt: skip
        },
        "overlap-0.5": {  # no seed in common
            "tft": (settings("tft", *short, *overlap), {7: {9: (90, 90)}}),
            "atfnn": (settings("atfnn", *short, *overlap), {0: {9: (None, 33)}, 1: {9: (None, 36)}}),
        },
        "normalization-none": {  # validation track alone
            "tft": (settings("tft", *short, "--normalization", "none"), {0: {9: (40, None)}, 2: {9: (46, None)}})
        },
        "normalization-speaker": {"tft": (settings("tft", *short, "--normalization", "speaker"), {0: {9: (99, 99)}})},
        "gate-none": {"atfnn": (settings("atfnn", "--epochs", "8", "--gate", "none"), {0: {8: (90, 90)}})},
        "gate-softmax": {"atfnn": (settings("atfnn", *short), {0: {9: (40, 30)}})},  # was run without it
    }
    cells, verdict = lines_of_sensitivity(monkeypatch, rows, studies)
    assert cells["default", "tft"] == ["0-2", "52.00±2.00", "20.00±0.00", "32.00±2.00", "11.00±1.00"]
    assert cells["default", "atfnn"] == ["0-2", "42.00±2.00", "20.00±0.00", "31.00±1.00", "11.00±1.00"]
    assert cells["dropout 0.1", "tft"] == [
        "0-2", "57.67±3.06 (+5.67 ± 0.67)", "20.00±0.00 (+0.00 ± 0.00)", "31.00±2.00 (-1.00 ± 0.00)",
        "11.00±1.00 (+0.00 ± 0.00)",
    ]  # fmt: skip
    assert cells["dropout 0.1", "atfnn"][1] == "53.00±3.00 (+11.00 ± 0.58)"
    assert cells["double softmax", "tft"][1:4:2] == ["52.00±1.73 (+0.00 ± 0.58)", "91.67±2.08 (+59.67 ± 0.33)"]
    assert cells["overlap 0.5", "tft"] == ["-"] * 5
    assert cells["overlap 0.5", "atfnn"] == ["0-1", "-", "-", "34.50±2.12 (+4.00)", "-"]  # two seeds: no error
    assert cells["normalization none", "tft"][0:4:3] == ["0,2", "-"]
    assert cells["normalization none", "tft"][1:3] == ["43.00±4.24 (-9.00)", "20.00±0.00 (+0.00)"]
    assert cells["normalization speaker (transductive)", "tft"][1:4:2] == ["99.00 (+49.00)", "99.00 (+69.00)"]
    assert cells["gate none", "atfnn"][0] == "differs in epochs too: not compared"
    assert cells["gate softmax", "atfnn"][0] == "differs in gate too: not compared"
    better, refuted, undecided = re.split(" Not so: | Too few runs to say: ", verdict)
    assert better.endswith(": dropout 0.1, bn-momentum 0.01.") and refuted == "double softmax."
    assert undecided == "normalization none, normalization speaker (transductive), overlap 0.5."
    cells_again, verdict = lines_of_sensitivity(monkeypatch, rows, studies, seeds_to_decide=4)
    assert cells_again == cells and ": none. Too few" in verdict and " dropout 0.1, " in verdict


def test_studies_that_differ_in_more_are_not_compared(monkeypatch):
    short, whole = ("--epochs", "9"), {seed: {9: (50 + seed, 30)} for seed in range(4)}
    rows = {"tft": (settings("tft", *short), {0: {9: (50, 30)}, 1: {9: (None, 32)}, 2: {9: (54, 34)}})}
    studies = {
        "dropout-0.1": {  # seeds of which the rows lack some, and some tracks
            "tft": (
                settings("tft", *short, "--dropout", "0.1"),
                {0: {9: (55, 29)}, 1: {9: (0, 31)}, 2: {9: (61, None)}, 7: {9: (0, 0)}},
            )
        },
        "overlap-0.5": {"tft": (settings("tft", *short, "--overlap", "0.5") | dict(recordings="other"), whole)},
        "log-floor-1e-3": {"tft": (settings("tft", *short, "--log-floor", "1e-3", "--precision", "bfloat16"), whole)},
        "double-softmax": {"tft": (settings("tft", *short, "--double-softmax", "--dropout", "0.2"), whole)},
        "log-floor-1e-10": {"tft": (settings("tft", *short, "--log-floor", "1e-10") | dict(eval_every=3), whole)},
    }  # fmt: skip
    cells, _ = lines_of_sensitivity(monkeypatch, rows, studies)
    assert cells["default", "tft"] == ["0,2 / 0,2 / 0-2 / 0,2", "52.00±2.83", "20.00±0.00", "32.00±2.00", "11.00±1.41"]
    assert cells["dropout 0.1", "tft"][:2] == ["0,2 / 0,2 / 0-1 / 0,2", "58.00±4.24 (+6.00)"]
    assert cells["dropout 0.1", "tft"][4] == "11.00±1.41 (+0.00)"
    for setting, name in ("overlap 0.5", "recordings"), ("log-floor 1e-3", "precision"), ("double softmax", "dropout"):
        assert cells[setting, "tft"][0] == f"differs in {name} too: not compared"
    assert cells["log-floor 1e-10", "tft"][1::3] == ["51.00±1.41 (-1.00)", "-"]  # chosen among other epochs


@pytest.mark.parametrize(
    "by_model, better",
    [
        (dict(tft=(2.1, 1.0), atfnn=(0.3, 0.1)), True),
        (dict(tft=(1.9, 1.0), atfnn=(0.3, 0.1)), False),
        (dict(tft=(5.0, 1.0), atfnn=(-5.0, 1.0)), False),
        (dict(tft=(5.0, 1.0)), None),
        (dict(tft=(1.9, 1.0)), False),  # whatever the other one will be
        (dict(tft=(None, None), atfnn=(1.0, 0.5)), False),
        (dict(tft=(5.0, 1.0), atfnn=(5.0, None)), None),  # too few seeds
        (dict(tft=(5.0, 0.0), atfnn=(5.0, 1.0)), None),  # all of them alike
    ],
)
def test_better_is_by_two_standard_errors_for_both_models(by_model, better):
    assert report.is_better(by_model, reproduce.BOTH) is better


def test_shorter_trainings_are_read_off_longer_ones(monkeypatch):
    long = {0: {100: (20, 10), 300: (30, 20), 1000: (25, 40)}, 1: {100: (21, 11), 300: (31, 22), 1000: (25, 40)}}
    long[2] = {100: (22, 12), 300: (32, 24), 1000: (26, 41)}
    rows = {"tft": (settings("tft"), long), "atfnn": (settings("atfnn"), {0: {100: (1, 1)}})}
    cells, verdict = lines_of_sensitivity(monkeypatch, rows, {})
    assert cells["epochs 100", "tft"][1:4:2] == ["21.00±1.00 (-4.33 ± 0.33)", "11.00±1.00 (-29.33 ± 0.33)"]
    assert cells["epochs 300", "tft"][1:4:2] == ["31.00±1.00 (+5.67 ± 0.33)", "22.00±2.00 (-18.33 ± 0.88)"]
    assert ("epochs 100", "atfnn") not in cells and ": epochs 300. Not so: epochs 100." in verdict
    assert list(lines_of_sensitivity(monkeypatch, {"tft": (settings("tft"), {0: {100: (1, 1)}})}, {})[0]) == []


def test_the_papers_own_precision_is_a_setting_of_rows_made_in_another(monkeypatch):
    rows = {"tft": (settings("tft", "--epochs", "9", "--precision", "bfloat16"), {0: {9: (50, 30)}})}
    studies = {"precision-float32": {"tft": (settings("tft", "--epochs", "9"), {0: {9: (None, 31)}})}}
    cells, _ = lines_of_sensitivity(monkeypatch, rows, studies)
    assert cells["precision float32", "tft"] == ["0", "-", "-", "31.00 (+1.00)", "-"]


def test_ablations_stand_beside_their_full_network():
    short, both = ("--epochs", "9"), {0: {9: (50, 30)}, 1: {9: (52, 32)}, 2: {9: (54, 35)}}
    rows = {
        "tft": (settings("tft", *short), both),
        "tft-t+f": (
            settings("tft-t+f", *short),
            {2: {9: (55, 36)}, 0: {9: (50, 32)}, 1: {9: (54, 34)}, 7: {9: (0, 0)}},
        ),
        "tft-t+tf": (settings("tft-t+tf", *short), {1: {9: (None, 30)}}),
        "tft-f+tf": (settings("tft-f+tf", "--epochs", "8"), both),
        "afnn": (settings("afnn", *short), both),  # without its full network
    }
    heads = {name: (settings(name, *short, "--f-encoder-heads", "4"), both) for name in ("atfnn", "afnn")}
    heads["tfnn"] = (settings("tfnn", *short), both)  # has heads too
    heads["atnn"] = (settings("atnn", *short), both)  # has none
    cells = cells_of(report.ablations(Study(heads)))
    assert cells["tfnn", "atfnn"][0] == "differs in f_encoder_heads: not compared"
    assert cells["atnn", "atfnn"][0] == cells["afnn", "atfnn"][0] == "0-2"
    cells = cells_of(report.ablations(Study(rows)))
    assert list(cells) == [("tft", "-"), ("tft-t+f", "tft"), ("tft-t+tf", "tft"), ("tft-f+tf", "tft")]
    assert cells["tft", "-"] == ["0-2", "52.00±2.00", "20.00±0.00", "32.33±2.52", "11.00±1.00"]
    assert cells["tft-t+f", "tft"] == [
        "0-2", "53.00±2.65 (+1.00 ± 0.58)", "20.00±0.00 (+0.00 ± 0.00)", "34.00±2.00 (+1.67 ± 0.33)",
        "11.00±1.00 (+0.00 ± 0.00)",
    ]  # fmt: skip
    assert cells["tft-t+tf", "tft"] == ["1", "-", "-", "30.00 (-2.00)", "-"]
    assert cells["tft-f+tf", "tft"][0] == "differs in epochs: not compared"
    assert report.ablations(Study({"tft": rows["tft"]})) == report.ablations(Study({"afnn": rows["afnn"]})) == ""


@pytest.mark.parametrize(
    "told, loss, expected",
    [
        ({0: {2: (30, None), 4: (40, None)}, 2: {2: (32, None), 4: (50, None)}}, "training loss, trained without them",
         ["| 2 | 2.000 | - | 31.00±1.41 | 20.00±0.00 |", "| 4 | 4.000 | - | 45.00±7.07 | 20.00±0.00 |"]),
        ({0: {2: (None, 30), 4: (None, 40)}}, "training loss",
         ["| 2 | 3.000 | 30.00 | - | - |", "| 4 | 5.000 | 40.00 | - | - |"]),
        ({0: {2: (31, 30)}}, "training loss", ["| 2 | 3.000 | 30.00 | 31.00 | 20.00 |"]),
    ],
)  # fmt: skip
def test_learning_curves_are_those_of_the_tracks_that_were_trained(told, loss, expected):
    header, _, *lines = report.learning(Study({"atfnn": (settings("atfnn"), told)}), "atfnn").splitlines()
    assert header.startswith(f"| atfnn: epoch | {loss} | test WAR |") and lines == expected


@pytest.fixture
def of_two_seeds(tmp_path, monkeypatch):
    """A report of hand-written runs of casia: seed 0 whole, seed 1 without its second fold."""
    shutil.copytree(PROJECT / "benchmarks", tmp_path / "benchmarks", ignore=shutil.ignore_patterns("results"))
    monkeypatch.setattr(report, "PROJECT", tmp_path)

    def call(*removed):
        for seed, answers in enumerate(ANSWERS):
            write_run(tmp_path / "runs", {who: {2: EARLIER[who], 3: text} for who, text in answers.items()}, seed=seed)
        for place in removed:
            shutil.rmtree(tmp_path / "runs/casia/tft/speaker" / place)
        evaluate.main(["--runs", str(tmp_path / "runs"), "--export", str(tmp_path / "benchmarks/results")])
        report.main(["--db", "casia"])
        return (tmp_path / "benchmarks/results/casia.md").read_text()

    return call


def test_the_report_names_all_machines_of_a_fold():
    def fold(seed, *earlier, machine):
        config = dict(settings=settings("tft") | dict(seed=seed), deviations=[], code={"models.py": "01234567"})
        config |= dict(machine=machine) | (dict(earlier_machines=list(earlier)) if earlier else {})
        return SimpleNamespace(config=config)

    gpu, cpu = (dict.fromkeys(report.MACHINE, "same") | dict(device=device) for device in ("gpu", "cpu"))
    found = {0: [fold(0, machine=gpu), fold(0, machine=gpu)], 1: [fold(1, machine=gpu), fold(1, gpu, cpu, machine=cpu)]}
    study = SimpleNamespace(counted=lambda model, track: found if (model, track) == ("tft", "last") else {})
    cells = cells_of(report.how_it_was_made({"": study}))
    assert cells.keys() == {("tft", "0-1"), ("tft", "1")}
    (_, _, one, *same), (_, _, other, *others) = cells["tft", "0-1"], cells["tft", "1"]
    assert (one, other) == ("gpu", "gpu, then cpu") and same == others


def test_seeds_without_all_folds_stand_in_no_table_of_the_report(of_two_seeds):
    told = of_two_seeds("seed1/fold2")
    assert "| tft | 53.17 | 53.17 | 60.00 | 54.44 |" in told and "| tft | 0 | 3 |" in told
    assert "| B | 66.67 |" in told and "seeds 1 left out" in told


def test_a_report_of_incomplete_seeds_alone_says_so(of_two_seeds):
    told = of_two_seeds("seed1/fold2", "seed0/fold2")
    assert " 2/3 | only 2/3 folds; epochs 3 instead of 1000; partial database |" in told and "| B |" not in told
    assert "| tft | 0-1 | 3 |" in told  # how it was made
    _, curve = told.split("| tft, last 2/3 folds: epoch |")
    assert curve.splitlines()[2].startswith("| 2 |") and curve.splitlines()[3].startswith("| 3 |")


@pytest.mark.parametrize(
    "more, told",
    [({}, "epochs 3, not 1000"), (dict(epochs=1000, eval_every=10, overlap=0.5), "overlap 0.5, not as usual")],
)
def test_results_of_other_settings_are_told_before_anything_is_trained(
    more, told, of_two_seeds, tmp_path, monkeypatch, capsys
):
    of_two_seeds()
    monkeypatch.setattr(reproduce, "PROJECT", tmp_path)
    read = archive.read

    def changed(path, kind):
        content = read(path, kind)
        content["shared"]["settings"].update(more)
        return content

    monkeypatch.setattr(archive, "read", changed)
    with pytest.raises(protocols.UsageError, match=f"tft-speaker.json: is of {told}; name another --results"):
        reproduce.main(["--db", "casia", "--root", "nowhere"])
    assert "python" not in capsys.readouterr().out.replace("python evaluate.py", "")


def test_published_cells_are_those_counted_by_hand():
    """Without archive.py or evaluate.py: hits of the letters in the file, line by line of the index."""
    folder = PROJECT / "benchmarks/results/casia"
    index = list(csv.DictReader(next(folder.glob("utterances-*.csv")).open(encoding="utf-8")))
    told = (folder.parent / "casia.md").read_text(encoding="utf-8")
    for path in sorted(folder.glob("*-speaker.json")):
        content = json.loads(path.read_text())
        classes = content["shared"]["database"]["classes"]
        wars = [
            100 * sum(classes[int(said)] == one["emotion"] for said, one in zip(row["predictions"], index)) / len(index)
            for row in content["rows"]
            if row["track"] == "last"
        ]
        line = next(
            line for line in told.splitlines() if line.startswith(f"| {content['shared']['settings']['model']} |")
        )
        assert f"| {np.mean(wars):.2f}±{np.std(wars, ddof=1):.2f} |" in line


@pytest.mark.parametrize(
    "folder", ["", "longer", "epochs-30", "epochs-100", "epochs-100-cpu", "epochs-1000", "epochs-1000-cpu"]
)
def test_the_published_report_is_what_the_published_predictions_give(folder, tmp_path, monkeypatch):
    shutil.copytree(PROJECT / "benchmarks" / "results", tmp_path / "benchmarks" / "results")
    shutil.copy(PROJECT / "benchmarks" / "published-confusion.csv", tmp_path / "benchmarks")
    monkeypatch.setattr(report, "PROJECT", tmp_path)
    report.main(["--db", "casia", *(["--results", str(tmp_path / "benchmarks/results" / folder)] if folder else [])])
    again = (tmp_path / "benchmarks/results" / folder / "casia.md").read_text()
    assert again == (PROJECT / "benchmarks/results" / folder / "casia.md").read_text()


def test_a_study_from_its_recordings_to_its_report(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    synthetic.write_corpus("casia", tmp_path / "casia")
    arguments = [
        "--db", "casia", "--root", str(tmp_path / "casia"), "--runs", str(tmp_path / "runs"),
        "--results", str(tmp_path / "results"), "--model", "atfnn", "--seed", "0", "--atfnn-epochs", "1",
        "--track", "last", "--setting", "gate none", "--", "--partial", "--device", "cpu",
    ]  # fmt: skip
    reproduce.main(arguments)
    told = (tmp_path / "results" / "casia.md").read_text()
    assert "| atfnn | 48.75 |" in told and "Not run here: tft, tft-t+f," in told
    assert "| gate none | atfnn | 0 |" in told and "softmax" not in told and "not compared" not in told
    options = reproduce.parse_command_line(arguments)
    reproduce.check_results("casia", list(reproduce.trainings("casia", options)), options)  # may be repeated
