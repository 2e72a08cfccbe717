"""Databases as they are read and refused, folds that never mix speakers, and the counting of answers.

python -m pytest tests/test_protocols.py
"""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import protocols
from benchmarks import synthetic
from protocols import DatabaseError, UsageError, make_folds, open_database, select_folds

PROJECT = Path(__file__).resolve().parents[1]
LAYOUTS = {"iemocap": "iemocap", "casia": "casia", "abc": "abc", "emodb": "emodb", "ravdess": "ravdess",
           "synthetic": "manifest"}  # fmt: skip
EMOTIONS = {  # label on disk -> class, where they differ
    "iemocap": dict(ang="angry", hap="happy", neu="neutral", sad="sad"),
    "abc": dict(aggressiv="aggressive", intoxicate="intoxicated"),
    "emodb": dict(W="anger", L="boredom", E="disgust", A="fear", F="happiness", T="sadness", N="neutral"),
}
ROWS = ("a.wav,sad,S1", "b.wav,happy,S1", "c.wav,sad,S2", "d.wav,happy,S2")


def touch(root, *paths):
    for folder in {(root / path).parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        (root / path).touch()


def write_full(layout, root):
    """A corpus of the published size: its label files and empty recordings."""
    plan = synthetic.plan_corpus(layout, "full", 0)
    for path, data in synthetic.annotations(layout, plan).items():
        touch(root, path)
        (root / path).write_bytes(data)
    if layout in ("casia", "emodb", "ravdess"):  # labels are in the names
        touch(root, *(utterance.path for utterance in plan))
    return plan


def own(folder, *rows, header="path,emotion,speaker", name="own.csv"):
    """The path, as --db takes it, of a manifest written into a folder."""
    (folder / name).write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return str(folder / name)


def by_id(database):
    """{id: (path, emotion, speaker, session)}."""
    emotions = [database.classes[label] for label in database.labels]
    columns = zip(database.paths, emotions, database.speakers.tolist(), database.sessions.tolist())
    return dict(zip(database.ids, columns, strict=True))


def refusal(kind, function, *arguments):
    """The one line with which a call is refused."""
    with pytest.raises(kind) as caught:
        function(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Each database small: {name: (database, plan)}. Its recordings are empty: labels are read without them."""
    read = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "write_utterance", lambda utterance, root, seed: touch(root, utterance.path))
        for name, layout in LAYOUTS.items():
            root = tmp_path_factory.mktemp("small") / name
            count = synthetic.write_corpus(layout, root)
            read[name] = open_database(name, root, partial=True), synthetic.plan_corpus(layout)
            assert len(read[name][0].ids) == count
    return read


@pytest.fixture(scope="module")
def casia(tmp_path_factory):
    """The root of a full CASIA, to be left as it was."""
    root = tmp_path_factory.mktemp("full")
    write_full("casia", root)
    return root


# --------------------------------------------------------------------------------------- databases


@pytest.mark.parametrize("name", LAYOUTS)
def test_small_corpora_are_read_as_planned(small, name):
    database, plan = small[name]
    expected = {}
    for u in plan:
        path = Path(u.path)
        key = {"casia": str(path.with_suffix("")), "abc": u.path, "synthetic": u.path}.get(name, path.stem)
        session = u.speaker[0] if name == "iemocap" else ""
        if u.usable:
            expected[key] = (u.path, EMOTIONS.get(name, {}).get(u.label, u.label), u.speaker, session)
    assert by_id(database) == expected
    assert database.classes == tuple(protocols.DATABASES[name].classes)
    assert database.counts() == Counter(emotion for _, emotion, _, _ in expected.values())
    assert database.partial == (name != "synthetic") and database.labels.dtype == np.int64


@pytest.mark.parametrize("name", ["iemocap", "casia", "abc", "emodb", "ravdess"])
def test_full_corpora_pass_the_published_counts(name, tmp_path):
    plan = write_full(name, tmp_path)
    database = open_database(name, tmp_path)
    assert not database.partial and len(database.ids) == sum(u.usable for u in plan)
    assert len(make_folds(database)) == len({u.speaker for u in plan})


def test_iemocap_by_hand(tmp_path):
    text = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n"
    turns = {  # dialogue -> its turns
        "Ses03M_impro05a": ("F000\tneu", "M000\tang", "M001\txxx", "M002\texc", "M003\tsad"),
        "Ses03F_script01_1": ("F000\tneu",),
    }
    folder = tmp_path / "Session3/dialog/EmoEvaluation"
    folder.mkdir(parents=True)
    for dialogue, lines in turns.items():
        heads = (f"\n[6.2901 - 8.2357]\t{dialogue}_{line}\t[2.5000, 2.5000, 2.5000]\n" for line in lines)
        rated = (f"{head}C-E2:\tAnger;\t()\nA-F1:\tval 2; act 3; dom  2;\t()\n" for head in heads)
        (folder / f"{dialogue}.txt").write_text(text + "".join(rated))
    (folder / "._Ses03M_impro05a.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    wav = "Session3/sentences/wav/Ses03M_impro05a/Ses03M_impro05a"
    assert by_id(open_database("iemocap", tmp_path, partial=True)) == {  # the letter in Ses03M is no speaker
        "Ses03M_impro05a_F000": (f"{wav}_F000.wav", "neutral", "3F", "3"),
        "Ses03M_impro05a_M000": (f"{wav}_M000.wav", "angry", "3M", "3"),
        "Ses03M_impro05a_M003": (f"{wav}_M003.wav", "sad", "3M", "3"),
    }


@pytest.mark.parametrize("session, line", [
    (1, "[6.29 - 8.23] Ses01F_impro01_F000"), (1, "[6.29 - 8.23]\tSes01F_impro02_F000\tneu\t[2, 2, 2]"),
    (1, "[6.29 - 8.23]\tSes01F_impro01_X000\tneu\t[2, 2, 2]"),
    (2, "[6.29 - 8.23]\tSes01F_impro01_F000\tneu\t[2, 2, 2]"),
])  # fmt: skip
def test_lines_that_do_not_belong_to_an_iemocap_dialogue_are_refused(session, line, tmp_path):
    touch(tmp_path, labels := f"Session{session}/dialog/EmoEvaluation/Ses01F_impro01.txt")
    (tmp_path / labels).write_text(f"\n{line}\n")
    assert "Ses01F_impro01.txt, line 2" in refusal(DatabaseError, open_database, "iemocap", tmp_path, True)


@pytest.mark.parametrize("name, kept, passed_over", [
    ("casia", ("wangzhe/sad/201.wav", "wangzhe/fear/202.FLAC"), ("wangzhe/sad/._201.wav", "wangzhe/sad/notes.txt")),
    ("ravdess", ("Actor_01/03-01-05-01-01-01-01.wav", "Actor_02/03-01-01-01-01-01-02.wav"),
     ("Actor_01/03-02-05-01-01-01-01.wav", "Actor_01/01-01-05-01-01-01-01.wav")),
])  # fmt: skip
def test_only_recordings_of_speech_are_read(name, kept, passed_over, tmp_path):
    touch(tmp_path, *kept, *passed_over)
    assert set(open_database(name, tmp_path, partial=True).paths) == set(kept)


@pytest.mark.parametrize("name, paths, words", [
    ("casia", ("wangzhe/sad/201.wav", "wangzhe/joy/201.wav"), ("wangzhe/joy/201.wav", "joy")),
    ("casia", ("wangzhe/sad/201.wav", "Wangzhe/sad/202.wav"), ("wangzhe", "Wangzhe")),
    ("casia", ("wangzhe/sad/201.wav", "wangzhe/sad/201.flac"), ("wangzhe/sad/201", "2 times")),
    ("casia", ("wangzhe/sad/201.wav", "liuchanhg/sad/201.wav"), ("sad",)),
    ("casia", (), ("casia", "<speaker>/<emotion>")),
    ("casia", ("wav/03a01Fa.wav",), ("casia", "<speaker>/<emotion>")),
    ("iemocap", ("wav/03a01Fa.wav",), ("iemocap",)),
    ("emodb", ("wav/03a01Xa.wav",), ("03a01Xa.wav",)),
    ("ravdess", ("Actor_01/03-01-09-01-01-01-01.wav",), ("03-01-09-01-01-01-01.wav",)),
    ("ravdess", ("Actor_01/03-01-05-01-01-01-02.wav",), ("Actor_01/03-01-05-01-01-01-02.wav",)),
    ("abc", (), ("abc.csv",)),
])  # fmt: skip
def test_a_wrong_layout_is_refused_even_as_partial(name, paths, words, tmp_path):
    touch(tmp_path, *paths)
    line = refusal(DatabaseError, open_database, name, tmp_path, True)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("moves, faults", [
    ({"wangzhe/sad/201.wav": "away/1/2/1.wav", "wangzhe/angry/201.wav": "away/1/2/2.wav",
      "liuchanhg/angry/202.wav": "away/1/2/3.wav"},
     {"angry 198 of 200", "sad 199 of 200", "speaker wangzhe 298 of 300", "speaker liuchanhg 299 of 300"}),
    ({"wangzhe/sad/201.wav": "liuchanhg/sad/301.wav"},
     {"speaker wangzhe 299 of 300", "speaker liuchanhg 301 of 300"}),
    ({"wangzhe": "away/wangzhe"},
     {"speakers 3 of 4", *(f"{emotion} 150 of 200" for emotion in protocols.DATABASES["casia"].classes)}),
])  # fmt: skip
def test_counts_are_compared_class_by_class_and_speaker_by_speaker(moves, faults, casia, request):
    for source, target in moves.items():
        (casia / target).parent.mkdir(parents=True, exist_ok=True)
        (casia / source).rename(casia / target)
        request.addfinalizer(lambda source=source, target=target: (casia / target).rename(casia / source))
    line = refusal(DatabaseError, open_database, "casia", casia)
    name, found, remedy = line.replace(": found ", "; restore", 1).split("; restore")
    assert name == "casia" and set(found.split("; ")) == faults and "--partial" in remedy
    assert open_database("casia", casia, partial=True).partial


# --------------------------------------------------------------------------------------- manifests


def test_a_manifest_may_come_from_a_spreadsheet(tmp_path):
    rows = '"Jürgen, A.",ä.wav,Ärger,x', "", ' Zoë ,"wav/a, ""b"".wav", Freude ,"y, z"'
    text = "\r\n".join(("speaker,path,emotion,note", *rows))
    (tmp_path / "own.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert by_id(open_database(str(tmp_path / "own.csv"))) == {
        "ä.wav": ("ä.wav", "Ärger", "Jürgen, A.", ""),
        'wav/a, "b".wav': ('wav/a, "b".wav', "Freude", "Zoë", ""),
    }


@pytest.mark.parametrize("header, rows, words", [
    ("path,emotion,speaker", (",sad,S1",), ("own.csv, line 2", "empty")),
    ("path,emotion,speaker", ("a.wav,sad,S1", "b.wav, ,S1"), ("own.csv, line 3", "empty")),
    ("path,emotion,speaker", ("a.wav,sad",), ("own.csv, line 2", "empty")),
    ("path,emotion,speaker", ("a,b.wav,sad,S1",), ("own.csv, line 2",)),
    ("path,emotion,speaker", ('a.wav,sad,"S1', "b.wav,happy,S2"), ("own.csv", "line")),
    ("path,label,speaker", ("a.wav,sad,S1",), ("own.csv", "emotion")),
    ("path;emotion;speaker", ("a.wav;sad;S1",), ("own.csv", "emotion, path, speaker")),
    ("path,emotion,speaker", (), ("own", "path, emotion, speaker")),
    ("path,emotion,speaker", ("../a.wav,sad,S1",), ("own.csv, line 2", "../a.wav")),
    ("path,emotion,speaker", ("wav/../../a.wav,sad,S1",), ("own.csv, line 2", "wav/../../a.wav")),
    ("path,emotion,speaker", ("/etc/a.wav,sad,S1",), ("own.csv, line 2", "/etc/a.wav")),
    ("path,emotion,speaker", ("ROOT/a.wav,sad,S1",), ("own.csv, line 2", "root/a.wav")),
    ("path,emotion,speaker", ("a.wav,sad,S1", "link/a.wav,sad,S2"), ("own.csv, line 3", "link/a.wav")),
    ("path,emotion,speaker", ("a.wav,sad,S1", "a.wav,happy,S2"), ("a.wav", "2 times")),
    ("path,emotion,speaker", ("a.wav,sad,S1", "x/.././a.wav,happy,S2"), ("a.wav", "2 times")),
    ("path,emotion,speaker", ("a.wav,sad,anna", "b.wav,happy,Anna"), ("anna", "Anna")),
    ("path,emotion,speaker", ("a.wav,sad,S1", "b.wav,Sad,S2"), ("sad", "Sad")),
    ("path,emotion,speaker", ("a.wav,sad,J\u00fcrgen", "b.wav,happy,Ju\u0308rgen"), ("J\u00fcrgen",)),
    ("path,emotion,speaker,session", ("a.wav,sad,S1,one", "b.wav,happy,S2,One"), ("one", "One")),
    ("path,emotion,speaker", ("a.wav,sad,S1", "b.wav,sad,S2"), ("sad",)),
])  # fmt: skip
def test_a_faulty_manifest_is_refused_by_line_or_name(header, rows, words, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    rows = (row.replace("ROOT", str(root)) for row in rows)
    line = refusal(DatabaseError, open_database, own(tmp_path, *rows, header=header), root)
    assert all(word in line for word in words), line


@pytest.mark.parametrize("content", ["path,emotion,speaker\na.wav,sad,Jürgen\n".encode("latin-1"), None])
def test_a_manifest_that_is_missing_or_not_utf8_is_named(content, tmp_path):
    if content:
        (tmp_path / "own.csv").write_bytes(content)
    assert "own.csv" in refusal(DatabaseError, open_database, str(tmp_path / "own.csv"))


def test_a_root_may_be_a_link(tmp_path):
    touch(tmp_path, "real/a.wav")
    (tmp_path / "link").symlink_to("real")
    assert len(open_database(own(tmp_path, *ROWS), tmp_path / "link").ids) == 4


@pytest.mark.parametrize("db, root, words", [
    ("timit", ".", ("timit", "casia")), ("folder/casia.csv", ".", ("folder/casia.csv",)),
    ("casia", "absent", ("absent", "--root")), ("casia", "file", ("file", "--root")),
])  # fmt: skip
def test_impossible_names_and_roots_are_refused(db, root, words, tmp_path):
    touch(tmp_path, "file")
    line = refusal(UsageError, open_database, db, tmp_path / root)
    assert all(word in line for word in words), line


def test_the_default_root_is_a_folder_of_the_database_or_beside_the_manifest(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_DATA", str(tmp_path))
    touch(tmp_path, "casia/wangzhe/sad/201.wav", "casia/wangzhe/fear/201.wav")
    assert open_database("casia", partial=True).root == tmp_path / "casia"
    assert open_database(own(tmp_path, *ROWS)).root == tmp_path


@pytest.mark.parametrize("row, same", [(ROWS[3], True), ("e.wav,happy,S2", False), ("d.wav,sad,S2", False),
                                       ("d.wav,happy,S1", False)])  # fmt: skip
def test_the_digest_tells_corpora_apart(row, same, tmp_path):
    touch(tmp_path, "elsewhere/a.wav")
    first = open_database(own(tmp_path, *ROWS))
    second = open_database(own(tmp_path / "elsewhere", *ROWS[:3], row))
    assert (first.digest == second.digest) == same


# ------------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize("name, protocol", [*((name, "speaker") for name in LAYOUTS), ("iemocap", "session")])
def test_folds_test_everyone_once_and_never_train_on_the_tested(small, name, protocol):
    database = small[name][0]
    folds, everyone = make_folds(database, protocol), np.arange(len(database.ids))
    groups = database.speakers if protocol == "speaker" else database.sessions
    assert [fold.number for fold in folds] == list(range(1, len(folds) + 1))
    assert [fold.name for fold in folds] == sorted(set(groups.tolist()))
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), everyone)
    for fold in folds:
        assert np.array_equal(np.sort(np.concatenate([fold.train, fold.test])), everyone)
        assert set(groups[fold.test]) == {fold.name}
        assert not set(database.speakers[fold.train]) & set(database.speakers[fold.test])


def test_sessions_of_iemocap_hold_both_their_speakers(small):
    database = small["iemocap"][0]
    tested = {fold.name: set(database.speakers[fold.test].tolist()) for fold in make_folds(database, "session")}
    assert tested == {session: {session + "F", session + "M"} for session in "12345"}


@pytest.mark.parametrize("sessions, protocol, words", [
    (("", "", "", ""), "session", ("own", "session")), (("1", "1", "", ""), "session", ("own", "session")),
    (("1", "2", "2", "2"), "session", ("own", "speaker S1")), (("1", "1", "1", "1"), "session", ("own", "session")),
])  # fmt: skip
def test_impossible_protocols_are_refused(sessions, protocol, words, tmp_path):
    rows = (f"{row},{session}" for row, session in zip(ROWS, sessions))
    database = open_database(own(tmp_path, *rows, header="path,emotion,speaker,session"))
    line = refusal(UsageError, make_folds, database, protocol)
    assert all(word in line for word in words), line
    assert len(make_folds(database, "speaker")) == 2


def test_one_speaker_alone_is_refused(tmp_path):
    assert "speaker" in refusal(UsageError, make_folds, open_database(own(tmp_path, *ROWS[:2])))


def speakers(folder, *names):
    return open_database(own(folder, *(f"{i}.wav,{'sad' if i % 2 else 'happy'},{n}" for i, n in enumerate(names))))


@pytest.mark.parametrize("ordered", [("1", "2", "10"), ("S2b", "S2c", "S10a"), ("9", "10", "Anna", "Bo"),
                                     tuple(f"{zero}{n}" for n in range(1, 10) for zero in ("0", ""))])  # fmt: skip
def test_speakers_are_in_natural_order_whatever_the_order_of_the_files(ordered, tmp_path):
    for names in (ordered, ordered[::-1]):
        assert tuple(fold.name for fold in make_folds(speakers(tmp_path, *names))) == ordered


@pytest.mark.parametrize("wish, names", [("all", ["2", "3", "10"]), ("1", ["2"]), ("2", ["3"]), ("3", ["10"]),
                                         ("10", ["10"])])  # fmt: skip
def test_a_fold_is_chosen_by_number_then_by_name(wish, names, tmp_path):
    folds = make_folds(speakers(tmp_path, "10", "2", "3"))
    assert [fold.name for fold in select_folds(folds, wish)] == names


@pytest.mark.parametrize("wish", ["0", "4", "-1", "", "S", "ALL"])
def test_an_unknown_fold_is_refused_with_the_choice(wish, tmp_path):
    line = refusal(UsageError, select_folds, make_folds(speakers(tmp_path, "S10", "S2", "S3")), wish)
    assert f"--fold {wish}" in line and "1 to 3" in line and "S2, S3, S10" in line


# ----------------------------------------------------------------------------------------- metrics


def test_utterance_scores_against_a_loop():
    rng = np.random.default_rng(0)
    counts = np.array([1, 3, 2, 1, 7])
    posteriors = rng.dirichlet(np.ones(4), counts.sum()).astype(np.float32)
    slow, segments = [], iter(posteriors.astype(np.float64))
    for count in counts:
        slow.append(sum(next(segments) for _ in range(count)) / count)
    np.testing.assert_allclose(protocols.utterance_scores(posteriors, counts), slow, rtol=1e-6)


def test_an_utterance_is_decided_by_the_mean_not_by_votes():
    posteriors = np.array([[0.4, 0.6], [0.4, 0.6], [0.9, 0.1], [0.2, 0.8]])
    scores = protocols.utterance_scores(posteriors, np.array([3, 1]))
    assert scores.argmax(1).tolist() == [0, 1]


def test_a_majority_counts_votes_and_the_mean_posterior_breaks_ties():
    posteriors = np.array(
        [[0.4, 0.6], [0.4, 0.6], [0.9, 0.1],  # two votes against a higher mean
         [0.6, 0.4], [0.1, 0.9],  # a tie, decided by the mean
         [0.3, 0.7]],
        np.float32,
    )  # fmt: skip
    scores = protocols.utterance_scores(posteriors, np.array([3, 2, 1]), "majority")
    by_hand = [
        [(1 + 1.7 / 6) / 3.5, (2 + 1.3 / 6) / 3.5],
        [(1 + 0.7 / 4) / 2.5, (1 + 1.3 / 4) / 2.5],
        [0.15 / 1.5, 1.35 / 1.5],
    ]
    np.testing.assert_allclose(scores, by_hand, rtol=1e-6)
    assert scores.dtype == np.float32 and scores.argmax(1).tolist() == [1, 1, 1]
    lone = np.array([[1.0, 0.0]] * 49 + [[0.499, 0.501]] * 50, np.float32)  # one vote more, the least mean
    assert protocols.utterance_scores(lone, np.array([99]), "majority").argmax() == 1


@pytest.mark.parametrize("counts", [[2, 0, 2], [2, 1], [2, 3], [0, 4]])
def test_every_utterance_has_segments_and_every_segment_an_utterance(counts):
    refusal(ValueError, protocols.utterance_scores, np.full((4, 2), 0.5), np.array(counts))


LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 0, 1, 1])
CHOSEN = np.array([0, 0, 1, 2, 1, 0, 2, 0, 1, 1])


def test_confusion_war_and_uar_by_hand():
    matrix = protocols.confusion(LABELS, np.eye(3)[CHOSEN])
    assert matrix.tolist() == [[3, 1, 1], [1, 3, 0], [0, 0, 1]]  # rows true, columns chosen
    assert protocols.war(matrix) == pytest.approx(7 / 10)
    assert protocols.uar(matrix) == pytest.approx((3 / 5 + 3 / 4 + 1) / 3)


def test_pooled_war_is_not_the_mean_of_the_folds():
    parts = slice(None, 6), slice(6, None)  # 3 of 6 and 4 of 4
    folds = [protocols.confusion(LABELS[part], np.eye(3)[CHOSEN[part]]) for part in parts]
    assert np.mean([protocols.war(fold) for fold in folds]) == pytest.approx(0.75)
    assert protocols.war(sum(folds)) == pytest.approx(0.7)


def test_uar_passes_over_absent_classes_and_counts_missed_ones():
    assert protocols.uar(np.array([[1, 1, 0], [0, 0, 0], [0, 0, 4]])) == pytest.approx(0.75)
    assert protocols.uar(np.array([[4, 0, 0], [2, 0, 0], [0, 0, 4]])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("db, war, uar", [("iemocap", 74.43, 62.90), ("casia", 53.17, 53.17)])
def test_the_published_confusions_of_tft_agree_with_its_published_rates(db, war, uar):
    """TFT Fig. 2, with two digits of each rate."""
    classes = protocols.DATABASES[db].classes
    with open(PROJECT / "benchmarks" / "published-confusion.csv", newline="") as file:
        rows = {row["emotion"]: row for row in csv.DictReader(file) if (row["database"], row["model"]) == (db, "tft")}
    assert list(rows) == list(classes)
    rates = np.array([[float(rows[true][said]) for said in classes] for true in classes])
    matrix = rates * np.array(list(classes.values()))[:, None]
    assert np.abs(rates.sum(1) - 1).max() < 0.011
    assert 100 * protocols.war(matrix) == pytest.approx(war, abs=0.5)
    assert 100 * protocols.uar(matrix) == pytest.approx(uar, abs=0.5)


def test_the_published_figures_of_tft_on_iemocap_are_pooled_hits():
    hits, totals = np.array([182, 47, 944, 524]), np.array([289, 284, 1099, 608])  # the recalls of TFT Fig. 2(a)
    matrix = np.diag(hits)
    matrix[range(4), (1, 2, 3, 0)] = totals - hits  # wherever the misses went
    assert f"{100 * protocols.war(matrix):.2f} {100 * protocols.uar(matrix):.2f}" == "74.43 62.90"
