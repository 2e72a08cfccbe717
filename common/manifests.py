"""Manifests: tables of recordings with their emotions and speakers, as people, spreadsheets and other tools write them.

    for row in read_rows("my/corpus.csv"):
        row.path, row.emotion, row.speaker, row.session, row.start, row.end, row.line

CSV with commas, semicolons, tabs or bars; JSON as a list of objects, as an object of objects, or with an object a line.
COLUMNS holds the names of columns as data. Where two columns could be meant, the table is refused and both are named.
"""

import csv
import io
import json
import re
from math import inf
from typing import NamedTuple

ENDINGS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
COLUMNS = {  # part of a row -> names of its column, without case, spaces and signs; the first is ours
    "path": ("path", "file", "filename", "filepath", "wav", "wavpath", "wavfile", "audio", "audiopath", "audiofile",
             "audiofilepath", "audiofilename", "recording"),
    "emotion": ("emotion", "label", "class", "emo", "emotionlabel", "emotionclass", "emoclass", "emotionname"),
    "speaker": ("speaker", "speakerid", "spk", "spkid", "spkr", "spkrid", "speakername", "subject", "subjectid",
                "actor", "actorid"),
    "session": ("session", "sessionid"),
}  # fmt: skip
REQUIRED = ("path", "emotion", "speaker")
TIMES = {  # likewise for the part of a file that is meant, also as `start_time`, `seg_start`, `start_ms`, `start [s]`
    "start": ("start", "begin", "onset", "from", "tmin", "xmin"),
    "end": ("end", "stop", "to", "tmax", "xmax"),
    "duration": ("duration", "dur"),
    "offset": ("offset",),  # the start; next to an onset the end
}
UNITS = {"s": 1, "sec": 1, "secs": 1, "second": 1, "seconds": 1, "ms": 1e-3, "msec": 1e-3, "milliseconds": 1e-3}
RANGES = {"time", "times", "timestamp", "timestamps", "interval", "range", "span", "segment"}  # may hold start and end
FILLERS = {"time", "seg", "segment", "clip", "turn", "utt", "utterance", "t", "audio"}  # in the names of times
MISSING = {"", "nan", "nat", "none", "null", "na", "n/a"}  # values of a time that is not given
DELIMITERS = ",;\t|"


class DatabaseError(ValueError):
    """A damaged or incomplete database; the message names the file or class and the remedy."""

    exit_code = 3  # of a command that ends with this error


class Row(NamedTuple):
    """A labelled recording, or part of one."""

    line: str  # where it stands in the manifest, for messages
    path: str
    emotion: str
    speaker: str
    session: str  # "" where there is none
    start: float  # s; 0 where nothing else is given
    end: float  # s; infinite where nothing else is given


def read_rows(manifest):
    """Rows of a manifest as a list of Row; DatabaseError names the line and the remedy."""
    text = read_text(manifest)
    is_json = str(manifest).lower().endswith((".json", ".jsonl", ".ndjson"))
    header, table = (read_json if is_json else read_csv)(manifest, text)
    columns = {part: choose(manifest, header, table, part, indices) for part, indices in find_columns(header).items()}
    times = choose_times(manifest, header, table)
    if missing := [part for part in REQUIRED if columns[part] is None]:
        names = "; ".join(f"{part} ({', '.join(COLUMNS[part][1:5])}, ...)" for part in missing)
        found = ", ".join(filter(None, header)) or "none"
        raise DatabaseError(f"{manifest}: has no column {names}; add it or rename it, of {found[:200]}")
    rows = []
    for line, cells in table:
        path, emotion, speaker, session = ("" if i is None else cells[i] for i in columns.values())
        if not (path + emotion + speaker + session).isprintable():
            raise DatabaseError(f"{line}: has a line break or control character in a value; take it out")
        if not (path and emotion and speaker):
            raise DatabaseError(f"{line}: path, emotion or speaker is empty; fill it in or remove the line")
        path = re.sub(r"^(\{\w+\}|\$\w+|\$\{\w+\})/", "", path)  # SpeechBrain's {data_root}/
        rows.append(Row(line, path, emotion, speaker, session, *part_of(line, cells, times)))
    return rows


def read_text(path):
    """Text of a file in UTF-8, or in UTF-16 with its mark, as Excel's "Unicode text"; DatabaseError for others."""
    try:
        with open(path, "rb") as file:
            content = file.read()
        is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except FileNotFoundError:
        raise DatabaseError(f"{path}: no such file; restore it, or name the folder that holds it by --root") from None
    except (UnicodeDecodeError, OSError):
        raise DatabaseError(f"{path}: cannot be read as text; save it as UTF-8") from None


# --------------------------------------------------------------------------------------------- tables


def read_csv(manifest, text):
    """Header (names) and table [(line, cells)] of a CSV file; empty rows and unnamed columns are left out."""
    declared = re.match(r"sep=(.)\r?\n", text)  # a first line of Excel's
    text, skipped = (text[declared.end() :], 1) if declared else (text, 0)
    best = None
    for delimiter in declared[1] if declared else DELIMITERS:
        rows, problem, number = [], None, 0
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
        try:
            for cells in reader:
                number = reader.line_num + skipped
                if any(cell.strip() for cell in cells):
                    cells = [cell.replace("\xa0", " ").strip() for cell in cells]  # of spreadsheets
                    rows.append((f"{manifest}, line {number}", cells))
        except csv.Error as error:
            problem = f"{manifest}, line {reader.line_num + skipped}: {error}; close the quotes around each value"
        header = rows[0][1] if rows else []
        found = sum(bool(indices) for indices in find_columns(header).values())
        if best is None or found > best[0]:
            best = found, header, rows[1:], problem, delimiter
    _, header, table, problem, delimiter = best
    if problem:
        raise DatabaseError(problem)
    for line, cells in table:
        if any(cells[len(header) :]):
            raise DatabaseError(f"{line}: has more values than columns; put quotes around a value with a {delimiter!r}")
        cells += [""] * (len(header) - len(cells))
    return header, table


def read_json(manifest, text):
    """Header and table of a JSON file: a list of objects, an object of objects, or an object in each line."""
    try:
        content = _entries_of(json.loads(text, object_pairs_hook=_without_twins))
        entries = [(f"{manifest}, entry {name}", entry) for name, entry in content]
    except json.JSONDecodeError:
        entries = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                if line.strip():
                    entries.append((f"{manifest}, line {number}", json.loads(line, object_pairs_hook=_without_twins)))
            except ValueError as error:
                raise DatabaseError(f"{manifest}, line {number}: is no JSON ({error}); correct it") from None
    except (ValueError, TypeError) as error:
        raise DatabaseError(f"{manifest}: is no table ({error}); write a list of objects") from None
    for line, entry in entries:
        if not isinstance(entry, dict):
            raise DatabaseError(f"{line}: is no object with names and values; write a list of objects")
    header = list(dict.fromkeys(name for _, entry in entries for name in entry))
    return header, [(line, [_as_text(entry.get(name)) for name in header]) for line, entry in entries]


def _entries_of(content):
    """(name or number, object) of each row of a JSON value."""
    if isinstance(content, dict):
        values = list(content.values())
        lists = [value for value in values if isinstance(value, list)]
        if all(find_columns(list(content))[part] for part in REQUIRED):
            if len(lists) == len(values):  # {"path": [...], "emotion": [...], ...}
                content = [dict(zip(content, cells, strict=True)) for cells in zip(*lists, strict=True)]
            elif all(isinstance(value, dict) for value in values):  # {"path": {"0": ..., "1": ...}, ...}, as of pandas
                content = {row: {name: cells.get(row) for name, cells in content.items()} for row in values[0]}
            else:
                content = [content]  # a single row
        elif len(lists) == 1:
            content = lists[0]  # {"data": [...]}
    return list(content.items()) if isinstance(content, dict) else list(enumerate(content, 1))


def _without_twins(pairs):
    """Object of (name, value) pairs; ValueError for a name that is there twice: json would drop a value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return content


def _as_text(value):
    """A value of JSON as the text that a CSV file would hold; an audio object of Hugging Face as its path."""
    if isinstance(value, dict) and "path" in value:
        value = value["path"]
    return "" if value is None else value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# -------------------------------------------------------------------------------------------- columns


def words_of(name):
    """Words of a column's name: `StartTime [ms]` -> start, time, ms."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[\W_]+", name.casefold()) if word]


def find_columns(header):
    """Indices of the columns that could be each part of a row, {part: indices}."""
    joined = ["".join(words_of(name)) for name in header]
    return {part: [joined.index(name) for name in names if name in joined] + twins(joined, names)
            for part, names in COLUMNS.items()}  # fmt: skip


def twins(joined, names):
    """Indices of further columns of the same name."""
    return [i for i, name in enumerate(joined) if name in names and joined.index(name) < i]


def choose(manifest, header, table, part, indices):
    """Index of the column that holds a part of a row, None without any.

    Several serve if they divide the rows alike (a speaker's number next to the name), or of paths if their files have
    the same names. DatabaseError if two could be meant.
    """
    for other in indices[1:]:
        values = [(cells[indices[0]], cells[other]) for _, cells in table]
        if part == "path":
            is_same = all(first.replace("\\", "/").split("/")[-1] == second.replace("\\", "/").split("/")[-1]
                          for first, second in values)  # fmt: skip
        else:
            pairs = set(values)
            is_same = len({first for first, _ in pairs}) == len({second for _, second in pairs}) == len(pairs)
        if not is_same:
            refuse_both(manifest, part, header[indices[0]], header[other])
    if part == "path":  # the one with folders
        indices = sorted(indices, key=lambda i: -max((len(cells[i]) for _, cells in table), default=0))
    return indices[0] if indices else None


# ---------------------------------------------------------------------------------------------- times


def choose_times(manifest, header, table):
    """Columns of the times, {"start", "end" or "duration": (index, seconds of a unit)}; those without values are none.

    DatabaseError where two columns could be meant, and for a column that seems to hold times of another unit.
    """
    found = {}
    for i, name in enumerate(header):
        values = [cells[i] for _, cells in table if cells[i].casefold() not in MISSING]
        words = words_of(name)
        unit = UNITS.get(words[-1]) if len(words) > 1 else None
        core = [word.removesuffix("time") or word for word in (words[:-1] if unit else words) if word not in FILLERS]
        parts = [part for part, names in TIMES.items() if set(core) & set(names)]
        are_times = all(parse_seconds(value) is not None for value in values)
        if values and RANGES & set(words) and all(RANGE.fullmatch(value) for value in values):
            refuse_times(manifest, name)
        if not values or not parts or not (are_times or (len(core) == 1 and core[0] in TIMES)):
            continue  # such as a column `from` that names a source
        if len(core) == 1:
            found.setdefault(parts[0], []).append((i, unit or 1))
        elif parts != ["duration"]:
            refuse_times(manifest, name)
    for part, several in found.items():
        if any(len({cells[i] for i, _ in several}) > 1 for _, cells in table):
            refuse_both(manifest, part, header[several[0][0]], header[several[1][0]])
    times = {part: several[0] for part, several in found.items()}
    if offset := times.pop("offset", None):
        part = "end" if "start" in times and "onset" in words_of(header[times["start"][0]]) else "start"
        if part in times:
            refuse_both(manifest, part, header[times[part][0]], header[offset[0]])
        times[part] = offset
    if "end" in times:
        times.pop("duration", None)  # of the part, or of the whole file
    return times


def refuse_times(manifest, name):
    """Raise DatabaseError for a column that seems to tell a part of a file, in a form that is not read."""
    raise DatabaseError(
        f"{manifest}: column {name} seems to tell the part of a file that is meant; "
        "give start and end in seconds, or rename or remove the column"
    )


def refuse_both(manifest, part, first, second):
    """Raise DatabaseError for two columns that differ and could have the same meaning."""
    raise DatabaseError(
        f"{manifest}: columns {first} and {second} could both be the {part}; rename or remove the other"
    )


def part_of(line, cells, times):
    """(start, end) of a row in seconds; (0, inf) is the whole recording."""
    values = {}
    for name, (index, unit) in times.items():
        seconds = parse_seconds(cells[index])
        if seconds is None and cells[index].casefold() not in MISSING:
            raise DatabaseError(f"{line}: {name} {cells[index]!r} is no time; give seconds such as 1.5 or 0:00:01.5")
        values[name] = None if seconds is None else seconds * unit
    start = values.get("start") or 0.0
    end = values.get("end")
    if end is None and values.get("duration") is not None:
        end = start + values["duration"]
    if start < 0 or (end is not None and end <= start):
        raise DatabaseError(f"{line}: the part from {start:g} to {end:g} s is none; correct its start and end")
    return start, inf if end is None else end


NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.IGNORECASE)
RANGE = re.compile(r"[(\[]?\s*[\d:.]+\s*(-|,|;|to|\.\.)\s*[\d:.]+\s*[)\]]?")  # 0.5-1.2, [0.5, 1.2], 0:01 to 0:02
CLOCK = re.compile(r"(?:(?P<days>\d+) days?,? ?\+?)?(?:(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+(?:[.,]\d+)?))?")
ISO = re.compile(r"P(?:(?P<days>\d+)D)?(?:T(?:(?P<h>\d+)H)?(?:(?P<m>\d+)M)?(?:(?P<s>\d+(?:[.,]\d+)?)S)?)?")


def parse_seconds(text):
    """Seconds of `1.5`, `1,5`, `1.5 s`, `00:00:01.5`, `0 days 00:00:01.5` or `PT1.5S`; None for other text."""
    text = re.sub(r" ?(s|sec|seconds)$", "", text.strip())
    if NUMBER.fullmatch(text):
        return float(text.replace(",", "."))
    found = CLOCK.fullmatch(text) or ISO.fullmatch(text)
    if not text or not found or not any(found.groupdict().values()):
        return None
    days, hours, minutes, seconds = (float((found[name] or "0").replace(",", ".")) for name in ("days", "h", "m", "s"))
    return 86400 * days + 3600 * hours + 60 * minutes + seconds
