"""`python protocols.py --check`: what is found, what is at fault, and that training agrees with it.

python -m pytest tests/test_check.py
"""

import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import command

import check
import protocols
import results
import train
from benchmarks import synthetic

PROJECT = Path(__file__).resolve().parents[1]


def run_check(capsys, *arguments):
    """Exit code and lines of the check."""
    capsys.readouterr()
    code, told = command(check.main, "--check", *arguments), capsys.readouterr()
    return code, told.out.splitlines(), told.err.splitlines()


def write(folder, name, seconds=1.5, rate=16_000, channels=1, seed=0):
    noise = 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), channels))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, noise, rate)


@pytest.fixture
def own(tmp_path):
    """A sound manifest: 3 speakers x 2 classes x 2 utterances."""
    rows = []
    for i, (speaker, emotion, take) in enumerate((s, e, t) for s in "abc" for e in ("happy", "sad") for t in "12"):
        write(tmp_path, f"{speaker}/{emotion}{take}.wav", seed=i)
        rows.append(f"{speaker}/{emotion}{take}.wav,{emotion},{speaker}")
    return manifest(tmp_path, rows)


def manifest(folder, rows):
    (folder / "own.csv").write_text("\n".join(["path,emotion,speaker", *rows]) + "\n")
    return folder / "own.csv"


def add(db, *rows):
    with open(db, "a") as file:
        file.write("\n".join(rows) + "\n")


def starting(lines, word):
    return [line for line in lines if line.startswith(word)]


def test_a_sound_manifest_is_told_and_can_be_trained(own, capsys):
    write(own.parent, "c/sad3.wav", seconds=2, rate=48_000, channels=2, seed=99)
    add(own, "c/sad3.wav,sad,c")
    code, out, _ = run_check(capsys, "--db", own)
    text = "\n".join(out)
    assert code == 0 and not starting(out, "fault") and not starting(out, "note")
    assert "utterances   13" in out and "2 classes    happy 6, sad 7" in out and "3 speakers   a 4, b 4, c 5" in out
    assert "16000 Hz: 12, 48000 Hz: 1" in text and "1: 12, 2: 1" in text
    assert "0.3 minutes; 1.50 to 2.00 s, median 1.50 s" in text
    assert "tft input    27 segments" in text  # 149 frames twelve times, 199 once
    assert out[-1] == f"no faults; to train: python train.py --db {own}"
    assert max(map(len, out[:-1])) <= 80


def test_every_fault_is_told_in_a_line_of_its_own(own, capsys):
    root = own.parent
    (root / "empty.wav").touch()
    (root / "text.wav").write_text("no audio")
    (root / "text.raw").write_text("no audio")  # soundfile asks for its rate
    soundfile.write(root / "silent.wav", np.zeros(16_000), 16_000)
    bad = ["empty.wav", "text.wav", "text.raw", "silent.wav", "missing.wav"]
    add(own, *(f"{name},sad,a" for name in bad))
    code, out, _ = run_check(capsys, "--db", own)
    faults = starting(out, "fault")
    assert code == results.EXIT_DATA and len(faults) == 5 and "5 faults" in out[-1]
    for name in bad:
        assert sum(name in line for line in faults) == 1


def test_what_training_accepts_is_noted(own, capsys):
    root = own.parent
    (root / "copy.wav").write_bytes((root / "a" / "sad1.wav").read_bytes())
    write(root, "short.wav", seconds=0.5, seed=50)
    add(own, "copy.wav,happy,a", "short.wav,bored,c")
    code, out, _ = run_check(capsys, "--db", own)
    notes = "\n".join(starting(out, "note"))
    assert code == 0
    assert "a/sad1.wav and copy.wav hold the same bytes, of a sad and a happy" in notes
    assert "1 utterances are shorter than a segment of tft (0.81 s)" in notes and "short.wav" in notes
    assert "speaker a has no bored" in notes and "speaker b has no bored" in notes
    assert "only speaker c has bored" in notes and "speaker c has no" not in notes


def test_a_recording_of_two_speakers_is_refused_as_by_training(own, capsys):
    (own.parent / "copy.wav").write_bytes((own.parent / "a" / "sad1.wav").read_bytes())
    add(own, "copy.wav,sad,b")
    code, out, _ = run_check(capsys, "--db", own)
    told = "a/sad1.wav of a and copy.wav of b are the same recording"
    assert (
        code == results.EXIT_DATA
        and told in starting(out, "fault")[0]
        and not any(told in line for line in starting(out, "note"))
    )
    with pytest.raises(protocols.DatabaseError, match=told):
        train.main(["--db", str(own), "--runs", str(own.parent / "runs"), "--model", "atnn", "--epochs", "1"])


def test_too_few_speakers(own, capsys):
    rows = own.read_text().splitlines()[1:]
    manifest(own.parent, rows[:8])
    code, out, _ = run_check(capsys, "--db", own)
    assert code == 0 and sum("only --track last" in line for line in out) == 2
    manifest(own.parent, rows[:4])
    code, out, _ = run_check(capsys, "--db", own)
    assert code == results.EXIT_DATA and "one speaker only" in starting(out, "fault")[0]
    manifest(own.parent, rows)
    code, out, _ = run_check(capsys, "--db", own, "--protocol", "session")
    assert code == results.EXIT_DATA and "names no sessions" in starting(out, "fault")[0]


def test_counts_that_differ_from_the_published_ones(tmp_path, capsys):
    synthetic.write_corpus("casia", tmp_path)
    code, out, _ = run_check(capsys, "--db", "casia", "--root", tmp_path)
    faults = starting(out, "fault")
    assert code == results.EXIT_DATA
    assert all(any(f"{label} " in line and "of 200" in line for line in faults) for label in ("angry", "surprise"))
    code, out, _ = run_check(capsys, "--db", "casia", "--root", tmp_path, "--partial")
    assert code == 0 and not starting(out, "fault") and "published" in starting(out, "note")[0]
    assert out[-1].endswith("--partial")


@pytest.mark.parametrize("layout", ["iemocap", "abc", "emodb", "ravdess"])
def test_every_layout_can_be_checked(layout, tmp_path, capsys):
    synthetic.write_corpus(layout, tmp_path)
    code, out, _ = run_check(capsys, "--db", layout, "--root", tmp_path, "--partial")
    assert code == 0 and out[0].startswith(f"database     {layout},")
    assert any(line.startswith("5 sessions") for line in out) == (layout == "iemocap")


def test_many_lines_of_one_kind_are_cut(own, capsys):
    add(own, *(f"gone{i}.wav,sad,a" for i in range(100)))
    code, out, _ = run_check(capsys, "--db", own)
    assert code == results.EXIT_DATA and len(starting(out, "fault")) == check.MOST_LINES + 1
    assert "100 faults" in out[-1] and any("and 80 more" in line for line in out)


def test_a_bad_manifest_is_one_line(own, capsys):
    add(own, "x.wav,,a")
    code, out, errors = run_check(capsys, "--db", own)
    assert code == results.EXIT_DATA and not out and len(errors) == 1 and "line 14" in errors[0]


def test_the_command_runs_as_a_script_and_protocols_stays_light(own):
    def python(*arguments):
        return subprocess.run([sys.executable, *arguments], cwd=PROJECT, capture_output=True, text=True)

    told = python("protocols.py", "--check", "--db", str(own))
    assert told.returncode == 0 and "no faults" in told.stdout
    told = python("protocols.py", "--check", "--db", "nowhere")
    assert told.returncode == results.EXIT_USAGE and told.stderr.count("\n") == 1
    told = python("protocols.py")
    assert told.returncode == results.EXIT_USAGE and told.stderr.count("\n") == 1
    told = python("-c", "import sys, protocols; sys.exit(bool({'torch', 'scipy', 'features'} & set(sys.modules)))")
    assert told.returncode == 0


def test_a_corpus_in_code_is_a_reader_and_an_entry(tmp_path, monkeypatch, capsys):
    """The README's example of a corpus added in code."""
    readme = (PROJECT / "README.md").read_text()
    start = readme.splitlines().index("    def read_mine(root):")
    code = takewhile(lambda line: line.startswith("    "), readme.splitlines()[start:])
    namespace = vars(protocols).copy()
    exec("\n".join(line[4:] for line in code), namespace)
    for i, name in enumerate(f"{s}/{e}-{t}.wav" for s in ("anna", "ben") for e in ("happy", "sad") for t in "12"):
        write(tmp_path, name, seed=i)
    corpus = protocols.Corpus("Dutch", dict(happy=4, sad=4), 2, namespace["read_mine"])
    monkeypatch.setitem(protocols.DATABASES, "mine", corpus)
    assert '"mine": Corpus("Dutch", dict(happy=4, sad=4), 2, read_mine)' in readme
    code, out, _ = run_check(capsys, "--db", "mine", "--root", tmp_path)
    assert code == 0 and "2 speakers   anna 4, ben 4" in out
