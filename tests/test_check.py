"""`train.py --check`: what it finds in a corpus, what it calls a fault, and that opening and training agree with it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import protocols
from common import check, synthetic

PROJECT = Path(__file__).resolve().parents[1]
FAULT = protocols.DatabaseError.exit_code


@pytest.fixture
def run(capsys):
    """Exit code, lines of faults, lines of notes and all lines of a check."""

    def call(db, root=None, **arguments):
        code, lines = check.check_corpus(str(db), root, **arguments), capsys.readouterr().out.splitlines()
        return code, *([line for line in lines if line.startswith(kind)] for kind in ("fault: ", "note: ")), lines

    return call


def write(folder, name, seconds=1.5, rate=16_000, channels=1, seed=0):
    noise = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, noise, rate)


def write_manifest(folder, rows):
    (folder / "own.csv").write_text("\n".join(["path,emotion,speaker", *rows]) + "\n")
    return folder / "own.csv"


def add(manifest, *rows):
    with open(manifest, "a") as file:
        file.write("\n".join(rows) + "\n")


@pytest.fixture
def own(tmp_path):
    """A manifest without faults: 3 speakers x 2 classes x 2 utterances."""
    rows = []
    for seed, (speaker, emotion, take) in enumerate((s, e, t) for s in "abc" for e in ("happy", "sad") for t in "12"):
        write(tmp_path, f"{speaker}/{emotion}{take}.wav", seed=seed)
        rows.append(f"{speaker}/{emotion}{take}.wav,{emotion},{speaker}")
    return write_manifest(tmp_path, rows)


def test_a_corpus_without_faults_is_described_in_lines_of_80(own, run):
    write(own.parent, "c/sad3.wav", seconds=2, rate=48_000, channels=2, seed=99)
    add(own, "c/sad3.wav,sad,c")
    code, faults, notes, lines = run(own)
    assert code == 0 and not faults and not notes
    assert lines[1:4] == ["utterances   13", "2 classes    happy 6, sad 7", "3 speakers   a 4, b 4, c 5"]
    text = "\n".join(lines)
    assert "16000 Hz: 12, 48000 Hz: 1" in text and "1: 12, 2: 1" in text
    assert "0.3 minutes; 1.50 to 2.00 s, median 1.50 s" in text
    assert "tft input    27 segments" in text  # 149 frames twelve times, 199 frames once
    assert lines[-1] == f"no faults; to train: python train.py --db {own}"
    assert max(map(len, lines[:-1])) <= 80


def test_the_last_line_is_a_command_for_a_shell(tmp_path, run):
    root = tmp_path / "my corpus"
    synthetic.write_corpus("iemocap", root, seconds=0.9)
    code, _, notes, lines = run("iemocap", root, protocol="session", partial=True)
    assert code == 0 and "published" in notes[0]
    assert lines[-1].endswith(f"train.py --db iemocap --root '{root}' --protocol session --partial")
    assert "5 sessions   1 16, 2 16, 3 16, 4 16, 5 16" in lines


def test_each_unusable_recording_is_a_fault_with_a_line_of_its_own(own, run):
    root = own.parent
    (root / "empty.wav").touch()
    (root / "text.wav").write_text("no audio")
    (root / "text.raw").write_text("no audio")  # soundfile asks for its rate
    soundfile.write(root / "silent.wav", np.zeros(16_000), 16_000)
    bad = ["empty.wav", "text.wav", "text.raw", "silent.wav", "missing.wav"]
    add(own, *(f"{name},sad,a" for name in bad))
    code, faults, _, lines = run(own)
    assert code == FAULT and len(faults) == 5 and lines[-1].endswith("5 faults; fix them before training")
    assert all(sum(name in line for line in faults) == 1 for name in bad)


def test_a_corpus_of_which_nothing_can_be_read_is_described_by_its_names(own, run):
    rows = own.read_text().replace(".wav", ".gone").splitlines()[1:]
    code, faults, _, lines = run(write_manifest(own.parent, rows))
    assert code == FAULT and len(faults) == 12 and not any(line.startswith("lengths") for line in lines)


def test_what_training_accepts_is_a_note(own, run):
    (own.parent / "copy.wav").write_bytes((own.parent / "a/sad1.wav").read_bytes())
    write(own.parent, "short.wav", seconds=0.5, seed=50)
    add(own, "copy.wav,happy,a", "short.wav,bored,c")
    code, faults, notes, _ = run(own)
    text = "\n".join(notes)
    assert code == 0 and not faults
    assert "a/sad1.wav and copy.wav hold the same bytes, of a sad and a happy" in text
    assert "1 utterances are shorter than a segment of tft (0.81 s)" in text and "short.wav" in text
    assert "speaker a has no bored" in text and "speaker b has no bored" in text
    assert "only speaker c has bored" in text and "speaker c has no" not in text


def test_a_recording_of_two_speakers_is_a_fault(own, run):
    (own.parent / "copy.wav").write_bytes((own.parent / "a/sad1.wav").read_bytes())
    add(own, "copy.wav,sad,b")
    code, faults, notes, _ = run(own)
    assert code == FAULT and not notes and len(faults) == 1
    assert "a/sad1.wav of a and copy.wav of b are the same recording" in faults[0]


def test_the_same_samples_are_a_fault_of_two_speakers_and_a_note_of_a_single_one(own, run):
    wave, rate = soundfile.read(own.parent / "a/sad1.wav", dtype="int16")
    soundfile.write(own.parent / "copy.flac", wave, rate)
    soundfile.write(own.parent / "copy.wav", wave.astype(np.int32) << 16, rate, subtype="PCM_24")
    add(own, "copy.flac,happy,a", "copy.wav,sad,b", "gone.wav,sad,b")
    code, faults, notes, _ = run(own)
    assert code == FAULT and len(faults) == 2 and "gone.wav: no such recording" in faults[0]
    assert "a/sad1.wav of a and copy.wav of b are the same recording" in faults[1]
    assert "a/sad1.wav and copy.flac hold the same samples, of a sad and a happy; keep" in "".join(notes)


def test_parts_are_described_by_their_own_length_and_must_lie_inside(own, run):
    rows = [f"a/sad1.wav,sad,a,{start},{start + 0.9}" for start in (0, 0.1, 0.2)]  # 1.5 s
    rows += ["b/happy1.wav,happy,b,0,0.5", "b/happy1.wav,happy,c,0.4,1.5", "b/happy1.wav,sad,c,0.5,1.5"]
    own.write_text("\n".join(["path,emotion,speaker,start,end", *rows]) + "\n")
    code, faults, notes, lines = run(own)
    text = "\n".join(lines)
    assert code == 0 and not faults and "0.50 to 1.10 s, median 0.90 s" in text
    assert "the shortest b/happy1.wav#0.00-0.50 (0.50 s)" in text
    assert sum("#0.00-0.50 of b and b/happy1.wav#0.40-1.50 of c share 0.10 s" in note for note in notes) == 1
    add(own, "a/sad1.wav,sad,a,1.0,1.6", "a/sad1.wav,sad,b,0.5,1.5", "b/sad1.wav,sad,b,0.1,0.11")
    code, faults, _, _ = run(own)
    text = "\n".join(faults)
    assert code == FAULT and "a/sad1.wav: 1.00 to 1.60 s is asked for, and it has 1.50 s" in text
    assert "a/sad1.wav#0.20-1.10 of a and a/sad1.wav#0.50-1.50 of b share 0.60 s of a recording" in text
    assert "b/sad1.wav: has 10 ms, less than a window of 20 ms" in text


def test_too_few_speakers_and_missing_sessions(own, run):
    rows = own.read_text().splitlines()[1:]
    code, faults, _, _ = run(own, protocol="session")
    assert code == FAULT and "names no sessions" in faults[0]
    code, faults, notes, _ = run(write_manifest(own.parent, rows[:8]))
    assert code == 0 and sum("give --track last" in line for line in notes) == 2
    code, faults, _, lines = run(write_manifest(own.parent, rows[:4]))
    assert code == FAULT and "only one speaker" in faults[0] and "1 fault; fix it" in lines[-1]


def test_counts_that_differ_from_the_published_counts_are_faults_without_partial(tmp_path, run):
    synthetic.write_corpus("casia", tmp_path, seconds=0.9)
    code, faults, _, _ = run("casia", tmp_path)
    assert code == FAULT and any("angry 8 of 200" in line and "--partial" in line for line in faults)
    code, faults, notes, lines = run("casia", tmp_path, partial=True)
    assert code == 0 and not faults and "partial database" in notes[0] and lines[-1].endswith("--partial")


@pytest.mark.parametrize("layout", ["abc", "emodb", "ravdess"])
def test_other_layouts(layout, tmp_path, run):
    synthetic.write_corpus(layout, tmp_path, speakers=3, seconds=0.3)
    code, _, _, lines = run(layout, tmp_path, partial=True)
    assert code == 0 and lines[0].startswith(f"database     {layout},")


def test_many_lines_of_a_kind_are_cut(own, run):
    add(own, *(f"gone{i}.wav,sad,a" for i in range(100)))
    code, faults, _, lines = run(own)
    assert code == FAULT and len(faults) == check.MAX_LINES + 1
    assert "100 faults" in lines[-1] and any("and 80 more of the same kind (recordings)" in line for line in lines)


def test_train_py_checks(own):
    def train(*arguments):
        return subprocess.run(
            [sys.executable, "train.py", "--check", *arguments], cwd=PROJECT, capture_output=True, text=True
        )

    done = train("--db", str(own))
    assert done.returncode == 0 and "no faults" in done.stdout and "12 can be used" in done.stderr
    add(own, "x.wav,,a")
    for db, code in ((own, FAULT), ("nowhere", protocols.UsageError.exit_code)):
        done = train("--db", str(db))
        assert done.returncode == code and not done.stdout and len(done.stderr.splitlines()) == 1
