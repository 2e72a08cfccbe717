"""The commands end to end on small synthetic corpora, and what training may and may not depend on."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import command

import engine
import evaluate
import features
import protocols
import recipes
import results
import tables
import train
from benchmarks import synthetic

PROJECT = Path(__file__).resolve().parents[1]
QUICK = ["--epochs", "1", "--batch-size", "32", "--device", "cpu"]


pytestmark = pytest.mark.usefixtures("quiet_machine")


@pytest.fixture
def copy(corpus, tmp_path):
    return Path(shutil.copytree(corpus, tmp_path / "copied corpus ä"))


def run_train(*arguments):
    return command(train.main, *arguments)


def load(database, front_end):
    return engine.to_device(database, train.load_features(database, features.FRONT_ENDS[front_end]), "cpu")


# ------------------------------------------------------------------------------------------ end to end


@pytest.mark.parametrize("layout, folds", [("iemocap", 10), ("casia", 4), ("abc", 8), ("emodb", 10), ("ravdess", 24)])
def test_every_layout_goes_from_recordings_to_a_table(layout, folds, tmp_path, run, rows, capsys):
    synthetic.write_corpus(layout, tmp_path / layout)
    runs = tmp_path / "runs"
    base = ["--db", layout, "--root", tmp_path / layout, "--model", "atnn", "--fold", "2", "--runs", runs, *QUICK]
    assert run_train(*base) == results.EXIT_DATA  # counts differ from the published ones
    assert "--partial" in capsys.readouterr().err
    assert run_train(*base, "--partial") == 0
    told = rows("--runs", runs, "--db", layout, "--table", "ablation")
    row = next(row for row in told if row["model"] == "atnn")
    assert (row["folds_done"], row["folds_total"], row["partial"]) == (1, folds, True)
    fold = results.read_fold(results.fold_folder(runs, layout, "atnn", "speaker", 0, 2))
    assert row["utterances"] == len(fold.ids) > 0
    code, text, _ = run("--runs", runs, "--db", layout)
    assert code == 0 and f"incomplete: only 1/{folds} folds" in text and "partial database" in text


def test_every_model_and_every_fold_reach_the_tables(corpus, tmp_path, run, rows, capsys):
    runs = tmp_path / "runs"
    db = corpus / "small.csv"
    assert run_train("--db", db, "--model", "all", "--fold", "1", "--runs", runs, *QUICK) == 0
    assert run_train("--db", db, "--model", "tft", "--runs", runs, *QUICK) == 0
    assert "1 of 4 folds are already done" in capsys.readouterr().out
    told = rows("--runs", runs, "--db", "small")
    assert {row["table"] for row in told} == {"databases", "comparison", "ablation"}
    done = {row["model"]: row["folds_done"] for row in told if row["table"] == "ablation"}
    assert done == {name: 4 if name == "tft" else 1 for name in recipes.RECIPES}
    tft = next(row for row in told if row.get("model") == "tft")
    # the same by hand, from the saved scores alone
    right, recalls = [], {}
    for number in range(1, 5):
        with open(results.fold_folder(runs, "small", "tft", "speaker", 0, number) / "predictions.csv") as file:
            header, *lines = csv.reader(file)
        for _, _, emotion, *scores in lines:
            hit = header[3:][max(range(len(scores)), key=lambda i: float(scores[i]))] == emotion
            right.append(hit)
            recalls.setdefault(emotion, []).append(hit)
    assert tft["utterances"] == len(right) == 32
    assert tft["war"] == pytest.approx(100 * np.mean(right))
    assert tft["uar"] == pytest.approx(100 * np.mean([np.mean(hits) for hits in recalls.values()]))
    assert "epochs 1 instead of 1000" in tft["notes"]
    for style in tables.FORMATS:
        code, out, _ = run("--runs", runs, "--format", style)
        assert code == 0 and "74.43" in out and out.count("\n") > 30
    code, out, _ = run("--runs", runs)
    assert code == 0 and max(map(len, out.splitlines())) <= 80


def test_sessions_are_left_out_on_wish(tmp_path, rows):
    synthetic.write_corpus("iemocap", tmp_path / "iemocap")
    arguments = ["--root", tmp_path / "iemocap", "--partial", "--protocol", "session", "--fold", "3", "--model", "atnn"]
    assert run_train("--db", "iemocap", *arguments, "--runs", tmp_path, *QUICK) == 0
    fold = results.read_fold(results.fold_folder(tmp_path, "iemocap", "atnn", "session", 0, 3))
    assert fold.config["test_speakers"] == ["3F", "3M"]
    assert not set(fold.config["train_speakers"]) & {"3F", "3M"}
    told = rows("--runs", tmp_path, "--table", "ablation", "--protocol", "session", "--db", "iemocap")
    assert next(row for row in told if row["model"] == "atnn")["folds_total"] == 5


def test_the_synthetic_corpus_is_made_on_first_use(tmp_path, monkeypatch, run):
    monkeypatch.setenv("SER_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert run_train("--model", "atnn", "--fold", "S2", *QUICK) == 0
    code, out, _ = run("--table", "databases", "--db", "synthetic")
    assert code == 0 and "utterances" in out
    assert (tmp_path / "runs/synthetic/atnn/speaker/seed0/fold2/done.json").exists()


def test_several_seeds_give_mean_and_deviation(corpus, tmp_path, rows):
    db = corpus / "small.csv"
    assert run_train("--db", db, "--model", "atnn", "--seed", "0-1", "--runs", tmp_path, *QUICK) == 0
    how = ("--runs", tmp_path, "--db", db, "--table", "ablation")
    both = next(row for row in rows(*how) if row["model"] == "atnn")
    each = [next(row for row in rows(*how, "--seed", seed) if row["war"]) for seed in (0, 1)]
    assert both["seeds"] == [0, 1] and both["folds_done"] == 4
    assert both["war"] == pytest.approx(np.mean([row["war"] for row in each]))
    assert both["uar_std"] == pytest.approx(np.std([row["uar"] for row in each], ddof=1))
    assert each[0]["war_std"] is None


# ------------------------------------------------------------------- what training may depend on


@pytest.mark.parametrize("track", results.TRAINED)
def test_nothing_in_training_changes_when_speakers_not_trained_on_sound_otherwise(track, copy, tmp_path):
    def weights(runs):
        more = ["--track", track, "--model", "tft", "--runs", runs, *QUICK]
        assert run_train("--db", copy / "small.csv", "--fold", "S1", *more) == 0
        folder = results.fold_folder(runs, "small", "tft", "speaker", 0, 1, track)
        return torch.load(folder / "checkpoint.pt", weights_only=True), results.read_fold(folder).scores

    before, scores_before = weights(tmp_path / "before")
    others = {"S1", *before["settings"].get("held_out", ())}
    assert len(others) == (2 if track == "validation" else 1)
    generator = np.random.default_rng(0)
    for path in (path for name in others for path in (copy / "wav" / name).glob("*.wav")):
        wave, rate = soundfile.read(path)
        soundfile.write(path, generator.uniform(-0.9, 0.9, len(wave)), rate)
    after, scores_after = weights(tmp_path / "after")
    assert not np.array_equal(scores_before, scores_after)
    for a, b in zip(before["normalization"], after["normalization"]):
        assert torch.equal(a, b)
    for name, value in before["model"].items():
        assert torch.equal(value, after["model"][name]), name


def test_the_audit_finds_a_tested_speaker_in_the_statistics(corpus, tmp_path, monkeypatch, capsys):
    honest = engine.fit_normalization
    monkeypatch.setattr(engine, "fit_normalization", lambda data, kind, train: honest(data, kind, slice(None)))
    assert run_train("--db", corpus / "small.csv", "--fold", "all", "--model", "atnn", "--runs", tmp_path, *QUICK) == 0
    assert command(evaluate.main, "--audit", "--runs", tmp_path) == 1
    assert "speaker S1 is on both sides of the fold" in capsys.readouterr().out


def test_a_checkpoint_gives_the_saved_scores_again(corpus, tmp_path):
    db = corpus / "small.csv"
    for model in ("tft", "atfnn"):
        assert run_train("--db", db, "--fold", "4", "--model", model, "--runs", tmp_path, *QUICK) == 0
        folder = results.fold_folder(tmp_path, "small", model, "speaker", 0, 4)
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        front_end = features.FrontEnd(**saved["settings"]["front_end"])
        network = engine.make_model(model, len(saved["classes"]), 1, front_end, "cpu")
        network.load_state_dict(saved["model"])
        database = protocols.open_database(str(db))
        data = load(database, recipes.RECIPES[model].front_end)
        test = protocols.make_folds(database)[3].test
        again = engine.score(network, data, saved["normalization"], test)
        assert np.array_equal(again, results.read_fold(folder).scores)


def test_the_order_of_segments_depends_on_seed_and_epoch_alone():
    order = engine.epoch_order(100, seed=1, epoch=2)
    assert sorted(order.tolist()) == list(range(100))
    assert (order.diff().abs() == 1).sum() < 10  # neighbours in a recording are none in training
    torch.manual_seed(99)
    assert torch.equal(order, engine.epoch_order(100, seed=1, epoch=2))
    others = [engine.epoch_order(100, seed, epoch) for seed, epoch in ((1, 3), (2, 2), (0, 2))]
    assert not any(torch.equal(order, other) for other in others)


@pytest.mark.parametrize("kind", recipes.NORMALIZATIONS)
def test_normalization_matches_numpy(kind, corpus):
    database = protocols.open_database(str(corpus / "small.csv"))
    data = load(database, "tft")
    fold = protocols.make_folds(database)[0]
    index = torch.arange(len(data.segments))
    got = engine.gather(data, engine.fit_normalization(data, kind, data.segments_of(fold.train)), index)[:, 0].numpy()
    raw, owner = data.segments.numpy().astype(np.float64), data.utterance_of.numpy()
    for segment in range(0, len(raw), 7):
        chosen = {
            "fold": np.isin(owner, fold.train),
            "none": None,
            "segment": np.arange(len(raw)) == segment,
            "utterance": owner == owner[segment],
            "speaker": (database.speakers == database.speakers[owner[segment]])[owner],
        }[kind]
        expected = raw[segment]
        if chosen is not None:
            heard = raw[chosen].transpose(1, 0, 2).reshape(80, -1)
            expected = (expected - heard.mean(1)[:, None]) / np.sqrt(heard.var(1) + 1e-8)[:, None]
        assert np.allclose(got[segment], expected, atol=2e-3)  # float32 of values around -14 to 10


def test_every_training_segment_is_seen_once_an_epoch_and_no_other(corpus, monkeypatch, tmp_path):
    seen = []
    gather = engine.gather
    monkeypatch.setattr(
        engine, "gather", lambda data, normalization, index: seen.append(index) or gather(data, normalization, index)
    )
    monkeypatch.setattr(engine, "score", lambda *told: np.zeros((len(told[3]), 4), np.float32))
    assert run_train("--db", corpus / "small.csv", "--fold", "2", "--model", "atnn", "--runs", tmp_path, *QUICK) == 0
    database = protocols.open_database(str(corpus / "small.csv"))
    data = load(database, "atfnn")
    train_segments = data.segments_of(protocols.make_folds(database)[1].train)
    assert torch.cat(seen).sort().values.equal(train_segments.sort().values)


# -------------------------------------------------------------------------------------- mistakes


def test_help_does_not_wait_for_torch():
    told = "import sys, train, evaluate, predict, check; assert 'torch' not in sys.modules and 'scipy.signal' not in sys.modules"
    subprocess.run([sys.executable, "-c", told], cwd=PROJECT, check=True)


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["--fold", "5"], "--fold 5"),
        (["--fold", "nobody"], "nobody"),
        (["--epochs", "0"], "--epochs"),
        (["--lr", "0"], "--lr"),
        (["--lr", "nan"], "--lr"),
        (["--batch-size", "-3"], "--batch-size"),
        (["--seed", "4-1"], "--seed 4-1"),
        (["--seed", "x"], "--seed x"),
        (["--model", "resnet"], "resnet"),
        (["--nonsense"], "--nonsense"),
        (["--epoch", "3"], "--epoch"),
        (["--protocol", "session"], "session"),
        (["--root", "nowhere"], "nowhere"),
        (["--db", "nowhere/nothing.csv"], "nowhere"),
        (["--db", "imaginary"], "imaginary"),
    ],
)
def test_a_wrong_command_ends_with_one_line_and_code_2(arguments, names, corpus, tmp_path, capsys):
    given = ["--db", corpus / "small.csv", "--runs", tmp_path / "runs", *QUICK, *arguments]
    assert run_train(*given) == results.EXIT_USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and names in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def spoil(kind, path):
    """Damage a WAV file in one of the ways that happen."""
    wave, rate = soundfile.read(path, dtype="float32")
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a recording")
    elif kind == "cut short":
        path.write_bytes(path.read_bytes()[: 44 + len(wave)])
    elif kind == "no samples":
        soundfile.write(path, wave[:0], rate)
    elif kind == "silent":
        soundfile.write(path, 0 * wave, rate)
    elif kind == "NaN":
        wave[7] = np.nan
        soundfile.write(path, wave, rate, subtype="FLOAT")


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "cut short", "no samples", "silent", "NaN"])
def test_a_bad_recording_ends_with_one_line_that_names_it_and_code_3(kind, copy, tmp_path, capsys):
    bad = copy / "wav" / "S2" / "happy_01.wav"
    spoil(kind, bad)
    assert run_train("--db", copy / "small.csv", "--runs", tmp_path / "runs", *QUICK) == results.EXIT_DATA
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(bad) in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_a_recording_shorter_than_a_segment_is_scored(copy, tmp_path):
    short = copy / "wav" / "S2" / "happy_01.wav"
    wave, rate = soundfile.read(short)
    soundfile.write(short, wave[2000:2100], rate)  # under one frame
    assert run_train("--db", copy / "small.csv", "--fold", "S2", "--model", "atnn", "--runs", tmp_path, *QUICK) == 0
    fold = results.read_fold(results.fold_folder(tmp_path, "small", "atnn", "speaker", 0, 2))
    assert "wav/S2/happy_01.wav" in fold.ids and len(fold.ids) == 8


def test_a_run_with_other_settings_or_other_recordings_is_not_overwritten(copy, tmp_path, capsys):
    base = [
        "--db",
        copy / "small.csv",
        "--model",
        "atnn",
        "--fold",
        "1",
        "--runs",
        tmp_path / "runs",
        "--device",
        "cpu",
    ]
    assert run_train(*base, "--epochs", "1") == 0
    folder = results.fold_folder(tmp_path / "runs", "small", "atnn", "speaker", 0, 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run_train(*base, "--epochs", "2") == results.EXIT_USAGE
    assert "epochs 1, not 2" in capsys.readouterr().err
    manifest = copy / "small.csv"
    text = manifest.read_text()
    manifest.write_text(text.replace("happy_01.wav,happy", "happy_01.wav,angry", 1))
    assert run_train(*base, "--epochs", "1") == results.EXIT_USAGE
    assert "utterances, labels or speakers" in capsys.readouterr().err
    manifest.write_text(text)
    soundfile.write(copy / "wav/S3/sad_01.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 20000), 16000)
    assert run_train(*base, "--epochs", "1", "--fold", "all") == results.EXIT_USAGE
    assert "other recordings" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["predictions.csv", "config.json", "done.json", "checkpoint.pt"])
def test_a_fold_that_was_damaged_is_not_counted_and_is_trained_again(name, corpus, tmp_path, run):
    base = ["--db", corpus / "small.csv", "--model", "atnn", "--fold", "1", "--runs", tmp_path, *QUICK]
    assert run_train(*base) == 0
    folder = results.fold_folder(tmp_path, "small", "atnn", "speaker", 0, 1)
    whole = (folder / "predictions.csv").read_bytes()
    path = folder / name
    path.write_bytes(path.read_bytes()[:-30])
    code, out, error = run("--runs", tmp_path, "--table", "ablation", "--format", "json")
    assert code == 0 and all(row["war"] is None for row in json.loads(out)) and str(folder) in error
    assert run_train(*base) == 0
    assert (folder / "predictions.csv").read_bytes() == whole and results.is_done(folder)


def test_results_of_different_experiments_do_not_mix_in_a_row(corpus, tmp_path, run):
    base = ["--db", corpus / "small.csv", "--model", "atnn", "--runs", tmp_path, "--device", "cpu"]
    assert run_train(*base, "--fold", "1", "--epochs", "1") == 0
    assert run_train(*base, "--fold", "2", "--epochs", "2") == 0
    code, _, error = run("--runs", tmp_path)
    assert code == results.EXIT_USAGE and "epochs" in error


def test_evaluate_without_runs_shows_what_was_published(tmp_path, run, rows):
    (tmp_path / "none").mkdir()
    figures = [row for row in rows("--runs", tmp_path / "none") if row["table"] != "databases"]
    assert len(figures) == len(evaluate.read_published()) and all(row["war"] is None for row in figures)
    code, _, error = run("--runs", tmp_path / "none", "--db", "synthetic")
    assert code == results.EXIT_USAGE and error.count("\n") == 1


def test_published_figures_agree_wherever_two_tables_show_the_same():
    seen = {}
    for row in evaluate.read_published():
        if row["model"]:
            key = (row["database"], row["model"])
            assert seen.setdefault(key, (row["war"], row["uar"])) == (row["war"], row["uar"])
        if row["database"] == "casia":  # 200 utterances of each class: WAR is UAR
            assert row["war"] == row["uar"]
    assert len(seen) == 4 * 2 + 4 * 3
    assert set(recipes.RECIPES) == {model for _, model in seen}
