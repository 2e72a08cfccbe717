"""Databases as they are read and refused, folds that never mix speakers, metrics by hand and as published.

python -m pytest tests/test_protocols.py
"""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import protocols
from protocols import DatabaseError, UsageError, make_folds, open_database, select_folds, split_validation_speakers

ROWS = ("path,emotion,speaker", "a.wav,sad,S1", "b.wav,happy,S1", "c.wav,sad,S2", "d.wav,happy,S2")


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write(path, lines):
    """Write a file; its path, as --db takes that of a manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def database_of(folder, speakers, sessions=None):
    """A database with an utterance for each entry of `speakers`."""
    rows = (f"{i}.wav,{'ab'[i % 2]},{name},{(sessions or speakers)[i]}" for i, name in enumerate(speakers))
    return open_database(write(folder / "own.csv", ("path,emotion,speaker,session", *rows)))


def by_id(database):
    """{id: (path, emotion, speaker, session)}."""
    emotions = np.array(database.classes)[database.labels].tolist()
    rows = zip(database.paths, emotions, database.speakers.tolist(), database.sessions.tolist(), strict=True)
    return dict(zip(database.ids, rows, strict=True))


def refusal(kind, function, *arguments, words=()):
    """Assert that a call is refused in a line that holds the words; that line."""
    with pytest.raises(kind) as caught:
        function(*arguments)
    assert len(str(caught.value).splitlines()) == 1 and caught.value.exit_code == (2 if kind is UsageError else 3)
    assert all(word in str(caught.value) for word in words), caught.value
    return str(caught.value)


# --------------------------------------------------------------------------------------- databases


def iemocap_lines(*turns):
    """An evaluation file of IEMOCAP: a header, a line for each turn "name<tab>label", lines of its raters."""
    rated = "\nC-E2:\tAnger;\t()\nA-F1:\tval 2; act 3; dom  2;\t()\n"
    return ["% [START - END] TURN EMOTION [V, A, D]"] + [f"\n[6.29 - 8.2]\t{t}\t[2.5, 2.5, 2.5]{rated}" for t in turns]


def test_iemocap_is_read_from_its_evaluation_files(tmp_path):
    folder, name = tmp_path / "Session3/dialog/EmoEvaluation", "Ses03M_impro05a"
    turns = ("F000\tneu", "M000\tang", "M001\txxx", "M002\texc", "M003\tsad")
    write(folder / f"{name}.txt", iemocap_lines(*(f"{name}_{turn}" for turn in turns)))
    write(folder / "Ses03F_script01_1.txt", iemocap_lines("Ses03F_script01_1_F000\tneu"))
    (folder / f"._{name}.txt").write_bytes(b"\x00\x05\x16\x07\xff")
    wav = f"Session3/sentences/wav/{name}/{name}"
    assert by_id(open_database("iemocap", tmp_path, partial=True)) == {  # the letter in Ses03M is no speaker
        f"{name}_F000": (f"{wav}_F000.wav", "neutral", "3F", "3"),
        f"{name}_M000": (f"{wav}_M000.wav", "angry", "3M", "3"),
        f"{name}_M003": (f"{wav}_M003.wav", "sad", "3M", "3"),
    }


@pytest.mark.parametrize("name, read, ignored", [
    ("casia", {"wangzhe/sad/201.wav": ("wangzhe/sad/201", "sad", "wangzhe"),
               "wangzhe/fear/202.FLAC": ("wangzhe/fear/202", "fear", "wangzhe")},
     ("wangzhe/sad/._201.wav", "wangzhe/sad/notes.txt")),
    ("emodb", {"wav/03a01Fa.wav": ("03a01Fa", "happiness", "03"), "wav/16b10Wb.wav": ("16b10Wb", "anger", "16")}, ()),
    ("ravdess", {"Actor_01/03-01-05-01-01-01-01.wav": ("03-01-05-01-01-01-01", "angry", "Actor_01"),
                 "Actor_02/03-01-02-02-01-01-02.wav": ("03-01-02-02-01-01-02", "calm", "Actor_02")},
     ("Actor_01/03-02-05-01-01-01-01.wav", "Actor_01/01-01-05-01-01-01-01.wav")),  # song, video
    ("abc", {"x.wav": ("x.wav", "aggressive", "1"), "y.wav": ("y.wav", "intoxicated", "2")},
     ("path,emotion,speaker", "x.wav,Aggressiv,1", "y.wav,intoxicate,2")),
])  # fmt: skip
def test_other_layouts_are_read_from_names_or_a_manifest(name, read, ignored, tmp_path):
    touch(tmp_path, *read)
    write(tmp_path / "abc.csv", ignored) if name == "abc" else touch(tmp_path, *ignored)
    database = open_database(name, tmp_path, partial=True)
    assert by_id(database) == {i: (path, emotion, speaker, "") for path, (i, emotion, speaker) in read.items()}
    assert database.classes == tuple(c for c in protocols.DATABASES[name].classes if c in database.classes)  # in order
    assert database.partial and sum(database.counts().values()) == 2 and database.labels.dtype == np.int64


def test_the_counts_of_each_database_are_those_of_its_paper_and_fit_together():
    for name, utterances in dict(iemocap=2280, casia=1200, abc=430, emodb=535, ravdess=1440).items():
        corpus = protocols.DATABASES[name]
        assert sum(corpus.classes.values()) == utterances
        assert (len(corpus.speaker_sizes), sum(corpus.speaker_sizes)) in ((corpus.speakers, utterances), (0, 0))


def test_counts_are_compared_class_by_class_and_speaker_by_speaker(tmp_path, monkeypatch):
    corpus = replace(protocols.DATABASES["casia"], classes=dict(fear=4, sad=2), speakers=2, speaker_sizes=(3, 3))
    monkeypatch.setitem(protocols.DATABASES, "casia", corpus)
    touch(tmp_path, "A/sad/1.wav", "A/fear/1.wav", "B/sad/1.wav", "B/fear/1.wav", "B/fear/2.wav", "B/fear/3.wav")
    line = refusal(DatabaseError, open_database, "casia", tmp_path)
    assert line.startswith("casia: found speaker A 2 of 3; speaker B 4 of 3; restore") and "--partial" in line
    assert open_database("casia", tmp_path, partial=True).partial
    (tmp_path / "B/fear/3.wav").rename(tmp_path / "A/fear/3.wav")
    assert not open_database("casia", tmp_path).partial
    (tmp_path / "A").rename(tmp_path / ".A")
    line = refusal(DatabaseError, open_database, "casia", tmp_path)
    assert line.startswith("casia: found fear 2 of 4; sad 1 of 2; speakers 1 of 2; restore")


@pytest.mark.parametrize("session, turn", [
    (1, "Ses01F_impro01_F000"), (1, "Ses01F_impro02_F000\tneu"), (1, "Ses01F_impro01_X000\tneu"),
    (2, "Ses01F_impro01_F000\tneu")])  # fmt: skip
def test_lines_that_do_not_belong_to_an_iemocap_dialogue_are_refused(session, turn, tmp_path):
    write(tmp_path / f"Session{session}/dialog/EmoEvaluation/Ses01F_impro01.txt", iemocap_lines(turn))
    assert "Ses01F_impro01.txt, line 3: " in refusal(DatabaseError, open_database, "iemocap", tmp_path, True)


@pytest.mark.parametrize("name, paths, words", [
    ("casia", ("wangzhe/sad/201.wav", "wangzhe/joy/201.wav"), ("wangzhe/joy/201.wav", "joy")),
    ("casia", ("wangzhe/sad/201.wav", "Wangzhe/sad/202.wav"), ("wangzhe", "Wangzhe")),
    ("casia", ("wangzhe/sad/201.wav", "wangzhe/sad/201.flac"), ("wangzhe/sad/201", "2 times")),
    ("casia", (), ("casia", "<speaker>/<emotion>")),
    ("iemocap", ("wav/03a01Fa.wav",), ("iemocap", "Session1/dialog/EmoEvaluation", "Session1/sentences/wav")),
    ("emodb", ("wav/03a01Xa.wav",), ("03a01Xa.wav",)),
    ("ravdess", ("Actor_01/03-01-05-01-01-01-02.wav",), ("Actor_01/03-01-05-01-01-01-02.wav",)),
])  # fmt: skip
def test_a_wrong_layout_is_refused_even_as_partial(name, paths, words, tmp_path):
    touch(tmp_path, *paths)
    refusal(DatabaseError, open_database, name, tmp_path, True, words=words)


# --------------------------------------------------------------------------------------- manifests


def test_a_manifest_may_come_from_a_spreadsheet(tmp_path):
    rows = '"Jürgen, A.",ä.wav,Ärger,x', "", ' Zoë ,"wav/a, ""b"".wav", Freude ,"y, z"'
    (tmp_path / "own.csv").write_bytes("\r\n".join(("\ufeffspeaker,path,emotion,note", *rows)).encode())
    assert by_id(open_database(str(tmp_path / "own.csv"))) == {
        "ä.wav": ("ä.wav", "Ärger", "Jürgen, A.", ""),
        'wav/a, "b".wav': ('wav/a, "b".wav', "Freude", "Zoë", ""),
    }


@pytest.mark.parametrize("text, words", [
    ("path,emotion,speaker|a.wav,sad,S1|b.wav, ,S1", ("own.csv, line 3", "empty")),
    ("path,emotion,speaker|wav/../../a.wav,sad,S1", ("own.csv, line 2", "wav/../../a.wav", "--root")),
    ("path,emotion,speaker|/etc/a.wav,sad,S1", ("own.csv, line 2", "/etc/a.wav", "--root")),
    ("path,emotion,speaker|..\\a.wav,sad,S1", ("own.csv, line 2", "..\\a.wav", "--root")),
    ("path,emotion,speaker|a.wav,sad,S1|x/.././a.wav,happy,S2", ("a.wav", "2 times")),
    ("path,emotion,speaker|a.wav,sad,anna|b.wav,happy,Anna", ("anna", "Anna")),
    ("path,emotion,speaker|a.wav,sad,J\u00fcrgen|b.wav,happy,Ju\u0308rgen", ("J\u00fcrgen",)),
    ("path,emotion,speaker|a.wav,sad,S1|b.wav,sad,S2", ("only the class sad",)),
    ("path,emotion,speaker|a.wav,sad,S1|b.wav,utterance,S2", ("class", "utterance", "rename")),
    ("path,emotion,speaker", ("holds no utterance",)),
    ("path,emotion,speaker,start,end|a.wav,sad,S1,0,1|a.wav,happy,S1,0,1", ("a.wav#0.00-1.00", "2 times")),
    ("path,emotion,speaker,start,end|a.wav,sad,S1,1,1", ("own.csv, line 2",)),
])  # fmt: skip
def test_a_faulty_manifest_is_refused_by_line_or_name(text, words, tmp_path):
    refusal(DatabaseError, open_database, write(tmp_path / "own.csv", text.split("|")), tmp_path, words=words)


@pytest.mark.parametrize("first, second", [
    ("3", "03"), ("3", "3.0"), ("03", "3.0"), ("3", "003"), ("S3", "S03"), ("spk_3", "spk_03"), ("3F", "03F"),
    ("S 3", "S  3"),
    ("3", "\uff13"),
])  # fmt: skip
@pytest.mark.parametrize("column", ["speaker", "emotion", "session"])
def test_two_spellings_of_a_number_are_refused(first, second, column, tmp_path):
    values = dict(speaker=("S1", "S2"), emotion=("sad", "happy"), session=("x", "y")) | {column: (first, second)}
    rows = [f"{i}.wav,{','.join(row)}" for i, row in enumerate(zip(*values.values()))]
    path = write(tmp_path / "own.csv", ("path,speaker,emotion,session", *rows))
    assert f"{column} {min(first, second)} and {max(first, second)}" in refusal(DatabaseError, open_database, path)


def test_numbers_that_differ_are_speakers_of_their_own(tmp_path):
    speakers = ["3", "30", "3.1", "13", "103", "0", "10", "S3", "S30", "1.05", "1.5"]
    assert len(set(database_of(tmp_path, speakers).speakers)) == len(speakers)


# -------------------------------------------------------------------------------- paths of a manifest


def test_a_path_is_judged_as_it_is_written_and_links_are_their_owners(tmp_path):
    touch(tmp_path, "blobs/x", "root/b.wav")
    root = tmp_path / "root"
    (root / "a.wav").symlink_to("../blobs/x")
    (root / "clips").symlink_to("../blobs")
    (tmp_path / "alias").symlink_to("root")
    rows = ("a.wav", "clips/x", f"{root}/b.wav", f"{tmp_path}/alias/c.wav", "x/../d.wav", "clips\\y.wav")
    touch(tmp_path, "blobs/y.wav")
    lines = (f"{path},{'ab'[i % 2]},S{i % 2}" for i, path in enumerate(rows))
    database = open_database(write(root / "own.csv", ("path,emotion,speaker", *lines)))
    assert database.paths == ["a.wav", "clips/x", "b.wav", "c.wav", "d.wav", "clips/y.wav"]
    assert database.ids == [
        "a.wav",
        "clips/x",
        "b.wav",
        "c.wav",
        "x/../d.wav",
        "clips\\y.wav",
    ]  # absolute ones: relative


def test_folder_layouts_may_be_links(tmp_path):
    touch(tmp_path, "blobs/x", *(f"store/{emotion}/201.wav" for emotion in ("sad", "fear")), "Session1/x")
    (tmp_path / "casia").mkdir()
    (tmp_path / "casia/wangzhe").symlink_to("../store")
    touch(tmp_path, "casia/liu/sad/x.txt")
    (tmp_path / "casia/liu/sad/201.wav").symlink_to("../../../blobs/x")
    assert open_database("casia", tmp_path / "casia", True).ids == [
        "liu/sad/201",
        "wangzhe/fear/201",
        "wangzhe/sad/201",
    ]


def test_names_on_disk_are_found_however_they_are_composed_or_encoded(tmp_path):
    touch(tmp_path, "a\u0308/u\u0308.wav", os.fsdecode(b"\xcd\xf5\xd5\xdc/1.wav"))
    rows = ("\u00e4/\u00fc.wav,sad,S1", "\u738b\u54f2/1.wav,happy,S2", "gone.wav,sad,S2")
    database = open_database(write(tmp_path / "own.csv", ("path,emotion,speaker", *rows)))
    assert database.paths == ["a\u0308/u\u0308.wav", os.fsdecode(b"\xcd\xf5\xd5\xdc/1.wav"), "gone.wav"]
    assert database.ids == ["\u00e4/\u00fc.wav", "\u738b\u54f2/1.wav", "gone.wav"]


def test_names_of_folders_that_are_no_utf8_become_text(tmp_path):
    touch(tmp_path, *(os.fsdecode(speaker) + f"/{emotion}/201.wav" for speaker in (b"\xcd\xf5", b"\xc1\xf5")
                      for emotion in ("sad", "fear")))  # fmt: skip
    database = open_database("casia", tmp_path, partial=True)
    assert set(database.speakers) == {"\\xcd\\xf5", "\\xc1\\xf5"} and "\\xcd\\xf5/sad/201" in database.ids
    assert os.fsdecode(b"\xcd\xf5/sad/201.wav") in database.paths
    assert all(text.isascii() for text in database.ids) and len(database.digest) == 64


# ----------------------------------------------------------------------------- parts of recordings


def test_a_part_is_an_utterance_with_times_and_a_name_of_its_own(tmp_path):
    rows = ("a.wav,sad,S1,0,1.5", "a.wav,happy,S1,1.5,", "a.wav,sad,S1,0.125,1", "b.wav,sad,S2,,")
    path = write(tmp_path / "own.csv", ("path,emotion,speaker,start,end", *rows))
    database = open_database(path)
    assert database.ids == ["a.wav#0.00-1.50", "a.wav#1.50-end", "a.wav#0.125-1.00", "b.wav"]
    parts = [("a.wav", 0, 1.5), ("a.wav", 1.5, np.inf), ("a.wav", 0.125, 1), ("b.wav", 0, np.inf)]
    assert database.recordings == parts and database.paths == ["a.wav"] * 3 + ["b.wav"]
    moved = [row.replace("1.5,", "1.4,") for row in rows]
    other = open_database(write(tmp_path / "own.csv", ("path,emotion,speaker,start,end", *moved)))
    assert other.digest != database.digest
    whole = open_database(write(tmp_path / "own.csv", ROWS))
    assert whole.starts is whole.ends is None and whole.recordings == whole.paths


def parts_of(folder, *rows):
    """A database of parts "file speaker start end"."""
    lines = (f"{path}.wav,{'ab'[i % 2]},{speaker},{start},{end}" for i, (path, speaker, start, end) in
             enumerate(row.split(" ") for row in rows))  # fmt: skip
    return open_database(write(folder / "own.csv", ("path,emotion,speaker,start,end", *lines)))


def test_speakers_that_share_most_of_a_part_are_refused_and_less_is_noted(tmp_path):
    for rows, shared in ((("x A 0 1", "x B 0.4 1.4"), "0.60 s"), (("x A 0 9", "x B 1 2"), "1.00 s"),
                         (("x A  ", "x B 1 2"), "1.00 s"), (("x A 3 4", "x C 7 8", "x B 3 "), "1.00 s"),
                         (("x A 0 5", "x A 1 5", "x B 4.5 5"), "0.50 s")):  # fmt: skip
        database = parts_of(tmp_path, *rows)
        digests = ["same"] * len(rows)
        words = (f"share {shared} of a recording", "keep the one")
        refusal(DatabaseError, protocols.refuse_shared_recordings, database, digests, words=words)
        protocols.refuse_shared_recordings(database, range(len(rows)))  # of files of their own
    database = parts_of(tmp_path, "x A 1 ", "x B 2 ", "y B 0 1")
    refusal(DatabaseError, protocols.refuse_shared_recordings, database, ["x", "x", "y"], words=("share the end",))
    database = parts_of(tmp_path, "x A 0 1", "x B 0.9 2", "x A 2 3", "y A 0 1", "y A 0.5 1")
    digests = ["x"] * 3 + ["y"] * 2
    protocols.refuse_shared_recordings(database, digests)
    (note,) = protocols.overlapping_parts(database, digests)
    assert "x.wav#0.00-1.00 of A and x.wav#0.90-2.00 of B share 0.10 s" in note


def test_a_manifest_that_is_missing_or_not_utf8_is_named(tmp_path, monkeypatch):
    assert "own.csv: no such file; give its path" in refusal(DatabaseError, open_database, str(tmp_path / "own.csv"))
    assert "abc.csv: no such file" in refusal(DatabaseError, open_database, "abc", tmp_path)
    path = write(tmp_path / "folder/own.csv", ROWS)
    monkeypatch.chdir(tmp_path)
    assert refusal(DatabaseError, open_database, "own.csv", tmp_path / "folder").endswith(f"use --db {path}")
    (tmp_path / "own.csv").write_bytes("path,emotion,speaker\na.wav,sad,Jürgen\n".encode("latin-1"))
    assert "own.csv: cannot be read as text" in refusal(DatabaseError, open_database, str(tmp_path / "own.csv"))


def test_the_root_is_a_folder_of_the_database_or_next_to_the_manifest_and_may_be_a_link(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_DATA", str(tmp_path))
    touch(tmp_path, "casia/wangzhe/sad/201.wav", "casia/wangzhe/fear/201.wav")
    assert open_database("casia", partial=True).root == tmp_path / "casia"
    assert open_database(write(tmp_path / "own.csv", ROWS)).root == tmp_path
    (tmp_path / "link").symlink_to("casia")
    assert len(open_database(write(tmp_path / "own.csv", ROWS), tmp_path / "link").ids) == 4


@pytest.mark.parametrize("name, paths, root, words", [
    ("iemocap", ["IEMOCAP_full_release/Session1/x"], ".", "IEMOCAP_full_release looks like"),
    ("iemocap", ["deep/IEMOCAP/Session2/x"], ".", "deep/IEMOCAP looks like"),
    ("iemocap", ["IEMOCAP/Session1/dialog/EmoEvaluation/x"], "IEMOCAP/Session1", "IEMOCAP looks like"),
    ("iemocap", ["IEMOCAP/Session1/dialog/EmoEvaluation/x"], "IEMOCAP/Session1/dialog/EmoEvaluation",
    "IEMOCAP looks like"),
    ("iemocap", ["Session1/x"], ".", "expected: `Session1"), ("iemocap", ["x"], ".", "expected: `Session1"),
    ("casia", ["CASIA/database/wangzhe/angry/201.wav"], ".", "CASIA/database looks like"),
    ("casia", ["CASIA/wangzhe/angry/201.wav"], "CASIA/wangzhe", "CASIA looks like"),
    ("emodb", ["emo/wav/03a01Fa.wav"], ".", "emo looks like"), ("emodb", ["emo/wav/03a01Fa.wav"],
    "emo/wav", "emo looks like"),
    ("ravdess", ["RAVDESS/Actor_01/03-01-05-01-01-01-01.wav"], ".", "RAVDESS looks like"),
])  # fmt: skip
def test_a_root_near_the_given_one_is_recognised(name, paths, root, words, tmp_path):
    touch(tmp_path, *paths)
    line = refusal(DatabaseError, open_database, name, tmp_path / root)
    assert words in line and (f"; use --root {tmp_path}" not in line.replace(words, "")) == ("expected" in words)


@pytest.mark.parametrize("db, root, words", [
    ("timit", ".", ("timit", "casia")), ("folder/casia.csv", ".", ("folder/casia.csv",)), ("a b.csv", ".", ("a b",)),
    ("casia", "absent", ("absent", "--root")), ("casia", "file", ("file", "--root")),
])  # fmt: skip
def test_impossible_names_and_roots_are_refused(db, root, words, tmp_path):
    touch(tmp_path, "file")
    refusal(UsageError, open_database, db, tmp_path / root, words=words)


def test_the_digest_depends_on_names_emotions_and_speakers_not_on_the_folder(tmp_path):
    rows = (ROWS[4], ROWS[4], "e.wav,happy,S2", "d.wav,sad,S2", "d.wav,happy,S1")
    digests = [open_database(write(tmp_path / f"{i}/own.csv", (*ROWS[:4], row))).digest for i, row in enumerate(rows)]
    assert digests[0] == digests[1] and len(set(digests)) == 4


def test_a_recording_that_two_speakers_share_is_refused(tmp_path):
    database = open_database(write(tmp_path / "own.csv", ROWS))
    protocols.refuse_shared_recordings(database, ["x", "x", "y", "z"])  # both of S1
    for digests, same in ((["x", "y", "z", "x"], ()), (["x", "y", "z", "d"], [0, 1, 2, 0])):  # bytes; samples
        with pytest.raises(DatabaseError, match=r"own: a\.wav of S1 and d\.wav of S2 are the same recording"):
            protocols.refuse_shared_recordings(database, digests, same)
    protocols.refuse_shared_recordings(database, ["w", "x", "y", "z"], [0, 0, 2, 3])


# ------------------------------------------------------------------------------------------- folds


@pytest.mark.parametrize("protocol", protocols.PROTOCOLS)
def test_folds_test_each_utterance_once_and_never_train_on_its_speaker(protocol, tmp_path):
    speakers = np.random.default_rng(0).permutation(["1F", "1M", "2F", "2M", "3F"] * 7).tolist()
    database = database_of(tmp_path, speakers, [name[0] for name in speakers])
    folds, everyone = make_folds(database, protocol), np.arange(35)
    names = {"speaker": ["1F", "1M", "2F", "2M", "3F"], "session": ["1", "2", "3"]}[protocol]
    assert [(fold.number, fold.name) for fold in folds] == list(enumerate(names, 1))
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), everyone)
    for fold in folds:
        assert np.array_equal(np.sort(np.concatenate([fold.train, fold.test])), everyone)
        assert {speakers[i] for i in fold.test} == {name for name in speakers if name.startswith(fold.name)}
        assert not {speakers[i] for i in fold.train} & {speakers[i] for i in fold.test}


@pytest.mark.parametrize("sessions, words", [
    ([""] * 4, "own names no sessions"), (["1", "1", "", ""], "own names no sessions"),
    (["1", "2", "2", "2"], "speaker S1 is in session 1 and another"), (["1"] * 4, "own has only one session"),
])  # fmt: skip
def test_impossible_protocols_are_refused(sessions, words, tmp_path):
    database = database_of(tmp_path, ["S1", "S1", "S2", "S2"], sessions)
    assert words in refusal(UsageError, make_folds, database, "session")
    assert len(make_folds(database, "speaker")) == 2
    assert "only one speaker" in refusal(UsageError, make_folds, database_of(tmp_path, ["S1", "S1"]))


def test_folds_are_in_natural_order_and_selected_by_number_then_by_name(tmp_path):
    for ordered in (("S2b", "S2c", "S10a"), ("9", "10", "Anna"), ("01", "2", "03")):
        for names in (ordered, ordered[::-1]):
            assert tuple(fold.name for fold in make_folds(database_of(tmp_path, names))) == ordered
    folds = make_folds(database_of(tmp_path, ["10", "2", "3"]))
    for requested, names in {"all": ["2", "3", "10"], "1": ["2"], "2": ["3"], "3": ["10"], "10": ["10"]}.items():
        assert [fold.name for fold in select_folds(folds, requested)] == names
    (fold,) = select_folds(folds, "none")  # trains on all
    assert (fold.number, fold.train.tolist(), fold.test.tolist()) == (0, [0, 1, 2], [])
    for requested in ("0", "4", "-1", "", "S", "ALL"):
        refusal(UsageError, select_folds, folds, requested, words=(f"--fold {requested}:", "1 to 3", "2, 3, 10"))


def test_validation_speakers_follow_the_tested_speaker_and_are_a_fifth(tmp_path):
    speakers = [f"s{i}" for i in range(11) for _ in range(2)]
    fold, validation = make_folds(database := database_of(tmp_path, speakers))[9], []
    for seed in range(3):
        train, val = split_validation_speakers(database, fold, seed)
        assert sorted([*train, *val, *fold.test]) == list(range(22)) and fold.name == "s9"
        validation.append({speakers[i] for i in val})
    assert validation == [{"s10", "s0"}, {"s1", "s2"}, {"s3", "s4"}]  # the next seed takes the next speakers
    for number, validated in {3: 1, 4: 1, 8: 1, 10: 2, 24: 5}.items():  # of IEMOCAP 2, of RAVDESS 5
        database = database_of(tmp_path, [f"s{i}" for i in range(number)])
        assert {len(split_validation_speakers(database, fold, 0)[1]) for fold in make_folds(database)} == {validated}
    both = database_of(tmp_path, ["S1", "S2"])
    assert "--track last" in refusal(UsageError, split_validation_speakers, both, make_folds(both)[0], 0)


# ----------------------------------------------------------------------------------------- metrics


def test_utterance_scores_are_the_mean_posterior_of_the_segments():
    counts = np.array([1, 3, 2, 1, 7])
    posteriors = np.random.default_rng(0).dirichlet(np.ones(4), counts.sum()).astype(np.float32)
    parts = np.split(posteriors, np.cumsum(counts)[:-1])
    np.testing.assert_allclose(
        protocols.utterance_scores(posteriors, counts), [part.mean(0) for part in parts], rtol=1e-6
    )
    for counts in ([2, 0, 2], [2, 1], [2, 3], [0, 4]):  # each has segments, and all segments belong to an utterance
        with pytest.raises(ValueError, match="4 segments"):
            protocols.utterance_scores(np.full((4, 2), 0.5), np.array(counts))


def test_a_majority_counts_votes_and_the_mean_posterior_breaks_ties():
    posteriors = np.array([[0.4, 0.6], [0.4, 0.6], [0.9, 0.1], [0.6, 0.4], [0.1, 0.9], [0.3, 0.7]], np.float32)
    scores = protocols.utterance_scores(posteriors, np.array([3, 2, 1]), "majority")
    by_hand = np.array([[1 + 1.7 / 6, 2 + 1.3 / 6], [1 + 0.7 / 4, 1 + 1.3 / 4], [0.15, 1.35]])  # 2 to 1, a tie, 1
    np.testing.assert_allclose(scores, by_hand / by_hand.sum(1, keepdims=True), rtol=1e-6)
    assert scores.dtype == np.float32 and scores.argmax(1).tolist() == [1, 1, 1]
    assert protocols.utterance_scores(posteriors, np.array([3, 2, 1])).argmax(1).tolist() == [0, 1, 1]
    close = np.array([[1.0, 0.0]] * 49 + [[0.499, 0.501]] * 50, np.float32)  # a vote more, the least mean
    assert protocols.utterance_scores(close, np.array([99]), "majority").argmax() == 1


def test_confusion_war_and_uar_by_hand():
    labels, predicted = np.array([0, 0, 0, 0, 1, 1, 2, 0, 1, 1]), np.array([0, 0, 1, 2, 1, 0, 2, 0, 1, 1])
    matrix = protocols.confusion(labels, np.eye(3)[predicted])
    assert matrix.tolist() == [[3, 1, 1], [1, 3, 0], [0, 0, 1]]  # rows true, columns predicted
    assert protocols.war(matrix) == pytest.approx(7 / 10)
    assert protocols.uar(matrix) == pytest.approx((3 / 5 + 3 / 4 + 1) / 3)
    assert protocols.uar(np.array([[1, 1, 0], [0, 0, 0], [0, 0, 4]])) == pytest.approx(0.75)  # no row, no recall
    assert protocols.uar(np.array([[4, 0, 0], [2, 0, 0], [0, 0, 4]])) == pytest.approx(2 / 3)  # a recall of 0
    first, second = (protocols.confusion(labels[part], np.eye(3)[predicted[part]]) for part in (slice(6), slice(6, 10)))
    assert np.array_equal(first + second, matrix)  # pooled; the mean of the folds' WAR differs
    assert (protocols.war(first) + protocols.war(second)) / 2 == pytest.approx(0.75)


def test_the_published_rates_of_tft_follow_from_its_published_confusions():
    """TFT Fig. 2, with two digits of each rate."""
    with open(Path(protocols.__file__).with_name("benchmarks") / "published-confusion.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "tft"]
    for db, war, uar in (("iemocap", 74.43, 62.90), ("casia", 53.17, 53.17)):
        classes = protocols.DATABASES[db].classes
        rates = np.array([[float(row[name]) for name in classes] for row in rows if row["database"] == db])
        assert [row["emotion"] for row in rows if row["database"] == db] == list(classes)
        assert np.abs(rates.sum(1) - 1).max() < 0.011
        matrix = rates * np.array(list(classes.values()))[:, None]
        assert (100 * protocols.war(matrix), 100 * protocols.uar(matrix)) == pytest.approx((war, uar), abs=0.5)
    hits, totals = np.array([182, 47, 944, 524]), np.array([289, 284, 1099, 608])  # the recalls of IEMOCAP
    matrix = np.diag(hits)
    matrix[range(4), (1, 2, 3, 0)] = totals - hits  # in any column but the true class
    assert f"{100 * protocols.war(matrix):.2f} {100 * protocols.uar(matrix):.2f}" == "74.43 62.90"  # pooled
