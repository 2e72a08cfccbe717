"""Predictions are those of training and evaluation, from the checkpoint alone; runs on all speakers.

python -m pytest tests/test_predict.py
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import command
from test_evaluate import reseal

import evaluate
import features
import predict
import results
import train

PROJECT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("quiet_machine")


def run_train(corpus, runs, *more):
    quick = ["--epochs", "2", "--batch-size", "16", "--device", "cpu"]
    return command(train.main, "--db", corpus / "small.csv", "--runs", runs, *quick, *more)


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """Two folds and the run on all speakers of one model, of another one with each recording's own statistics."""
    runs = tmp_path_factory.mktemp("runs")
    for number in ("1", "2", "none"):
        assert run_train(corpus, runs, "--model", "tft-t+f", "--fold", number) == 0
    assert run_train(corpus, runs, "--model", "atnn", "--normalization", "utterance", "--fold", "1") == 0
    assert run_train(corpus, runs, "--model", "atnn", "--normalization", "segment", "--fold", "1", "--seed", "1") == 0
    return runs


def seed_folder(runs, model="tft-t+f", seed=0):
    return runs / "small" / model / "speaker" / f"seed{seed}"


def run_predict(*arguments):
    return command(predict.main, "--device", "cpu", *arguments)


def predicted(capsys, *arguments):
    """What predict.py prints as JSON, and its lines on standard error."""
    capsys.readouterr()
    assert run_predict("--format", "json", *arguments) == 0
    told = capsys.readouterr()
    return json.loads(told.out), told.err.splitlines()


def scores_of(rows):
    return np.array([list(row["probabilities"].values()) for row in rows])


# ------------------------------------------------------------------------------------- what is predicted


@pytest.mark.parametrize("model, seed, number", [("tft-t+f", 0, 1), ("tft-t+f", 0, 2), ("atnn", 0, 1), ("atnn", 1, 1)])
def test_a_folds_own_test_recordings_get_its_saved_scores(model, seed, number, corpus, runs, capsys):
    folder = seed_folder(runs, model, seed) / f"fold{number}"
    fold = results.read_fold(folder)
    rows, _ = predicted(capsys, "--run", folder, *(corpus / name for name in fold.ids))
    assert [row["file"] for row in rows] == [str(corpus / name) for name in fold.ids]
    assert list(rows[0]["probabilities"]) == fold.config["database"]["classes"]
    assert scores_of(rows) == pytest.approx(fold.scores, abs=2e-6)
    assert [row["class"] for row in rows] == [list(rows[0]["probabilities"])[i] for i in fold.scores.argmax(1)]


def test_a_seeds_folder_gives_the_mean_of_its_folds(corpus, runs, capsys):
    places = sorted((corpus / "wav" / "S3").glob("*.wav"))
    single = [
        scores_of(predicted(capsys, "--run", seed_folder(runs) / f"fold{number}", *places)[0]) for number in (1, 2)
    ]
    assert abs(single[0] - single[1]).max() > 1e-3  # the folds differ, so their mean says something
    rows, errors = predicted(capsys, "--run", seed_folder(runs), *places)
    assert scores_of(rows) == pytest.approx(np.mean(single, axis=0), abs=2e-6)
    assert any("mean of 2 of 4 folds" in line for line in errors)


def test_the_course_covers_the_recording_and_its_mean_is_the_score(corpus, runs, capsys):
    rows, _ = predicted(capsys, "--run", seed_folder(runs) / "fold1", corpus)
    assert len(rows) == len(list(corpus.glob("wav/*/*.wav")))
    assert max(len(row["segments"]) for row in rows) > 1
    for row in rows:
        wave, rate = soundfile.read(row["file"])
        ends = [part["to"] for part in row["segments"]]
        assert [part["from"] for part in row["segments"]] == [0, *ends[:-1]]
        assert ends[-1] == row["seconds"] == pytest.approx(len(wave) / rate, abs=1e-3)
        mean = scores_of(row["segments"]).mean(0)
        assert scores_of([row])[0] == pytest.approx(mean, abs=1e-6) and mean.sum() == pytest.approx(1, abs=1e-5)


def test_groups_and_threads_change_nothing_but_the_order_of_work(corpus, runs, capsys, monkeypatch):
    """Many small groups on three threads against each recording by itself."""
    folder = seed_folder(runs, "atnn")  # each recording's own statistics: a mix-up of recordings would show
    places = sorted(corpus.glob("wav/*/*.wav"))[:20]
    alone = [predicted(capsys, "--run", folder, place)[0][0] for place in places]
    monkeypatch.setattr(predict, "GROUP", 3)
    monkeypatch.setattr(predict, "BATCH", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    rows, _ = predicted(capsys, "--run", folder, *places)
    assert [row["file"] for row in rows] == [row["file"] for row in alone]
    assert scores_of(rows) == pytest.approx(scores_of(alone), abs=2e-6)


def test_text_and_csv_tell_the_same_as_json(corpus, runs, capsys):
    base = ["--run", seed_folder(runs) / "fold1", corpus / "wav" / "S1"]
    rows, _ = predicted(capsys, *base)
    assert run_predict(*base, "--format", "csv") == 0
    files = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [(row["file"], row["class"]) for row in files] == [(row["file"], row["class"]) for row in rows]
    assert [float(files[0][name]) for name in rows[0]["probabilities"]] == list(rows[0]["probabilities"].values())
    assert run_predict(*base, "--format", "csv", "--segments") == 0
    parts = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert len(parts) == sum(len(row["segments"]) for row in rows)
    assert float(parts[-1]["to"]) == rows[-1]["segments"][-1]["to"]
    assert run_predict(*base) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(rows) and lines[1].split()[0] == rows[0]["class"]
    assert lines[1].split()[-1] == rows[0]["file"]
    assert run_predict(*base, "--segments") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(rows) + len(parts)


def test_any_rate_and_channels(corpus, runs, tmp_path, capsys):
    """A stereo FLAC of 48 kHz is heard as the WAV it was made from."""
    from scipy.signal import resample_poly

    place = corpus / "wav" / "S1" / "angry_01.wav"
    wave, rate = soundfile.read(place)
    soundfile.write(tmp_path / "ä b.flac", np.stack([resample_poly(wave, 3, 1)] * 2, 1), 3 * rate, subtype="PCM_24")
    rows, _ = predicted(capsys, "--run", seed_folder(runs) / "fold1", place, tmp_path)
    assert rows[1]["file"].endswith("ä b.flac")
    assert scores_of(rows[:1]) == pytest.approx(scores_of(rows[1:]), abs=0.05)


# ---------------------------------------------------------------------------------------- what is refused


def test_a_recording_too_long_for_the_memory_is_passed_over(corpus, runs, monkeypatch, capsys):
    places, log_mel = [corpus / "wav" / "S1" / f"angry_0{take}.wav" for take in (1, 2)], features.log_mel
    lengths = [len(features.read_audio(place)) for place in places]
    assert lengths[0] != lengths[1]

    def limited(wave, front_end):
        if len(wave) == lengths[0]:
            raise MemoryError
        return log_mel(wave, front_end)

    monkeypatch.setattr(features, "log_mel", limited)
    rows, errors = predicted(capsys, "--run", seed_folder(runs) / "fold1", *places)
    assert [row["file"] for row in rows] == [str(places[1])]
    assert any(f"{places[0]}: is too long for this machine's memory" in line for line in errors)


def test_unusable_recordings_are_passed_over_with_a_line_each(corpus, runs, tmp_path, capsys):
    place = corpus / "wav" / "S1" / "angry_01.wav"
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    bad = [tmp_path / name for name in ("folder", "text.wav", "silent.wav", "missing.wav")]
    rows, errors = predicted(capsys, "--run", seed_folder(runs) / "fold1", *bad, place)
    assert [row["file"] for row in rows] == [str(place)]
    for path in bad:
        assert sum(str(path) in line for line in errors) == 1
    assert sum("transfers poorly" in line for line in errors) == 1
    assert len(errors) == 6 and errors[-1].endswith("1 of 4 recordings predicted")
    assert run_predict("--run", seed_folder(runs) / "fold1", *bad) == results.EXIT_DATA
    assert capsys.readouterr().err.splitlines()[-1].startswith("predict.py: none of the 3 recordings")


@pytest.fixture
def fold(runs, tmp_path):
    """A copy of a fold in a seed's folder of its own."""
    return Path(shutil.copytree(seed_folder(runs) / "fold1", tmp_path / "seed0" / "fold1"))


def doctor(folder, change):
    """Change a fold's checkpoint and seal it anew."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    state = change(state) or state
    torch.save(state, folder / "checkpoint.pt")
    reseal(folder)


def refusal(capsys, run, corpus):
    """The one line, naming the folder, with which a run is refused."""
    capsys.readouterr()
    assert run_predict("--run", run, corpus / "wav" / "S1" / "angry_01.wav") == results.EXIT_USAGE
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and str(run) in told.err
    return told.err


class Code:
    """Runs when a pickle that holds it is loaded carelessly."""

    def __reduce__(self):
        return (os.mkdir, ("code-was-run",))


def put(key, value):
    return lambda state: state.__setitem__(key, value)


def put_setting(key, value):
    return lambda state: state["settings"].__setitem__(key, value)


def put_front_end(key, value):
    return lambda state: state["settings"]["front_end"].__setitem__(key, value)


def spoil_weight(state):
    next(iter(state["model"].values())).view(-1)[0] = float("nan")


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda state: state.pop("classes") and None, "lacks 'classes'"),
        (lambda state: [1, 2], ""),
        (put("classes", ["angry", "angry", "happy", "sad"]), "classes"),
        (put("classes", ["angry", "happy", "sad"]), "size mismatch"),
        (put("classes", None), ""),
        (put("normalization", None), "normalisation"),
        (put("normalization", [torch.zeros(1, 7, 1), torch.ones(1, 7, 1)]), "normalisation"),
        (put("normalization", [torch.zeros(1, 80, 1), torch.full((1, 80, 1), torch.nan)]), "normalisation"),
        (put_setting("normalization", "none"), "normalisation"),
        (put_setting("model", "gpt"), "unknown"),
        (put_setting("model", "tft"), "Missing key"),
        (put_front_end("frames", 10**12), "front end"),
        (put_front_end("frames", 96), "size mismatch"),
        (put_front_end("rate", "16000"), "front end"),
        (put_front_end("floor", float("nan")), "front end"),
        (put_front_end("extra", 1), "extra"),
        (put_front_end("overlap", 0.9), "front end"),
        (put_front_end("overlap", float("nan")), "front end"),
        (put_front_end("overlap", 0.501), "front end"),
        (put_front_end("emphasized", "nothing"), "front end"),
        (put_setting("dropout", 1.0), "dropout"),
        (put_setting("dropout", [0.5]), "dropout"),
        (put_setting("aggregation", "median"), "aggregation"),
        (put_setting("f_encoder_heads", 2), "f_encoder_heads"),  # of the other paper's models
        (spoil_weight, "not finite"),
    ],
)
def test_doctored_checkpoints_are_refused(change, reason, fold, corpus, capsys):
    doctor(fold, change)
    line = refusal(capsys, fold, corpus)
    assert "checkpoint.pt" in line and reason in line


def test_no_code_in_a_checkpoint_is_run(fold, corpus, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    doctor(fold, lambda state: dict(state, code=Code()))
    assert "more than weights" in refusal(capsys, fold, corpus)
    assert not (tmp_path / "code-was-run").exists()


def test_changed_unfinished_and_missing_folds_are_not_used(fold, corpus, capsys):
    place = corpus / "wav" / "S1" / "angry_01.wav"
    shutil.copytree(fold, fold.with_name("fold2"))
    shutil.copytree(fold, fold.with_name("fold1-validation"))
    (fold.with_name("fold2") / "checkpoint.pt").write_bytes(b"cut short")  # the marker knows another
    expected = scores_of(predicted(capsys, "--run", fold, place)[0])
    rows, errors = predicted(capsys, "--run", fold.parent, place)
    assert np.array_equal(scores_of(rows), expected)
    refusal(capsys, fold.with_name("fold2"), corpus)
    (fold / results.MARKER).unlink()
    assert "no finished fold" in refusal(capsys, fold, corpus)
    assert "no finished fold" in refusal(capsys, fold.parent, corpus)
    assert "no such folder" in refusal(capsys, fold.parent / "nowhere", corpus)


def test_folds_of_different_experiments_are_not_mixed(fold, corpus, capsys):
    other = Path(shutil.copytree(fold, fold.with_name("fold2")))
    doctor(other, put_setting("epochs", 3))
    assert "differs from" in refusal(capsys, fold.parent, corpus)
    doctor(other, put_setting("epochs", 2))
    doctor(other, lambda state: dict(state, classes=state["classes"][::-1]))
    assert "in classes" in refusal(capsys, fold.parent, corpus)


def test_another_version_of_the_code_is_told_once(fold, corpus, capsys):
    place = corpus / "wav" / "S1" / "angry_01.wav"
    state = torch.load(fold / "checkpoint.pt", weights_only=True)
    assert state["code"] == results.read_config(fold)["code"]
    _, errors = predicted(capsys, "--run", fold, place)
    assert len(errors) == 1  # the warning on acted speech alone
    doctor(fold, lambda state: state["code"].__setitem__("models.py", "0" * 16))
    _, errors = predicted(capsys, "--run", fold, place)
    assert len(errors) == 2 and "models.py" in errors[1] and "features.py" not in errors[1]


def test_a_command_that_is_interrupted_keeps_what_it_printed(corpus, runs, tmp_path):
    places = [str(corpus)] * 400  # minutes of work
    base = [sys.executable, "predict.py", "--run", str(seed_folder(runs)), "--device", "cpu", "--format", "json"]
    with open(tmp_path / "out.json", "wb") as out:
        process = subprocess.Popen(
            [*base, *places], cwd=PROJECT, stdout=out, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # `pytest &` hands on an ignored one
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (tmp_path / "out.json").stat().st_size and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == results.EXIT_INTERRUPTED
    assert "Traceback" not in errors and "what is printed is complete" in errors.splitlines()[-1]
    assert len(json.loads((tmp_path / "out.json").read_text())) > 0


def test_no_recording_is_worked_on_after_an_interrupt_while_printing(corpus, runs, monkeypatch):
    """The pending groups are cancelled at once, not when Python lets the generator go."""

    def interrupted(predictions, classes, segments):
        next(predictions)
        raise KeyboardInterrupt

    monkeypatch.setitem(predict.FORMATS, "text", interrupted)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt) as told:  # which keeps the frames that hold the generator
        predict.main(["--run", str(seed_folder(runs)), "--device", "cpu", *[str(corpus)] * 40])
    assert set(threading.enumerate()) <= before, told


# ----------------------------------------------------------------------------------- runs on all speakers


def test_a_run_on_all_speakers_hears_everyone_and_no_table_counts_it(corpus, runs, tmp_path, capsys):
    folder = seed_folder(runs) / "all"
    assert results.read_marker(folder)["trained_on"] == ["S1", "S2", "S3", "S4"]
    config = results.read_config(folder)
    assert config["test"] == config["test_speakers"] == [] and len(config["train_speakers"]) == 4
    rows, _ = predicted(capsys, "--run", folder, corpus / "wav" / "S1")
    fold, _ = predicted(capsys, "--run", seed_folder(runs) / "fold1", corpus / "wav" / "S1")
    assert abs(scores_of(rows) - scores_of(fold)).max() > 1e-4
    alone = tmp_path / "runs"
    shutil.copytree(runs / "small", alone / "small", ignore=shutil.ignore_patterns("atnn"))
    tables = []
    for _ in range(2):
        capsys.readouterr()
        assert command(evaluate.main, "--runs", alone, "--db", "small", "--format", "json") == 0
        table = capsys.readouterr().out
        command(evaluate.main, "--runs", alone, "--audit")
        tables.append(table + capsys.readouterr().out)
        shutil.rmtree(seed_folder(alone) / "all", ignore_errors=True)
    assert tables[0] == tables[1] and '"folds_done": 2' in tables[0]


def test_the_statistics_of_a_run_on_all_speakers_are_of_all_segments(corpus, runs):
    import protocols

    database = protocols.open_database(str(corpus / "small.csv"))
    segments = features.load(database.root, database.paths, features.FRONT_ENDS["tft"]).segments
    offset, scale = torch.load(seed_folder(runs) / "all" / "checkpoint.pt", weights_only=True)["normalization"]
    assert offset.numpy().ravel() == pytest.approx(segments.mean((0, 2), dtype=np.float64), abs=1e-4)
    assert 1 / scale.numpy().ravel() == pytest.approx(segments.std((0, 2), dtype=np.float64), rel=1e-4)


def test_a_run_on_all_speakers_is_finished_once_and_holds_nobody_out(corpus, runs, tmp_path, capsys):
    before = (seed_folder(runs) / "all" / results.MARKER).read_bytes()
    assert run_train(corpus, runs, "--model", "tft-t+f", "--fold", "none") == 0
    out = capsys.readouterr().out
    assert "1 of 1 folds are already done" in out and "predict.py --run" in out
    assert (seed_folder(runs) / "all" / results.MARKER).read_bytes() == before
    with results.claim(seed_folder(tmp_path, "atnn") / "all"):
        assert run_train(corpus, tmp_path, "--model", "atnn", "--fold", "none") == 0
    assert "left to other processes" in capsys.readouterr().out
    for track in ("validation", "all"):
        assert run_train(corpus, tmp_path, "--fold", "none", "--track", track) == results.EXIT_USAGE
        assert "--fold none holds nobody out" in capsys.readouterr().err
