"""Vectors of utterances made elsewhere, --features: forms of the file, what is refused, and who sees whose recordings.

python -m pytest tests/test_vectors.py
"""

import json

import numpy as np
import pytest
from helpers import command, folder_of

import evaluate
import features
import protocols
import train
from common import runs, vectors
from comparisons.descriptors import DESCRIPTORS

NPY = b"\x93NUMPY\x01\0"  # begins an .npy file
METHOD = ["--model", "lda-centroid", "--device", "cpu"]


@pytest.fixture(scope="module")
def database(corpus):
    return protocols.open_database(str(corpus / "small.csv"))


@pytest.fixture(scope="module")
def own(database):
    """The vectors (24, 384) that the method computes by itself."""
    return features.load(database.root, database.paths, DESCRIPTORS["is09"]).segments


@pytest.fixture
def run(corpus, tmp_path, capsys):
    """Exit code, output and errors of train.py with a file of vectors, into tmp_path/runs unless `more` has another."""

    def call(path, *more):
        options = ["--db", corpus / "small.csv", "--runs", tmp_path / "runs", *METHOD, "--features", path]
        return command(train.main, *options, *more), *capsys.readouterr()

    return call


def write_csv(path, names, rows, header="name,a,b,c,d", separator=","):
    lines = [separator.join([name, *map(repr, map(float, row))]) for name, row in zip(names, rows)]
    path.write_text("\n".join([header.replace(",", separator), *lines]))
    return path


def test_all_forms_of_a_file_give_the_same_rows(database, tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    paths = database.paths
    forms = dict(
        path=paths, bare=[path.removesuffix(".wav") for path in paths], dots=[f"./{path}" for path in paths],
        whole=[str((database.root / path).resolve()) for path in paths],
        whole_bare=[str(database.root / path)[:-4] for path in paths],
    )  # fmt: skip
    order = np.random.default_rng(1).permutation(24)
    for names in forms.values():
        names, mixed = np.array(names)[order], rows[order]
        np.savez(tmp_path / "arrays.npz", names=names, x=mixed)
        np.savez(tmp_path / "bytes.npz", x=mixed.astype(np.float64), names=names.astype(bytes), labels=np.arange(24))
        np.savez(tmp_path / "named.npz", **dict(zip(names.tolist(), mixed)))
        write_csv(tmp_path / "comma.csv", names.tolist(), mixed)
        write_csv(tmp_path / "tab.csv", names.tolist(), mixed, separator="\t")
        write_csv(tmp_path / "semicolon.CSV", names.tolist(), mixed, separator=";")
        for name in ("arrays.npz", "bytes.npz", "named.npz", "comma.csv", "tab.csv", "semicolon.CSV"):
            np.testing.assert_array_equal(vectors.load(database, tmp_path / name).segments, rows)
    assert capsys.readouterr().out == ""
    write_csv(tmp_path / "more.csv", [*paths, "wav/S9/sad_01.wav", "sad_01"], [*rows, rows[0], rows[0]])
    vectors.load(database, tmp_path / "more.csv")
    assert "more.csv: 2 vectors of no utterance are not used, such as wav/S9/sad_01.wav" in capsys.readouterr().out


def test_a_name_of_two_utterances_is_of_neither(database):
    pair = protocols.Database(
        "pair", database.root, "", ("a", "b"), ["x.wav", "x.flac", "y.v1.wav"], ["x.wav", "x.flac", "y.v1.wav"],
        np.array([0, 1, 0]), np.array(["1", "2", "1"]), np.array([""] * 3), False,
    )  # fmt: skip
    names = vectors.index_of_names(pair)
    assert names["x"] is None and names["x.wav"] == 0 and names["x.flac"] == 1 and names["y.v1"] == 2
    assert "y" not in names


def spoil_row(number, row):
    """Rows (24, 4) with another one at a number."""

    def spoil(path, names):
        rows = [np.ones(4)] * 24
        rows[number] = row
        np.savez(path, **dict(zip(names, rows)))

    return spoil


def text(content):
    return lambda path, names: path.write_bytes(content)


def arrays(**columns):
    """Write a .npz file with the names of the utterances unless `columns` has others."""
    return lambda path, names: np.savez(path, **dict(names=names) | columns)


SPOILED = {  # name of the case -> (file, what writes it, line)
    "missing utterance": ("x.npz", lambda path, names: np.savez(path, **dict.fromkeys(names[2:], np.ones(4))),
                          "x.npz: has no vector of 2 of 24 utterances, such as wav/S1/angry_01.wav; add them"),
    "other length": ("x.npz", spoil_row(3, np.ones(5)), "has 5 numbers, wav/S1/angry_01.wav has 4"),
    "not finite": ("x.npz", spoil_row(3, [1, 2, np.nan, 4]), "x.npz: the vector of wav/S1/happy_02.wav is not finite"),
    "too large": ("x.npz", spoil_row(3, [1, 2, 1e300, 4]), "the vector of wav/S1/happy_02.wav is not finite"),
    "a matrix": ("x.npz", spoil_row(3, np.ones((2, 4))), "happy_02.wav is no vector of numbers, but of shape (2, 4)"),
    "texts": ("x.npz", spoil_row(3, ["a"] * 4), "wav/S1/happy_02.wav is no vector of numbers"),
    "empty vectors": ("x.npz", arrays(x=np.ones((24, 0))), "no vector of numbers"),
    "fewer names": ("x.npz", arrays(x=np.ones((23, 4))), "24 names for 23 vectors"),
    "objects": ("x.npz", arrays(names=np.array([{}])), "x.npz: is missing or damaged (Object arrays"),
    "an .npy": ("x.npz", text(NPY), "x.npz: is missing or damaged"),
    "damaged": ("x.npz", text(b"PK\3\4 damaged"), "x.npz: is missing or damaged"),
    "no file": ("x.npz", text(b""), "x.npz: is missing or damaged"),
    "twice": ("x.csv", lambda path, names: write_csv(path, [*names, names[0][:-4]], np.ones((25, 4))),
              "x.csv: has two vectors of wav/S1/angry_01.wav; keep one of them"),
    "text column": ("x.csv", text(b"id,a,label\nS1/sad.wav,1.5,angry\n"), "line 2, column label: 'angry' is no number"),
    "text outside": ("x.csv", text(b"id,a\nS1/sad.wav,1.5,angry\n"), "line 2, column : 'angry' is no number"),
    "empty cell": ("x.csv", text(b"name,a,b\nwav/S1/angry_01.wav,1.5,\n"), "line 2, column b: '' is no number"),
    "empty csv": ("x.csv", text(b""), "x.csv: has no vector of 24 of 24 utterances"),
    "no text": ("x.csv", text(b"name,a\n\xff\xfe,1\n"), "x.csv: is missing or damaged"),
    "wrong ending": ("x.txt", text(b"name,a\n"), "--features "),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_file_ends_in_a_line_and_nothing_is_written(case, database, run, tmp_path):
    name, spoil, expected = SPOILED[case]
    spoil(tmp_path / name, database.ids)
    code, _, error = run(tmp_path / name)
    assert code in (2, 3) and error.count("\n") == 1 and name in error and expected in error, error
    assert not (tmp_path / "runs").exists()


def test_a_file_of_vectors_is_part_of_the_run_and_stands_for_no_published_row(database, own, run, tmp_path, capsys):
    path = tmp_path / "embeddings.npz"
    assert run(tmp_path / "none.npz")[2].count("none.npz: is missing or damaged (No such file or directory)") == 1
    np.savez(path, names=database.ids, x=own)
    for model in ("lda-centroid", "ga-bel"):  # ga-bel has published rows
        code, out, error = run(path, "--model", model)
        assert code == 0 and f"24 rows of 384 numbers from {path}" in out, error
    config = runs.read_config(folder_of(tmp_path / "runs", "lda-centroid"))
    assert config.settings["features"] == runs.sha256_of(path)[:16]
    options = ["--db", database.root / "small.csv", "--device", "cpu", "--runs", tmp_path / "plain"]
    assert command(train.main, *options, "--model", "lda-centroid") == 0
    assert command(train.main, *options, "--model", "ga-bel", "--fold", 1) == 0
    plain, made = (folder_of(tmp_path / name, "lda-centroid") for name in ("plain", "runs"))
    assert (plain / "predictions.csv").read_bytes() == (made / "predictions.csv").read_bytes()
    for name in ("recordings", "utterances"):  # so that the two can be compared
        assert runs.read_config(plain).settings[name] == config.settings[name]
    capsys.readouterr()
    found = {}
    for name in ("plain", "runs"):
        assert command(evaluate.main, "--runs", tmp_path / name, "--table", "comparison", "--format", "json") == 0
        found[name] = {row["model"]: row for row in json.loads(capsys.readouterr().out) if row["database"] == "small"}
    assert found["plain"]["ga-bel"]["method"] == "LLD+DR, ga-bel" and found["runs"]["ga-bel"]["method"] == "ga-bel"
    assert found["runs"]["ga-bel"]["notes"] == ["on vectors of embeddings.npz"]
    assert found["plain"]["ga-bel"]["extent"] == "reading" and found["runs"]["ga-bel"]["extent"] == ""
    assert command(evaluate.main, "--runs", tmp_path / "runs", "--audit") == 0
    np.savez(path, names=database.ids, x=own + 1)
    code, _, error = run(path)
    assert code == 2 and error.count("\n") == 1 and "holds a run with other features; choose another --runs" in error
    for model in ("tft", "lld-gmm"):
        assert f"--features: {model} uses no utterance vectors" in run(path, "--model", model)[2]


@pytest.mark.parametrize("model", ["lda-centroid", "lld-svm"])
def test_scores_do_not_move_when_other_recordings_of_the_tested_speaker_change(model, database, run, tmp_path):
    tested, scores = np.flatnonzero(database.speakers == "S2"), {}
    own = np.random.default_rng(0).normal(size=(24, 3))
    changed = own.copy()
    changed[tested[1:]] += 1
    for kind in ("fold", "speaker"):
        for name, rows in (("before", own), ("after", changed)):
            np.savez(tmp_path / f"{name}.npz", names=database.ids, x=rows)
            more = ["--model", model, "--normalization", kind, "--runs", tmp_path / kind / name, "--fold", "S2"]
            assert run(tmp_path / f"{name}.npz", *more)[0] == 0
            scores[kind, name] = runs.read_fold(folder_of(tmp_path / kind / name, model)).scores
    np.testing.assert_array_equal(scores["fold", "before"][0], scores["fold", "after"][0])
    for kind, moved in (("fold", slice(1, None)), ("speaker", 0)):
        assert abs(scores[kind, "before"][moved] - scores[kind, "after"][moved]).max() > 1e-6
