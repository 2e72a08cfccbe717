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


@pytest.fixture(scope="module")
def database(corpus):
    return protocols.open_database(str(corpus / "small.csv"))


@pytest.fixture
def run(corpus, tmp_path, capsys):
    """Exit code, output and errors of train.py with lda-centroid, into tmp_path/runs."""

    def call(*more):
        options = ["--db", corpus / "small.csv", "--runs", tmp_path / "runs", "--device", "cpu"]
        return command(train.main, *options, "--model", "lda-centroid", *more), *capsys.readouterr()

    return call


def write_csv(path, names, rows, separator=","):
    lines = [separator.join([name, *map(repr, map(float, row))]) for name, row in zip(names, rows)]
    path.write_text("\n".join([f"name{separator}a{separator}b", *lines]))


def test_vectors_of_parts_go_by_the_names_of_the_parts(corpus, database, tmp_path):
    lines = [
        f"{line},{start},0.25" for line in (corpus / "small.csv").read_text().splitlines()[1:] for start in (0, 0.1)
    ]
    (tmp_path / "small.csv").write_text("\n".join(["path,emotion,speaker,start,end", *lines]))
    parts = protocols.open_database(str(tmp_path / "small.csv"), corpus)
    rows = np.arange(48 * 3).reshape(48, 3)
    np.savez(tmp_path / "x.npz", **dict(zip(parts.ids[::-1], rows[::-1])))
    loaded = vectors.load(parts, tmp_path / "x.npz")
    front_end = features.FRONT_ENDS["tft"]  # a network and vectors on the same parts can be compared
    assert loaded.digest == features.load(corpus, parts.recordings, front_end).digest
    np.testing.assert_array_equal(loaded.segments, rows)
    assert loaded.seconds.tolist() == pytest.approx([0.25, 0.15] * 24)
    np.savez(tmp_path / "x.npz", **dict(zip(parts.paths, rows)))  # a file holds several
    with pytest.raises(protocols.DatabaseError, match="has no vector of 48 of 48 utterances"):
        vectors.load(parts, tmp_path / "x.npz")


def test_all_forms_of_a_file_give_the_same_rows(database, tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(24, 4)).astype(np.float32)
    order, paths = np.random.default_rng(1).permutation(24), database.paths
    for form in ("{}", "./{}", str(database.root / "{}"), str(database.root.resolve() / "{}")):
        for ending in ("", ".wav"):
            names = [form.format(paths[i]).removesuffix(ending) for i in order]
            np.savez(tmp_path / "1.npz", names=names, x=rows[order])
            np.savez(tmp_path / "2.npz", x=rows[order].astype(float), i=np.array(names).astype(bytes), k=np.arange(24))
            np.savez(tmp_path / "3.npz", **dict(zip(names, rows[order])))
            for number, separator in enumerate(",;\t"):
                write_csv(tmp_path / f"{number}.csv", names, rows[order], separator)
            for path in [*tmp_path.glob("*.npz"), *tmp_path.glob("*.csv")]:
                np.testing.assert_array_equal(vectors.load(database, path).segments, rows)
    assert capsys.readouterr().out == ""
    write_csv(tmp_path / "more.csv", [*paths, "wav/S9/sad_01.wav", "sad_01"], [*rows, rows[0], rows[0]])
    vectors.load(database, tmp_path / "more.csv")
    assert "more.csv: 2 vectors of no utterance are not used, such as wav/S9/sad_01.wav" in capsys.readouterr().out


def test_a_name_of_two_utterances_is_of_neither(database):
    names = ["x.wav", "x.flac", "y.v1.wav"]
    nobody = np.array(["", "", ""])
    pair = protocols.Database("pair", database.root, "", ("a",), names, names, np.zeros(3, int), nobody, nobody, False)
    found = vectors.index_of_names(pair)
    assert found["x"] is None and (found["x.wav"], found["x.flac"], found["y.v1"]) == (0, 1, 2) and "y" not in found


def with_row(row):
    """Vectors of all utterances, another one for the fourth."""
    return lambda ids: dict.fromkeys(ids, np.ones(4)) | {ids[3]: np.array(row)}


SPOILED = [  # file, its content for the ids of the utterances, part of the line
    (
        "x.npz",
        lambda ids: dict.fromkeys(ids[2:], np.ones(4)),
        "no vector of 2 of 24 utterances, such as wav/S1/angry_01",
    ),
    ("x.npz", with_row(np.ones(5)), "happy_02.wav has 5 numbers, wav/S1/angry_01.wav has 4"),
    ("x.npz", with_row([1, 2, np.nan, 4]), "the vector of wav/S1/happy_02.wav is not finite"),
    ("x.npz", with_row([1, 2, 1e300, 4]), "the vector of wav/S1/happy_02.wav is not finite"),  # in float32
    ("x.npz", with_row(np.ones((2, 4))), "happy_02.wav is no vector of numbers, but of shape (2, 4)"),
    ("x.npz", with_row(["a"] * 4), "wav/S1/happy_02.wav is no vector of numbers"),
    ("x.npz", lambda ids: dict(names=ids, x=np.ones((24, 0))), "no vector of numbers, but of shape (0,)"),
    ("x.npz", lambda ids: dict(names=ids, x=np.ones((23, 4))), "24 names for 23 vectors"),
    ("x.npz", lambda ids: dict(names=np.array([{}])), "cannot be used (Object arrays"),
    ("x.npz", b"\x93NUMPY\x01\0 an .npy file", "cannot be used ("),
    ("x.npz", b"PK\3\4 damaged", "cannot be used ("),
    ("x.npz", None, "no such file; name one that is there"),
    ("x.csv", b"", "no line with the names of its columns"),
    ("x.csv", b"wav/S1/sad_01.wav,1.5,2\n", "line 1 holds numbers, not the names of its columns"),
    ("x.csv", b"id,a,label\nS1/sad.wav,1.5,angry\n", "line 2, column label: 'angry' is no number"),
    ("x.csv", b"id,a\nS1/sad.wav,1.5,angry\n", "line 2, column : 'angry' is no number"),
    ("x.csv", b"id,a,b\nS1/sad.wav,1.5,\n", "line 2, column b: '' is no number"),
    ("x.csv", b"id,a\nwav/S1/sad_01.wav,1\nwav/S1/sad_01,1\n", "has two vectors of wav/S1/sad_01.wav; keep one"),
    ("x.csv", b"id,a\n\xff\xfe,1\n", "cannot be used ("),
    ("x.txt", b"id,a\n", "name a .npz or .csv file"),
]


@pytest.mark.parametrize("name, content, expected", SPOILED)
def test_a_spoiled_file_ends_in_a_line_and_nothing_is_written(name, content, expected, database, run, tmp_path):
    if callable(content):
        np.savez(tmp_path / name, **content(database.ids))
    elif content is not None:
        (tmp_path / name).write_bytes(content)
    code, _, error = run("--features", tmp_path / name)
    assert code in (2, 3) and error.count("\n") == 1 and name in error and expected in error, error
    assert not (tmp_path / "runs").exists()


def test_a_file_of_vectors_is_part_of_the_run_and_stands_for_no_published_row(database, run, tmp_path, capsys):
    path, own = tmp_path / "embeddings.npz", features.load(database.root, database.paths, DESCRIPTORS["is09"]).segments
    np.savez(path, names=database.ids, x=own)
    plain = ["--runs", tmp_path / "plain"]
    for model in ("lda-centroid", "ga-bel"):  # ga-bel has published rows
        assert f"24 rows of 384 numbers from {path}" in run("--features", path, "--model", model)[1]
        assert run("--model", model, *plain)[0] == 0
    theirs, ours = (runs.read_fold(folder_of(tmp_path / name, "lda-centroid")) for name in ("plain", "runs"))
    np.testing.assert_array_equal(theirs.scores, ours.scores)  # of the vectors that the method computes by itself
    assert ours.config.settings == theirs.config.settings | dict(features=runs.sha256_of(path)[:16])
    found = {}
    for name in ("plain", "runs"):
        options = ["--runs", tmp_path / name, "--db", "small"]
        assert command(evaluate.main, *options, "--audit") == 0
        capsys.readouterr()
        assert command(evaluate.main, *options, "--table", "comparison", "--format", "json") == 0
        found[name] = {row["model"]: row for row in json.loads(capsys.readouterr().out)}["ga-bel"]
    assert [found["plain"][name] for name in ("method", "extent")] == ["LLD+DR, ga-bel", "reading"]
    assert [found["runs"][name] for name in ("method", "extent")] == ["ga-bel", ""]
    assert found["runs"]["notes"] == ["on vectors of embeddings.npz"]
    np.savez(path, names=database.ids, x=own + 1)
    code, _, error = run("--features", path)
    assert code == 2 and error.count("\n") == 1 and "holds a run with other features; choose another --runs" in error
    for model in ("tft", "lld-gmm"):
        assert f"--features: {model} uses no utterance vectors" in run("--features", path, "--model", model)[2]


@pytest.mark.parametrize("model", ["lda-centroid", "lld-svm"])
def test_scores_do_not_move_when_other_recordings_of_the_tested_speaker_change(model, database, run, tmp_path):
    before, scores = np.random.default_rng(0).normal(size=(24, 3)), {}
    after = before.copy()
    after[np.flatnonzero(database.speakers == "S2")[1:]] += 1
    for kind in ("fold", "speaker"):
        for name, rows in (("before", before), ("after", after)):
            np.savez(tmp_path / "x.npz", names=database.ids, x=rows)
            more = ["--model", model, "--normalization", kind, "--runs", tmp_path / kind / name, "--fold", "S2"]
            assert run("--features", tmp_path / "x.npz", *more)[0] == 0
            scores[kind, name] = runs.read_fold(folder_of(tmp_path / kind / name, model)).scores
    np.testing.assert_array_equal(scores["fold", "before"][0], scores["fold", "after"][0])
    for kind, moved in (("fold", slice(1, None)), ("speaker", 0)):
        assert abs(scores[kind, "before"][moved] - scores[kind, "after"][moved]).max() > 1e-6
