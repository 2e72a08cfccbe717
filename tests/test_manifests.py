"""Manifests as spreadsheets and other tools write them: what is read, what is refused with a line that names it.

python -m pytest tests/test_manifests.py
"""

import json
from math import inf

import pytest

from common import manifests
from common.manifests import DatabaseError, parse_seconds, read_rows

PLAIN = "path,emotion,speaker\na.wav,sad,S1\nb.wav,happy,S2\n"
ROWS = [("a.wav", "sad", "S1", "", 0, inf), ("b.wav", "happy", "S2", "", 0, inf)]


def write(folder, content, name="own.csv"):
    content = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(content)
    return folder / name


def rows_of(folder, content, name="own.csv"):
    """Rows of a manifest without their lines."""
    return [row[1:] for row in read_rows(write(folder, content, name))]


def refusal(folder, content, name="own.csv"):
    """The line with which a manifest is refused."""
    with pytest.raises(DatabaseError) as caught:
        read_rows(write(folder, content, name))
    line = str(caught.value)
    assert len(line.splitlines()) == 1 and str(folder / name) in line and caught.value.exit_code == 3
    return line


# ------------------------------------------------------------------------------------- spreadsheets

SPREADSHEETS = {
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "declared": "sep=;\r\n" + PLAIN.replace(",", ";"),
    "spaces": PLAIN.replace(",", " , "),
    "capitals": PLAIN.replace("path,emotion,speaker", "PATH,Emotion,Speaker"),
    "quotes behind spaces": PLAIN.replace("sad", ' "sad"'),
    "empty columns": PLAIN.replace("\n", ",,\n"),
    "empty columns in some rows": PLAIN.replace("S1\n", "S1,,\n"),
    "empty rows": PLAIN.replace("\n", "\n,,\n\n"),
    "empty rows before": "\n,,\n" + PLAIN,
    "numbered rows": ",path,emotion,speaker\n0,a.wav,sad,S1\n1,b.wav,happy,S2\n",  # of pandas
    "Windows": "\ufeff" + PLAIN.replace("\n", "\r\n"),
    "Unicode text": PLAIN.replace(",", "\t").encode("utf-16"),  # of Excel
    "other columns": "text,path,emotion,speaker,from\nhi,a.wav,sad,S1,tv\nho,b.wav,happy,S2,radio\n",
    "times without values": PLAIN.replace("speaker", "speaker,start,end").replace("S1", "S1,,NaT"),
}


@pytest.mark.parametrize("kind", SPREADSHEETS)
def test_what_is_unambiguous_in_a_spreadsheet_is_read(kind, tmp_path):
    assert rows_of(tmp_path, SPREADSHEETS[kind]) == ROWS


def test_lines_are_those_of_the_file(tmp_path):
    for content in (PLAIN, PLAIN.replace("speaker\n", "speaker\n\n"), "sep=,\n" + PLAIN):
        lines = content.splitlines()
        expected = [f"line {lines.index(row) + 1}" for row in ("a.wav,sad,S1", "b.wav,happy,S2")]
        assert [row.line.split(", ")[1] for row in read_rows(write(tmp_path, content))] == expected


@pytest.mark.parametrize("part, name", [
    *(("path", name) for name in ("file", "file_name", "filename", "FileName", "wav", "audio", "Audio File",
    "file_path")),
    *(("emotion", name) for name in ("label", "class", "emo", "Emo Class", "EmoClass")),
    *(("speaker", name) for name in ("speaker_id", "spk", "spkID", "spk_id", "SpkrID", "Speaker ID")),
])  # fmt: skip
def test_columns_have_the_names_of_other_tools(part, name, tmp_path):
    assert rows_of(tmp_path, PLAIN.replace(part, name)) == ROWS


@pytest.mark.parametrize("column, values", [
    ("label", ("0", "1")), ("emo", ("sad", "happy")), ("speaker_id", ("7", "8")),
    ("file", ("clips/a.wav", "clips/b.wav")),
])  # fmt: skip
def test_a_second_column_that_says_the_same_is_no_matter(column, values, tmp_path):
    lines = [f"{line},{value}" for line, value in zip(PLAIN.splitlines(), (column, *values))]
    rows = rows_of(tmp_path, "\n".join(lines))
    assert [row[1:] for row in rows] == [row[1:] for row in ROWS]
    assert [row[0] for row in rows] == (list(values) if column == "file" else ["a.wav", "b.wav"])  # with its folder


@pytest.mark.parametrize("column, values, words", [
    ("label", ("x", "x"), ("emotion and label", "the emotion")),
    ("spk", ("S1", "S1"), ("speaker and spk", "the speaker")),
    ("wav", ("a.wav", "c.wav"), ("path and wav", "the path")),
    ("speaker", ("S1", "S1"), ("speaker and speaker", "the speaker")),
])  # fmt: skip
def test_two_columns_that_could_be_meant_are_named(column, values, words, tmp_path):
    lines = [f"{line},{value}" for line, value in zip(PLAIN.splitlines(), (column, *values))]
    line = refusal(tmp_path, "\n".join(lines))
    assert all(word in line for word in words)


@pytest.mark.parametrize("content, words", [
    (PLAIN.replace("speaker", "person"), ("no column speaker", "speakerid", "add it", "path, emotion, person")),
    ("a.wav,sad,S1\n", ("no column path",)),
    ("", ("no column path", "none")),
    (PLAIN + "c,d.wav,sad,S1\n", ("line 4", "more values", "','")),
    (PLAIN.replace(",", ";") + "c;d.wav;sad;S1\n", ("line 4", "more values", "';'")),
    (PLAIN + "c.wav,,S1\n", ("line 4", "empty")),
    (PLAIN + 'c.wav,sad,"S1\n', ("line 4", "quotes")),
    (PLAIN + 'c.wav,"s\nad",S1\n', ("line 5", "line break")),
    (PLAIN.replace("S1", "J\u00fcrgen").encode("latin-1"), ("UTF-8",)),
])  # fmt: skip
def test_what_is_ambiguous_or_faulty_is_named(content, words, tmp_path):
    line = refusal(tmp_path, content)
    assert all(word in line for word in words), line


# ------------------------------------------------------------------------------------- other tools

ENTRIES = [dict(wav="a.wav", emo="sad", spk="S1"), dict(wav="b.wav", emo="happy", spk="S2")]
TOOLS = {
    "EmoBox lines": ("jsonl", "\n".join(json.dumps(dict(entry, key=i, length=1.5)) for i, entry in enumerate(ENTRIES))),
    "EmoBox": ("json", json.dumps({f"corpus-{i}": dict(entry, length=1.5) for i, entry in enumerate(ENTRIES)})),
    "SpeechBrain": ("json", json.dumps({str(i): dict(entry, wav="{data_root}/" + entry["wav"], length=1.5)
                                        for i, entry in enumerate(ENTRIES)})),
    "a list": ("json", json.dumps(ENTRIES)),
    "a list in an object": ("json", json.dumps(dict(version=1, data=ENTRIES))),
    "columns": ("json", json.dumps({name: [entry[name] for entry in ENTRIES] for name in ENTRIES[0]})),
    "pandas": ("json", json.dumps({name: {i: entry[name] for i, entry in enumerate(ENTRIES)} for name in ENTRIES[0]})),
    "Hugging Face": ("csv", "file_name,label,speaker_id\na.wav,sad,S1\nb.wav,happy,S2\n"),
    "Hugging Face lines": ("jsonl", "\n\n".join(json.dumps(dict(audio=dict(path=entry["wav"], bytes=None),
    label=entry["emo"],
                                                              speaker=entry["spk"])) for entry in ENTRIES)),
    "nkululeko": ("csv", "file,emotion,speaker,gender,language\na.wav,sad,S1,f,it\nb.wav,happy,S2,m,it\n"),
    "MSP-Podcast": ("csv", "FileName,EmoClass,EmoAct,SpkrID,Gender\na.wav,sad,4.5,S1,f\nb.wav,happy,2,S2,m\n"),
    "tabs": ("tsv", PLAIN.replace(",", "\t")),
}  # fmt: skip


@pytest.mark.parametrize("tool", TOOLS)
def test_tables_of_other_tools_are_read_as_they_are(tool, tmp_path):
    ending, content = TOOLS[tool]
    assert rows_of(tmp_path, content, f"own.{ending}") == ROWS


def test_a_single_line_and_numbers_of_json_are_read(tmp_path):
    entry = dict(path="a.wav", emotion=3, speaker=7, start=0.5, end=1)
    assert rows_of(tmp_path, json.dumps(entry), "own.jsonl") == [("a.wav", "3", "7", "", 0.5, 1)]


@pytest.mark.parametrize("content, words", [
    ('{"x": {"wav": "a.wav"}, "x": {"wav": "b.wav"}}', ("'x' is there twice",)),
    ("[1, 2]", ("entry 1", "no object")),
    ('{"wav": "a.wav"}\n{"wav": \n', ("line 2", "no JSON")),
    ("[]", ("no column path",)),
    ("5", ("own.json",)),
    ('[{"wav": "a.wav", "emo": "sad"}]', ("no column speaker", "wav, emo")),
    ('[{"wav": "a.wav", "emo": "sad", "spk": null}]', ("entry 1", "empty")),
])  # fmt: skip
def test_faults_of_json_are_named(content, words, tmp_path):
    line = refusal(tmp_path, content, "own.json")
    assert all(word in line for word in words), line


# -------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize("text, seconds", [
    ("1.5", 1.5), ("1,5", 1.5), ("0", 0), ("1e-1", 0.1), (".5", 0.5), ("1.5 s", 1.5), ("00:00:01.5", 1.5),
    ("1:02.25", 62.25),
    ("00:20:57,256", 1257.256), ("0 days 00:00:01.500000", 1.5), ("1 days, 00:00:01", 86401), ("0 days", 0),
    ("PT1.5S", 1.5),
    ("P0DT0H1M1.5S", 61.5), ("-1", -1), ("", None), ("x", None), ("1.5.2", None), ("P", None), ("inf", None),
    ("400ms", None),
])  # fmt: skip
def test_times_are_seconds_or_clocks(text, seconds):
    assert parse_seconds(text) == (None if seconds is None else pytest.approx(seconds))


def with_times(columns, *values):
    """PLAIN with further columns; `values` of both rows."""
    return "\n".join(f"{line},{more}" for line, more in zip(PLAIN.splitlines(), (columns, *values)))


@pytest.mark.parametrize("columns, value, part", [
    ("start,end", "0.5,1.25", (0.5, 1.25)), ("Begin,End", "0.5,1.25", (0.5, 1.25)),
    ("start_time,end_time", "0.5,1.25", (0.5, 1.25)),
    ("StartTime,EndTime", "0.5,1.25", (0.5, 1.25)), ("onset,offset", "0.5,1.25", (0.5, 1.25)),
    ("onset,duration", "0.5,0.75", (0.5, 1.25)), ("offset,duration", "0.5,0.75", (0.5, 1.25)),
    ("offset", "0.5", (0.5, inf)),
    ("start", "0.5", (0.5, inf)), ("end", "1.25", (0, 1.25)), ("duration", "0.75", (0, 0.75)),
    ("from,to", "0.5,1.25", (0.5, 1.25)),
    ("start,end,duration", "0.5,1.25,9", (0.5, 1.25)), ("start_ms,end_ms", "500,1250", (0.5, 1.25)),
    ("start [s],end [s]", "0.5,1.25", (0.5, 1.25)), ("seg_start,seg_end", "0.5,1.25", (0.5, 1.25)),
    ("tmin,tmax", "0.5,1.25", (0.5, 1.25)),
    ("start,end", "0 days 00:00:00.5,0 days 00:00:01.25", (0.5, 1.25)), ("start,end", "0.5,NaT", (0.5, inf)),
    ("start,end", ",", (0, inf)),
    ("time,segment,range", "2024-05-01,7,20-x", (0, inf)), ("timestamp", "1714550400", (0, inf)),
    ("age", "20-30", (0, inf)),
    ("start,begin,end", "0.5,0.5,1.25", (0.5, 1.25)), ("length", "0.75", (0, inf)), ("num_frames", "12", (0, inf)),
])  # fmt: skip
def test_columns_that_say_the_part_of_a_file_are_read(columns, value, part, tmp_path):
    rows = rows_of(tmp_path, with_times(columns, value, value))
    assert [row[4:] for row in rows] == [pytest.approx(part)] * 2 and [row[:4] for row in rows] == [
        row[:4] for row in ROWS
    ]


def test_decimal_commas_stand_between_semicolons(tmp_path):
    content = with_times("start,end", "0.5,1.25", "0,1").replace(",", ";").replace(".5", ",5").replace(".25", ",25")
    assert [row[4:] for row in rows_of(tmp_path, content)] == [(0.5, 1.25), (0, 1)]


@pytest.mark.parametrize("columns, value, words", [
    ("start,end", "1,1", ("line 2", "from 1 to 1 s")), ("start,end", "-1,1", ("line 2", "-1")),
    ("start,end", "0.5,-1", ("line 2",)), ("start,duration", "1,0", ("line 2",)),
    ("start,end", "a,1", ("line 2", "start 'a'")),
    ("start,begin", "0,1", ("start and begin",)), ("start,offset,end", "0,1,2", ("start and offset",)),
    ("onset,end,offset", "0,1,2", ("end and offset",)),
    ("start_sample,end_sample", "0,8000", ("start_sample", "seconds")),
    ("frame_offset,num_frames", "8000,8000", ("frame_offset",)),
    ("word_start,word_end", "0,1", ("word_start",)), ("timestamp", "0.5-1.2", ("timestamp", "start and end")),
    ("segment", "0:01 to 0:02", ("segment",)), ("time range", '"[0.5, 1.2]"', ("time range",)),
])  # fmt: skip
def test_times_that_cannot_be_meant_or_read_are_refused(columns, value, words, tmp_path):
    line = refusal(tmp_path, with_times(columns, value, value))
    assert all(word in line for word in words), line


def test_the_names_of_columns_belong_to_a_single_part():
    names = [name for part in (*manifests.COLUMNS.values(), *manifests.TIMES.values()) for name in part]
    assert len(set(names)) == len(names) and all(name == "".join(manifests.words_of(name)) for name in names)
