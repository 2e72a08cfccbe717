"""Generated corpora: reproducible, complete, with the quirks of the real layouts, and worth learning from."""

import csv
import re
import subprocess
import sys
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

import features
import protocols
from common import synthetic

PROJECT = Path(__file__).resolve().parents[1]
LAYOUTS = list(synthetic.LAYOUTS)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """The small corpora with recordings of 0.3 s: {layout: folder}."""
    top = tmp_path_factory.mktemp("corpora")
    for layout in LAYOUTS:
        synthetic.write_corpus(layout, top / layout, seconds=0.3)
    return {layout: top / layout for layout in LAYOUTS}


def recordings(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.wav") if path.name[0] != ".")


def open_corpus(layout, folder, partial=True):
    return protocols.open_database(synthetic.LAYOUTS[layout].database, folder, partial)


# --------------------------------------------------------------------------------------------- sound


@pytest.mark.parametrize("seconds, rate", [(0.01, 16_000), (1.23456, 16_000), (0.7, 48_000)])
def test_sounds_have_the_length_and_range_asked_for(seconds, rate):
    samples = synthetic.synthesize("S1", "angry", 3, seconds, rate)
    assert samples.dtype == np.float32 and samples.shape == (round(seconds * rate),)
    assert np.isfinite(samples).all() and np.abs(samples).max() <= 1


def test_each_class_of_each_database_is_audible_speech():
    for corpus in protocols.DATABASES.values():
        for emotion in corpus.classes:
            assert emotion[:3] in synthetic.STYLES, emotion
            samples = synthetic.synthesize("S2", emotion, 5, 0.6)
            assert -35 < 10 * np.log10(np.mean(samples**2)) < -12, emotion


def test_each_argument_changes_the_sound_and_the_same_arguments_repeat_it():
    base = dict(speaker="S1", emotion="sad", text=1, seconds=0.6, seed=0, take="a")
    sound = synthetic.synthesize(**base)
    for change in (dict(speaker="S3"), dict(emotion="happy"), dict(text=2), dict(seed=1), dict(take="b")):
        assert not np.array_equal(sound, synthetic.synthesize(**base | change)), change
    assert np.array_equal(sound, synthetic.synthesize(**base))


def test_a_resonator_peaks_at_its_formant():
    formants = np.array([700.0, 1800.0])
    for formant, section in zip(formants, synthetic.resonators(formants)):
        hertz = np.arange(1.0, 8000.0)
        z = np.exp(-2j * np.pi * hertz / synthetic.RATE)
        gain = np.abs(section[0] / (1 + section[4] * z + section[5] * z**2))
        assert abs(hertz[gain.argmax()] - formant) < 10 and gain[0] == pytest.approx(1, abs=1e-3)


def leave_one_speaker_out(vectors, labels, speakers):
    """Share of correct answers of a ridge classifier on standardized vectors (N, D) and a constant."""
    correct = 0
    for speaker in np.unique(speakers):
        train, test = speakers != speaker, speakers == speaker
        scaled = (vectors - vectors[train].mean(0)) / vectors[train].std(0)
        design = np.hstack([scaled, np.ones((len(scaled), 1))])  # (N, D + 1)
        gram = design[train].T @ design[train] + 10 * np.eye(design.shape[1])
        weights = np.linalg.solve(gram, design[train].T @ np.eye(labels.max() + 1)[labels[train]])
        correct += (np.argmax(design[test] @ weights, axis=1) == labels[test]).sum()
    return correct / len(labels)


def test_emotions_of_an_unseen_speaker_can_be_learned_and_permuted_labels_cannot(tmp_path):
    synthetic.write_corpus("manifest", tmp_path)
    database = open_corpus("manifest", tmp_path, partial=False)
    front_end, vectors = features.FRONT_ENDS["tft"], []
    for path in database.paths:
        sound = features.read_audio(tmp_path / path)
        frames = np.hstack(list(features.log_mel(sound, front_end)))  # (80, frames)
        vectors.append(frames[:, : max(1, len(sound) // front_end.hop_length - 1)].mean(1))  # without padding
    vectors, labels, rng = np.array(vectors), database.labels, np.random.default_rng(0)
    assert leave_one_speaker_out(vectors, labels, database.speakers) > 0.5  # chance: 0.25, standard error 0.044
    permuted = [leave_one_speaker_out(vectors, rng.permutation(labels), database.speakers) for _ in range(20)]
    assert 0.15 < np.mean(permuted) < 0.35 and max(permuted) < 0.45


# ------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("size", ["small", "full"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_speaker_speaks_each_class(layout, size):
    plan = [utterance for utterance in synthetic.plan_corpus(layout, size) if utterance.usable]
    pairs = {(utterance.speaker, utterance.emotion) for utterance in plan}
    corpus = protocols.DATABASES[synthetic.LAYOUTS[layout].database]
    assert len(pairs) == corpus.speakers * len(corpus.classes)
    assert min(utterance.seconds for utterance in plan) >= 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_small_corpora_are_read_as_planned(corpora, layout):
    database, plan = open_corpus(layout, corpora[layout]), synthetic.plan_corpus(layout)
    assert recordings(corpora[layout]) == sorted(utterance.path for utterance in plan)
    emotions = [database.classes[label] for label in database.labels]
    expected = {(utterance.path, utterance.speaker, utterance.emotion) for utterance in plan if utterance.usable}
    assert set(zip(database.paths, database.speakers.tolist(), emotions)) == expected
    assert len(database.ids) == len(expected) and database.partial == (layout != "manifest")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_full_corpora_have_the_published_counts(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "write_utterance", lambda utterance, folder, seed: (folder / utterance.path).touch())
    count = synthetic.write_corpus(layout, tmp_path / "full", "full")
    database = open_corpus(layout, tmp_path / "full", partial=False)  # refuses other counts
    assert len(database.ids) == count


def test_quirks_of_iemocap(corpora):
    folder = corpora["iemocap"]
    heads = []
    for path in sorted(folder.glob("Session?/dialog/EmoEvaluation/Ses*.txt")):
        text = path.read_text()
        assert "\nC-E2:\t" in text and "\nA-E2:\t" in text and text.startswith("% [START_TIME")
        found = re.findall(r"^\[([\d.]+) - ([\d.]+)\]\t(\S+)\t(\w{3})\t\[[\d., ]+\]$", text, re.MULTILINE)
        assert found and all(name.startswith(f"{path.stem}_") for _, _, name, _ in found)
        heads += found
    names, labels = {name for _, _, name, _ in heads}, {label for _, _, _, label in heads}
    assert len(names) == len(heads) == len(recordings(folder))
    assert labels == {*protocols.IEMOCAP_LABELS, *synthetic.IGNORED_LABELS}
    assert any("Ses03M_impro05b_F" in name for name in names) and any("script" in name for name in names)
    assert all(float(end) - float(start) == pytest.approx(0.3, abs=2e-4) for start, end, _, _ in heads)
    hidden = [path for path in folder.rglob("._*") if path.read_bytes() == synthetic.APPLE_DOUBLE]
    assert {path.suffix for path in hidden} == {".txt", ".wav"}


def test_quirks_of_ravdess(corpora):
    folder, kinds = corpora["ravdess"], Counter()
    for path in recordings(folder):
        with wave.open(str(folder / path)) as file:  # a second reader, which knows no libsndfile
            assert file.getframerate() == 48_000 and file.getsampwidth() == 2
            raw = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        assert np.array_equal(raw, soundfile.read(folder / path, dtype="int16")[0].ravel())
        kinds["stereo"] += soundfile.info(folder / path).channels == 2
        kinds["chunks"] += (folder / path).read_bytes()[36:40] == b"LIST"
        kinds["songs"] += "/03-02-" in path
    assert kinds["songs"] == 24 and 0 < kinds["stereo"] < 20 and 0 < kinds["chunks"] < 20


def test_both_spellings_of_abc(corpora):
    with open(corpora["abc"] / "abc.csv", newline="") as file:
        labels = {row["emotion"] for row in csv.DictReader(file)}
    assert {"aggressiv", "aggressive", "intoxicate", "intoxicated"} < labels


# ------------------------------------------------------------------------------------------- writing


def test_the_same_arguments_give_the_same_bytes(corpora, tmp_path):
    for seed, same in ((0, True), (1, False)):
        synthetic.write_corpus("casia", tmp_path / str(seed), seed=seed, speakers=2, seconds=0.3)
        paths = recordings(tmp_path / str(seed))
        assert paths == [path for path in recordings(corpora["casia"]) if path[0] in "Zl"]
        for path in paths:
            assert ((tmp_path / str(seed) / path).read_bytes() == (corpora["casia"] / path).read_bytes()) == same


def test_a_folder_with_content_is_refused_and_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "corpus").mkdir()
    synthetic.write_corpus("casia", tmp_path / "corpus", speakers=1, seconds=0.1)
    with pytest.raises(FileExistsError, match="corpus: exists already"):
        synthetic.write_corpus("manifest", tmp_path / "corpus")
    assert len(recordings(tmp_path / "corpus")) == 12 and len(list(tmp_path.iterdir())) == 1


def test_a_failed_or_slower_writer_changes_nothing(monkeypatch, tmp_path):
    def fail(utterance, folder, seed):
        raise OSError("disk full")

    monkeypatch.setattr(synthetic, "write_utterance", fail)
    with pytest.raises(OSError, match="disk full"):
        synthetic.write_corpus("casia", tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []

    def write_the_corpus_first(utterance, folder, seed):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / "corpus/other").touch()

    monkeypatch.setattr(synthetic, "write_utterance", write_the_corpus_first)
    assert synthetic.write_corpus("casia", tmp_path / "corpus") == 48
    assert [path.name for path in tmp_path.rglob("*")] == ["corpus", "other"]


def test_command_line(tmp_path, monkeypatch, capsys):
    command = [sys.executable, "-m", "common.synthetic", "--layout", "casia", "--out", str(tmp_path / "corpus")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0 and "48 usable utterances" in done.stdout
    assert len(open_corpus("casia", tmp_path / "corpus").ids) == 48
    monkeypatch.chdir(tmp_path)
    for arguments in ("--layout timit --out x", "--out x --seed -1", "--layout casia", "--out corpus"):
        with pytest.raises(SystemExit) as end:
            synthetic.main(arguments.split())
        assert end.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
