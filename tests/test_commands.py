"""train.py as it is typed: what it prints, what it refuses, what it makes, and its way to the tables."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
import soundfile
from helpers import PROJECT, command, folder_of, run_train

import evaluate
import train
from common import cli, config, methods, runs, synthetic

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def manifest(corpus):
    return corpus / "small.csv"


@pytest.fixture
def copy(corpus, tmp_path):
    """A corpus that the test may change."""
    return shutil.copytree(corpus, tmp_path / "copied corpus ä")


def rows_of(capsys, *arguments):
    """Rows that evaluate.py prints as JSON."""
    capsys.readouterr()
    assert command(evaluate.main, *arguments, "--format", "json") == 0
    return json.loads(capsys.readouterr().out)


# ------------------------------------------------------------------------------------- the scripts


@pytest.mark.parametrize("name", ["train.py", "evaluate.py", "predict.py"])
def test_help_answers_without_torch(name):
    script = "import runpy, sys\nsys.argv[1:] = ['--help']\ntry: runpy.run_path(sys.argv[0], run_name='__main__')\n"
    script += "finally: sys.exit(3 * bool({'torch', 'scipy.signal', 'matplotlib'} & set(sys.modules)))"
    process = subprocess.run(
        [sys.executable, "-c", script.replace("sys.argv[0]", repr(name))], cwd=PROJECT, capture_output=True, text=True
    )
    assert process.returncode == 0 and process.stdout.startswith(f"usage: {name}"), process.stderr


def test_a_script_ends_with_one_line_not_a_traceback():
    process = subprocess.run([sys.executable, "train.py", "--epochs", "0"], cwd=PROJECT, capture_output=True, text=True)
    assert process.returncode == cli.EXIT_USAGE and process.stdout == ""
    assert process.stderr.count("\n") == 1 and process.stderr.startswith("train.py: argument --epochs")


def test_the_help_names_each_option_and_groups_what_the_papers_leave_open(capsys):
    assert command(train.main, "--help") == 0
    general, _, silent = capsys.readouterr().out.partition("settings that the papers leave open:")
    for part in fields(config.Options):
        assert f"{config.flag(part.name)} " in (silent if "models" in part.metadata else general) + " "


# ------------------------------------------------------------------------------------- end to end


def test_all_models_and_all_folds_reach_the_tables(manifest, tmp_path, capsys):
    assert run_train(manifest, tmp_path, "--model", "all", "--fold", 1, "--epochs", 1) == 0
    assert run_train(manifest, tmp_path, "--model", "tft", "--fold", "all", "--epochs", 1) == 0
    out = capsys.readouterr().out
    assert "1 of 4 folds are already done" in out and "small, leave one speaker out" in out
    assert f"python evaluate.py --db small --protocol speaker --runs {tmp_path}" in out
    rows = rows_of(capsys, "--runs", tmp_path, "--db", "small", "--table", "ablation")
    assert {row["model"]: row["folds_done"] for row in rows if row["model"]} == {
        model: 4 if model == "tft" else 1 for model in config.PAPER_SETTINGS
    }
    # the same by hand, from the saved scores alone
    right, recalls = [], {}
    for number in range(1, 5):
        with open(folder_of(tmp_path, "tft", number) / "predictions.csv") as file:
            header, *lines = csv.reader(file)
        for _, _, emotion, *scores in lines:
            is_right = header[3:][np.argmax([float(score) for score in scores])] == emotion
            right.append(is_right)
            recalls.setdefault(emotion, []).append(is_right)
    row = next(row for row in rows if row["model"] == "tft")
    assert row["utterances"] == len(right) == 24 and row["war"] == pytest.approx(100 * np.mean(right))
    assert row["uar"] == pytest.approx(100 * np.mean([np.mean(values) for values in recalls.values()]))
    assert command(evaluate.main, "--audit", "--runs", tmp_path) == 1  # of most models three folds are missing
    assert "folds" in capsys.readouterr().out


@pytest.mark.parametrize("layout, folds", [("iemocap", 10), ("casia", 4), ("abc", 8), ("emodb", 10), ("ravdess", 24)])
def test_each_layout_goes_from_recordings_to_a_table(layout, folds, tmp_path, capsys):
    root, results = tmp_path / layout, tmp_path / "runs"
    synthetic.write_corpus(layout, root, seconds=0.3)
    more = ["--db", layout, "--root", root, "--epochs", 1, "--batch-size", 64]
    assert run_train("", results, *more) == cli.EXIT_DATA  # counts differ from the published ones
    assert "--partial" in capsys.readouterr().err
    assert run_train("", results, *more, "--partial") == 0
    rows = rows_of(capsys, "--runs", results, "--db", layout, "--table", "ablation")
    row = next(row for row in rows if row["model"] == "atnn")
    assert (row["folds_done"], row["folds_total"], row["partial"]) == (1, folds, True)
    assert row["utterances"] == len(runs.read_fold(runs.fold_folder(results, layout, "atnn", "speaker", 0, 2)).ids) > 0
    if layout == "iemocap":
        assert run_train("", results, *more, "--partial", "--protocol", "session", "--fold", 3) == 0
        fold = runs.read_config(runs.fold_folder(results, layout, "atnn", "session", 0, 3))
        assert fold.test_speakers == ["3F", "3M"] and not {"3F", "3M"} & set(fold.train_speakers)
        assert fold.folds_total == 5


def test_without_options_it_trains_10_epochs_on_a_corpus_that_it_writes(tmp_path, monkeypatch, capsys):
    assert config.settings_of(config.parse_command_line([]), methods.find("tft"))["epochs"] == 10
    monkeypatch.setenv("SER_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    quick = ["--model", "atnn", "--fold", "S2", "--epochs", 1]
    assert command(train.main, *quick) == 0
    assert "writing a small corpus" in capsys.readouterr().out
    assert runs.is_done(tmp_path / "runs/synthetic/atnn/speaker/seed0/fold2")
    assert command(train.main, *quick) == 0
    out = capsys.readouterr().out
    assert "writing" not in out and "1 of 1 folds are already done" in out


def test_check_lists_the_corpus_and_trains_nothing(copy, tmp_path, capsys):
    manifest, results = copy / "small.csv", tmp_path / "results"
    assert run_train(manifest, results, "--check") == 0
    assert "angry" in capsys.readouterr().out and not results.exists()
    (copy / "wav/S2/happy_01.wav").write_bytes(b"")
    assert run_train(manifest, results, "--check") != 0
    assert "happy_01.wav" in "".join(capsys.readouterr())


def test_quiet_prints_nothing_but_errors(manifest, tmp_path, capsys):
    assert run_train(manifest, tmp_path, "--quiet") == 0
    assert capsys.readouterr() == ("", "") and runs.is_done(folder_of(tmp_path))
    assert run_train(manifest, tmp_path, "--quiet", "--epochs", 3) == cli.EXIT_USAGE
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1


def test_progress_shows_steps_then_epochs_and_each_fold_ends_with_a_line(manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli.Progress, "plain_period", 0)
    assert run_train(manifest, tmp_path) == 0
    lines = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("[1/1] atnn seed 0 fold 2/4 S2: ")
    ]
    found = [line.partition(": ")[2] for line in lines]
    assert found[:4] == [f"epoch 1/2  step {step}/4" for step in (1, 2, 3, 4)]
    for text, pattern in zip(
        found[4:],
        (
            r"epoch 1/2, 0:0\d left, loss 1\.\d{4}, \d+ segments/s",
            r"epoch 2/2, 0:00 left, loss [01]\.\d{4}, \d+ segments/s",
            r"epoch 2 of 2, loss [01]\.\d{4}, WAR \d+\.\d\d, UAR \d+\.\d\d, 0:\d\d",
        ),
        strict=True,
    ):
        assert re.fullmatch(pattern, text), text


def test_several_seeds_give_mean_and_standard_deviation(manifest, tmp_path, capsys):
    assert run_train(manifest, tmp_path, "--seed", "0-1", "--fold", "all", "--epochs", 1) == 0
    arguments = ["--runs", tmp_path, "--db", manifest, "--table", "ablation"]
    both = next(row for row in rows_of(capsys, *arguments) if row["model"] == "atnn")
    each = [next(row for row in rows_of(capsys, *arguments, "--seed", seed) if row["war"]) for seed in (0, 1)]
    assert both["seeds"] == [0, 1] and both["folds_done"] == 4 and each[0]["war_std"] is None
    assert both["war"] == pytest.approx(np.mean([row["war"] for row in each]))
    assert both["uar_std"] == pytest.approx(np.std([row["uar"] for row in each], ddof=1))


# ------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("--fold 5", "--fold 5"),
        ("--fold nobody", "nobody"),
        ("--epochs 0", "--epochs"),
        ("--epochs 1_0", "--epochs"),
        ("--lr 0", "--lr"),
        ("--lr nan", "--lr"),
        ("--batch-size -3", "--batch-size"),
        ("--seed 4-1", "--seed 4-1"),
        ("--seed x", "--seed x"),
        ("--seed 0-1000", "--seed 0-1000"),
        ("--model resnet", "resnet"),
        ("--nonsense", "--nonsense"),
        ("--epoch 3", "--epoch"),
        ("--protocol session", "session"),
        ("--root nowhere", "nowhere"),
        ("--db nowhere/nothing.csv", "nowhere"),
        ("--db imaginary", "imaginary"),
        ("--engine graph", "--engine graph: needs a GPU"),
        ("--track validation --fold none", "--track validation: --fold none holds nobody out"),
        ("--track validation --eval-every 0", "--eval-every 0"),
    ],
)
def test_a_wrong_option_ends_with_one_line_and_code_2(arguments, message, manifest, tmp_path, capsys):
    assert run_train(manifest, tmp_path / "results", *arguments.split()) == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "results").exists()


def test_a_results_folder_that_cannot_be_written_is_one_line(manifest, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    for results in (tmp_path / "file", tmp_path / "file" / "below", ""):
        assert run_train(manifest, results) == cli.EXIT_USAGE
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and str(results) in error
    monkeypatch.setattr("os.fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert run_train(manifest, tmp_path / "full") == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device" in error and not list(tmp_path.rglob("*.tmp"))


def damage_wav(kind, path):
    """Damage a WAV file in one of the ways that happen."""
    wave, rate = soundfile.read(path, dtype="float32")
    if kind == "missing":
        path.unlink()
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[: 44 + len(wave)])
    elif kind == "silent":
        soundfile.write(path, 0 * wave, rate)


@pytest.mark.parametrize("kind", ["missing", "truncated", "silent"])
def test_a_bad_recording_ends_with_one_line_that_names_it_and_code_3(kind, copy, tmp_path, capsys):
    bad = copy / "wav" / "S2" / "happy_01.wav"
    damage_wav(kind, bad)
    assert run_train(copy / "small.csv", tmp_path / "results") == cli.EXIT_DATA
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(bad) in error
    assert not (tmp_path / "results").exists()


def test_a_recording_of_two_speakers_is_refused(copy, tmp_path, capsys):
    shutil.copy(copy / "wav/S1/sad_01.wav", copy / "wav/S2/sad_01.wav")
    assert run_train(copy / "small.csv", tmp_path / "results") == cli.EXIT_DATA
    assert "are the same recording" in capsys.readouterr().err


def test_a_recording_of_a_single_window_is_scored_and_a_shorter_one_refused(copy, tmp_path, capsys):
    short = copy / "wav" / "S2" / "happy_01.wav"
    wave, rate = soundfile.read(short)
    soundfile.write(short, wave[2000:2320], rate)
    assert run_train(copy / "small.csv", tmp_path) == 0
    fold = runs.read_fold(folder_of(tmp_path))
    assert "wav/S2/happy_01.wav" in fold.ids and len(fold.ids) == 6
    soundfile.write(short, wave[2000:2319], rate)
    assert run_train(copy / "small.csv", tmp_path) == cli.EXIT_DATA
    assert "happy_01.wav: has 19.9 ms, less than a window" in capsys.readouterr().err


def test_parts_of_recordings_are_trained_on_and_named_by_their_times(copy, tmp_path, capsys):
    lines = (copy / "small.csv").read_text().splitlines()[1:]
    rows = [f"{line},{start},{start + 0.15}" for line in lines for start in (0, 0.15)]
    (copy / "small.csv").write_text("\n".join(["path,emotion,speaker,start,end", *rows]) + "\n")
    assert run_train(copy / "small.csv", tmp_path) == 0
    fold = runs.read_fold(folder_of(tmp_path))
    assert len(fold.ids) == 12 and "wav/S2/happy_01.wav#0.15-0.30" in fold.ids
    assert runs.read_config(folder_of(tmp_path)).database.seconds == pytest.approx(48 * 0.15)
    with open(copy / "small.csv", "a") as file:  # most of a part of S1, through a link
        file.write(f"wav/S9/{lines[0].split('/')[2].replace('S1', 'S2')},0.05,0.2\n")
    (copy / "wav/S9").symlink_to("S1")
    assert run_train(copy / "small.csv", tmp_path) == cli.EXIT_DATA
    assert "share 0.10 s of a recording" in capsys.readouterr().err


def test_parts_of_two_speakers_that_overlap_a_little_are_noted(copy, tmp_path, capsys):
    lines = (copy / "small.csv").read_text().splitlines()[1:]
    rows = [f"{line},0,0.2" for line in lines] + [f"wav/S1/{line.split('/')[2].replace('S1', 'S2')},0.19,0.3"
                                                  for line in lines[:2]]  # fmt: skip
    (copy / "small.csv").write_text("\n".join(["path,emotion,speaker,start,end", *rows]) + "\n")
    assert run_train(copy / "small.csv", tmp_path) == 0
    (note,) = (line for line in capsys.readouterr().out.splitlines() if "note: " in line)
    assert "#0.00-0.20 of S1 and wav/S1/angry_01.wav#0.19-0.30 of S2 share 0.01 s" in note and note.endswith(
        "and 1 more"
    )


def test_two_speakers_are_too_few_for_the_validation_track(copy, tmp_path, capsys):
    manifest = copy / "small.csv"
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(line for line in lines if "S3" not in line and "S4" not in line) + "\n")
    assert run_train(manifest, tmp_path, "--track", "validation") == cli.EXIT_USAGE
    assert "needs two training speakers; give --track last" in capsys.readouterr().err
    assert run_train(manifest, tmp_path) == 0


def test_folds_of_other_settings_are_refused_before_they_are_trained(manifest, tmp_path, capsys):
    assert run_train(manifest, tmp_path, "--fold", 1, "--epochs", 1) == 0
    for other in (("--fold", 2), ("--fold", 1, "--seed", 1), ("--fold", "all", "--seed", "1-2", "--track", "all")):
        assert run_train(manifest, tmp_path, *other, "--epochs", 2) == cli.EXIT_USAGE
        error = capsys.readouterr().err
        assert (
            error.count("\n") == 1 and "fold1: was trained with epochs 1, not 2" in error and "another --runs" in error
        )
    assert not folder_of(tmp_path).exists() and not folder_of(tmp_path, number=1, seed=1).exists()
    assert run_train(manifest, tmp_path, "--fold", 2, "--epochs", 1) == 0
    assert run_train(manifest, tmp_path, "--fold", "none", "--epochs", 2) == 0  # of no table


def test_a_model_of_mixed_folds_is_left_out_of_the_tables_and_the_others_are_shown(manifest, tmp_path, capsys):
    for number in (1, 2):
        results = tmp_path / str(number)
        assert run_train(manifest, results, "--fold", number, "--epochs", number) == 0
    folder_of(tmp_path / "2", number=2).rename(folder_of(tmp_path / "1", number=2))
    capsys.readouterr()
    assert command(evaluate.main, "--runs", tmp_path / "1") == cli.EXIT_USAGE
    assert "small atnn left out: " in capsys.readouterr().err
    assert run_train(manifest, tmp_path / "1", "--model", "afnn", "--fold", 1, "--epochs", 1) == 0
    capsys.readouterr()
    assert command(evaluate.main, "--runs", tmp_path / "1", "--db", "small") == 0
    shown = capsys.readouterr()
    assert "AFNN" in shown.out and "ATNN" not in shown.out
    assert shown.err.count("\n") == 1 and "fold2: differs from" in shown.err and "in epochs" in shown.err


def test_the_same_rows_in_another_order_are_told_as_such(manifest, tmp_path, capsys):
    (tmp_path / "root").mkdir()
    turned = tmp_path / "root/small.csv"
    header, *rows = manifest.read_text().splitlines()
    assert run_train(manifest, tmp_path) == 0
    turned.write_text("\n".join([header, *rows[::-1]]) + "\n")
    for number in (1, 2):
        assert run_train(turned, tmp_path, "--root", manifest.parent, "--fold", number) == cli.EXIT_USAGE
        assert "the same utterances in another order (sort the manifest like utterances-" in capsys.readouterr().err
    turned.write_text("\n".join([header, *rows[:-1]]) + "\n")
    assert run_train(turned, tmp_path, "--root", manifest.parent) == cli.EXIT_USAGE
    assert "other utterances, labels or speakers" in capsys.readouterr().err
