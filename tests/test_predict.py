"""predict.py gives the scores of training and evaluation, from the checkpoint alone.

python -m pytest tests/test_predict.py
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import features
import helpers
import predict
from common import cli, runs

PROJECT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def trained(corpus, tiny, tmp_path_factory):
    """Two folds and the run on all speakers of tft-t+f; folds of atnn with each recording's or segment's statistics."""
    folder = tmp_path_factory.mktemp("runs")
    for arguments in (
        "--model tft-t+f --fold 1", "--model tft-t+f --fold 2", "--model tft-t+f --fold none",
        "--normalization utterance --fold 1", "--normalization segment --fold 1 --seed 1",
    ):  # fmt: skip
        runs_folder = folder / "segment" if "segment" in arguments else folder
        assert helpers.run_train(corpus / "small.csv", runs_folder, "--quiet", *arguments.split()) == 0
    seed_folder(folder / "segment", "atnn", 1).rename(seed_folder(folder, "atnn", 1))
    return folder


def seed_folder(folder, model="tft-t+f", seed=0):
    return folder / "small" / model / "speaker" / f"seed{seed}"


def command(*arguments):
    """Exit code of predict.py."""
    return helpers.command(predict.main, "--device", "cpu", *arguments)


def predicted(capsys, *arguments):
    """Rows that predict.py prints as JSON, and its lines on standard error."""
    capsys.readouterr()
    assert command("--format", "json", *arguments) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err.splitlines()


def scores_of(rows):
    return np.array([list(row["probabilities"].values()) for row in rows])


# ------------------------------------------------------------------------------------- what is predicted


@pytest.mark.parametrize("model, seed, number", [("tft-t+f", 0, 1), ("tft-t+f", 0, 2), ("atnn", 0, 1), ("atnn", 1, 1)])
def test_a_folds_own_test_recordings_get_its_saved_scores(model, seed, number, corpus, trained, capsys):
    folder = seed_folder(trained, model, seed) / f"fold{number}"
    fold = runs.read_fold(folder)
    rows, _ = predicted(capsys, "--run", folder, *(corpus / name for name in fold.ids))
    assert [row["file"] for row in rows] == [str(corpus / name) for name in fold.ids]
    assert list(rows[0]["probabilities"]) == fold.config.database.classes
    assert scores_of(rows) == pytest.approx(fold.scores, abs=2e-6)
    assert [row["class"] for row in rows] == [list(rows[0]["probabilities"])[i] for i in fold.scores.argmax(1)]


def test_a_seeds_folder_gives_the_mean_of_its_folds(corpus, trained, capsys):
    files = sorted((corpus / "wav/S3").glob("*.wav"))
    single = [
        scores_of(predicted(capsys, "--run", seed_folder(trained) / f"fold{number}", *files)[0]) for number in (1, 2)
    ]
    assert abs(single[0] - single[1]).max() > 1e-4  # the folds differ, so their mean shows something
    rows, errors = predicted(capsys, "--run", seed_folder(trained), *files)
    assert scores_of(rows) == pytest.approx(np.mean(single, axis=0), abs=2e-6)
    assert any("mean of 2 of 4 folds" in line for line in errors)


def test_segments_cover_the_recording_and_their_mean_is_its_score(corpus, trained, capsys):
    rows, _ = predicted(capsys, "--run", seed_folder(trained) / "fold1", corpus)
    assert len(rows) == len(list(corpus.glob("wav/*/*.wav"))) == 24
    assert max(len(row["segments"]) for row in rows) > 1
    for row in rows:
        wave, rate = soundfile.read(row["file"])
        ends = [part["to"] for part in row["segments"]]
        assert [part["from"] for part in row["segments"]] == [0, *ends[:-1]]
        assert ends[-1] == row["seconds"] == pytest.approx(len(wave) / rate, abs=1e-3)
        mean = scores_of(row["segments"]).mean(0)
        assert scores_of([row])[0] == pytest.approx(mean, abs=1e-6) and mean.sum() == pytest.approx(1, abs=1e-5)


def test_groups_and_threads_change_nothing(corpus, trained, capsys, monkeypatch):
    """Many small groups on three threads give what each recording by itself gives."""
    folder = seed_folder(trained, "atnn")  # each recording's own statistics: a mix-up of recordings would show
    files = sorted(corpus.glob("wav/*/*.wav"))
    single = [predicted(capsys, "--run", folder, file)[0][0] for file in files]
    for name, value in (("GROUP", 3), ("BATCH", 4)):
        monkeypatch.setattr(predict, name, value)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    rows, _ = predicted(capsys, "--run", folder, *files)
    assert [row["file"] for row in rows] == [row["file"] for row in single]
    assert scores_of(rows) == pytest.approx(scores_of(single), abs=2e-6)


def test_text_and_csv_hold_the_same_as_json(corpus, trained, capsys):
    base = ["--run", seed_folder(trained) / "fold1", corpus / "wav/S1"]
    rows, _ = predicted(capsys, *base)

    def lines_of(*arguments):
        assert command(*base, *arguments) == 0
        return capsys.readouterr().out.splitlines()

    files, parts = (list(csv.DictReader(lines_of("--format", "csv", *more))) for more in ((), ("--segments",)))
    assert [(row["file"], row["class"]) for row in files] == [(row["file"], row["class"]) for row in rows]
    assert [float(files[0][name]) for name in rows[0]["probabilities"]] == list(rows[0]["probabilities"].values())
    assert len(parts) == sum(len(row["segments"]) for row in rows)
    assert float(parts[-1]["to"]) == rows[-1]["segments"][-1]["to"]
    assert [line.split()[:: len(files[0]) - 1] for line in lines_of()[1:]] == [
        [row["class"], row["file"]] for row in rows
    ]
    assert len(lines_of("--segments")) == 1 + len(rows) + len(parts)


def test_the_model_of_all_speakers_is_used_and_no_fold_of_a_table(corpus, trained, capsys):
    folder = seed_folder(trained) / "all"
    assert runs.read_done(folder)["trained_on"] == ["S1", "S2", "S3", "S4"]
    rows, _ = predicted(capsys, "--run", folder, corpus / "wav/S1")
    fold, _ = predicted(capsys, "--run", seed_folder(trained) / "fold1", corpus / "wav/S1")
    assert abs(scores_of(rows) - scores_of(fold)).max() > 1e-4
    assert "all" not in [path.name for *_, path in runs.find_folds(trained)]


# ---------------------------------------------------------------------------------------- what is refused


def test_what_folders_hold_besides_is_counted_at_the_end(corpus, trained, tmp_path, capsys):
    wav = corpus / "wav/S1/sad_01.wav"
    for name in ("in/a.wav", "in/b.FLAC", "in/c.w64", "in/.hidden.wav", "in/.hidden/a.wav", "in/deep/d.wav",
    "in/x.txt", "else/e.wav",
                 "in/e.mp3", "in/deep/f.MP3", "in/g.ogg", "in/._h.mp3"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(wav.read_bytes())
    (tmp_path / "in/linked").symlink_to(tmp_path / "else")
    (tmp_path / "in/link.wav").symlink_to(wav)
    (tmp_path / "in/deep/loop").symlink_to(tmp_path / "in")
    rows, errors = predicted(capsys, "--run", seed_folder(trained) / "fold1", tmp_path / "in")
    names = ["a.wav", "b.FLAC", "c.w64", "deep/d.wav", "link.wav"]
    assert [row["file"] for row in rows] == [str(tmp_path / "in" / name) for name in names]
    last = [line.partition(": ")[2] for line in errors[-2:]]
    assert last[0] == "recordings of other formats not read: .mp3 2, .ogg 1; convert them to WAV or FLAC"
    links = " ".join(f"{tmp_path}/in/{name}," for name in ("deep/loop", "linked"))
    assert last[1] == f"linked folders not searched: {links[:-1]}; name them too"
    rows, errors = predicted(capsys, "--run", seed_folder(trained) / "fold1", tmp_path / "in/linked")  # named, it is
    assert len(rows) == 1 and not any("not searched" in line or "not read" in line for line in errors)


def test_recordings_in_folders_of_any_encoding_are_predicted(corpus, trained, tmp_path, capsys):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xcd\xf5")
    os.mkdir(folder)
    shutil.copy(corpus / "wav/S1/sad_01.wav", folder)
    rows, _ = predicted(capsys, "--run", seed_folder(trained) / "fold1", tmp_path)
    assert [os.fsencode(row["file"]) for row in rows] == [os.fsencode(folder) + b"/sad_01.wav"]


def test_columns_of_wide_characters_stay_in_line(capsys):
    scores = np.array([0.25, 0.75], np.float32)
    item = predict.Prediction("a.wav", scores, scores[None], np.array([[0, 1.0]]))
    predict.print_text([item], ["\u751f\u6c14", "\u60b2"], segments=True)
    lines = capsys.readouterr().out.splitlines()
    assert [cli.width(line.rpartition("  ")[0]) for line in lines[:2]] == [17, 17]
    assert lines[1].startswith("\u60b2    0.250 0.750")


def test_unusable_recordings_are_skipped_with_a_line_each(corpus, trained, tmp_path, capsys, monkeypatch):
    good, long = (corpus / f"wav/{speaker}/angry_01.wav" for speaker in ("S1", "S2"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    bad = [tmp_path / name for name in ("folder", "text.wav", "silent.wav", "missing.wav")]
    length, log_mel = len(features.read_audio(long)), features.log_mel
    assert length != len(features.read_audio(good))

    def limited(wave, front_end):
        if len(wave) == length:
            raise MemoryError
        return log_mel(wave, front_end)

    monkeypatch.setattr(features, "log_mel", limited)
    rows, errors = predicted(capsys, "--run", seed_folder(trained) / "fold1", *bad, long, good)
    assert [row["file"] for row in rows] == [str(good)]
    assert all(sum(str(path) in line for line in errors) == 1 for path in (*bad, long))
    assert any(f"{long}: is too long for this machine's memory" in line for line in errors)
    assert sum("transfers poorly" in line for line in errors) == 1
    assert len(errors) == 7 and errors[-1].endswith("1 of 5 recordings predicted")
    assert command("--run", seed_folder(trained) / "fold1", *bad) == cli.EXIT_DATA
    assert capsys.readouterr().err.splitlines()[-1].startswith("predict.py: none of the 3 recordings")


@pytest.fixture
def fold(trained, tmp_path):
    """A copy of a fold in a seed's folder of its own."""
    return Path(shutil.copytree(seed_folder(trained) / "fold1", tmp_path / "seed0/fold1"))


def doctor(folder, change):
    """Change a fold's checkpoint and seal the fold again."""
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save(change(state) or state, folder / "checkpoint.pt")
    done = json.loads((folder / runs.DONE_FILE).read_text())
    runs.mark_done(folder, epoch=done["epoch"], trained_on=done["trained_on"])


def refusal(capsys, run, corpus):
    """The line on standard error, with the name of the folder, when a run is refused."""
    capsys.readouterr()
    assert command("--run", run, corpus / "wav/S1/angry_01.wav") == cli.EXIT_USAGE
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and str(run) in printed.err
    return printed.err


def put(value, *keys):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


class Code:
    """Runs when a pickle that holds it is loaded carelessly."""

    def __reduce__(self):
        return (os.mkdir, ("code-was-run",))


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda state: state.pop("classes") and None, "lacks 'classes'"),
        (lambda state: dict(state, code=Code()), "more than weights"),
        (put(["angry", "happy"], "classes"), "size mismatch"),
        (put([torch.zeros(1, 7, 1), torch.ones(1, 7, 1)], "normalization"), "normalisation"),
        (put("gpt", "settings", "model"), "unknown"),
        (put(10**12, "settings", "front_end", "frames"), "front end"),
        (put(1.0, "settings", "dropout"), "dropout"),
        (lambda state: state["model"]["classifier.bias"].fill_(torch.nan).tolist() and None, "not finite"),
    ],
)
def test_doctored_checkpoints_are_refused(change, reason, fold, corpus, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    doctor(fold, change)
    line = refusal(capsys, fold, corpus)
    assert "checkpoint.pt" in line and reason in line and not (tmp_path / "code-was-run").exists()


def test_changed_unfinished_and_missing_folds_are_not_used(fold, corpus, capsys):
    file = corpus / "wav/S1/angry_01.wav"
    shutil.copytree(fold, fold.with_name("fold2"))
    shutil.copytree(fold, fold.with_name("fold1-validation"))
    (fold.with_name("fold2") / "checkpoint.pt").write_bytes(b"cut short")  # done.json seals another
    expected = scores_of(predicted(capsys, "--run", fold, file)[0])
    assert np.array_equal(scores_of(predicted(capsys, "--run", fold.parent, file)[0]), expected)
    refusal(capsys, fold.with_name("fold2"), corpus)
    shutil.rmtree(fold.with_name("fold1-validation"))
    (fold / runs.DONE_FILE).unlink()
    assert "no finished fold" in refusal(capsys, fold, corpus)
    assert "no finished fold" in refusal(capsys, fold.parent, corpus)
    assert "no such folder" in refusal(capsys, fold.parent / "nowhere", corpus)


def test_a_method_without_a_model_and_statistics_of_speakers_are_refused(fold, corpus, capsys):
    def by_speaker(state):
        put("speaker", "settings", "normalization")(state)
        put(None, "normalization")(state)

    doctor(fold, by_speaker)
    assert "needs all recordings of each speaker" in refusal(capsys, fold, corpus)
    (fold / "checkpoint.pt").unlink()
    runs.mark_done(fold)
    assert "holds predictions and no model" in refusal(capsys, fold, corpus)


def test_folds_of_different_experiments_are_not_mixed(fold, corpus, capsys):
    other = Path(shutil.copytree(fold, fold.with_name("fold2")))
    doctor(other, put(3, "settings", "epochs"))
    assert "differs from" in refusal(capsys, fold.parent, corpus)
    doctor(other, put(2, "settings", "epochs"))
    doctor(other, lambda state: dict(state, classes=state["classes"][::-1]))
    assert "in classes" in refusal(capsys, fold.parent, corpus)


def test_another_version_of_the_code_is_noted(fold, corpus, capsys):
    file = corpus / "wav/S1/angry_01.wav"
    assert len(predicted(capsys, "--run", fold, file)[1]) == 1  # the warning on acted speech alone
    doctor(fold, put("0" * 16, "code", "models.py"))
    _, errors = predicted(capsys, "--run", fold, file)
    assert len(errors) == 2 and "models.py" in errors[1] and "features.py" not in errors[1]


# ------------------------------------------------------------------------------------- the command itself


def test_an_interrupted_command_has_printed_complete_json(corpus, trained, tmp_path):
    base = [sys.executable, "predict.py", "--run", str(seed_folder(trained)), "--device", "cpu", "--format", "json"]
    with open(tmp_path / "out.json", "wb") as out:
        process = subprocess.Popen(
            [*base, *[str(corpus)] * 4000], cwd=PROJECT, stdout=out, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # `pytest &` hands on an ignored one
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not (tmp_path / "out.json").stat().st_size and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == cli.EXIT_INTERRUPTED
    assert "Traceback" not in errors and "what is printed is complete" in errors.splitlines()[-1]
    assert len(json.loads((tmp_path / "out.json").read_text())) > 0


def test_help_does_not_wait_for_torch():
    code = "import sys; sys.modules['torch'] = None\nimport predict; predict.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--segments" in done.stdout
