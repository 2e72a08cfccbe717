"""Vectors of the utterances that were made elsewhere: embeddings of a pretrained model, functionals of another tool.

    python train.py --db casia --model lld-svm --features embeddings.npz

A .npz file holds a vector for each utterance under its name, or an array of names (n,) and an array of numbers (n, D).
A .csv file holds a line for each utterance, its name in the first column, numbers in the others, names of the columns
in the first line. A name is an utterance's id, or its path with or without root and ending.
"""

import csv
import os
import time

import numpy as np

import features
import protocols
from common.runs import sha256_of

REMEDY = "save it as common/vectors.py describes"


def load(database, path):
    """Features of a database whose rows are the vectors of a file, in the database's order.

    Raises DatabaseError where an utterance has no vector, or vectors differ in length or are not finite, UsageError or
    RunError for a file that cannot be read, and AudioError for a recording that is not there. Prints a line where
    vectors are left over.
    """
    start = time.perf_counter()
    try:
        table = read_npz(path) if path.suffix.lower() == ".npz" else read_csv(path)
    except Exception as error:  # damaged files end in errors of many kinds
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise protocols.UsageError(f"--features {path}: cannot be used ({reason}); {REMEDY}") from None
    index = index_of_names(database)
    rows, left_over = [None] * len(database.ids), []
    for name, vector in table:
        i = index.get(os.path.normpath(name))
        if i is None:
            left_over.append(name)
        elif rows[i] is not None:
            raise protocols.DatabaseError(f"{path}: has two vectors of {database.ids[i]}; keep one of them")
        else:
            rows[i] = vector
    if missing := [name for name, row in zip(database.ids, rows) if row is None]:
        raise protocols.DatabaseError(
            f"{path}: has no vector of {len(missing)} of {len(rows)} utterances, such as {missing[0]}; add them"
        )
    vectors = as_array(path, database.ids, rows)
    if left_over:
        print(f"{path}: {len(left_over)} vectors of no utterance are not used, such as {left_over[0]}")
    digests, seconds = zip(*(file_facts(database.root / name) for name in database.paths))
    if database.starts is not None:
        seconds = np.minimum(database.ends, seconds) - database.starts
    return features.Features(
        segments=vectors,
        counts=np.ones(len(vectors), int),
        seconds=np.array(seconds),
        file_digests=list(digests),
        digest=features.digest_of(digests, database.recordings),
        load_time=time.perf_counter() - start,
        cached=False,
    )


def index_of_names(database):
    """Names that an utterance may have in a file of vectors -> its number; None for a name that two may have."""
    whole, short, parts = {}, {}, set()
    if database.starts is not None:
        is_part = (database.starts > 0) | (database.ends < np.inf)
        parts = {name for name, part in zip(database.ids, is_part) if part}
    for i, (name, path) in enumerate(zip(database.ids, database.paths)):
        full = os.path.join(database.root, path)
        keys = (name, path, full, os.path.abspath(full), os.path.realpath(full))
        if name in parts:  # its file may hold others
            keys = (name,)
        for key in {os.path.normpath(key) for key in keys}:
            whole[key] = i
            stem, ending = os.path.splitext(key)
            if ending.lower() in protocols.AUDIO_ENDINGS:
                short[stem] = None if stem in short else i
    return short | whole


def read_npz(path):
    """(name, vector) of each utterance in a .npz file."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    names = [array.astype(str) for array in arrays.values() if array.ndim == 1 and array.dtype.kind in "US"]
    numbers = [array for array in arrays.values() if array.ndim == 2 and array.dtype.kind in "fiu"]
    if names and len(names) + len(numbers) > 2:
        raise ValueError(f"{len(names)} arrays of names and {len(numbers)} of numbers, not one of each")
    if len(names) == len(numbers) == 1:
        if len(names[0]) != len(numbers[0]):
            raise ValueError(f"{len(names[0])} names for {len(numbers[0])} vectors")
        return list(zip(names[0].tolist(), numbers[0]))
    return list(arrays.items())


def read_csv(path):
    """(name, vector) of each utterance in a .csv file, its columns separated by comma, semicolon or tab."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        head = file.readline()
        delimiter = max(",;\t", key=head.count)
        file.seek(0)
        lines = csv.reader(file, delimiter=delimiter, strict=True)
        header, table = next(lines, []), []
        if len(header) < 2:
            raise ValueError("no line with the names of its columns")
        if all(map(is_number, header[1:])):
            raise ValueError("line 1 holds numbers, not the names of its columns")
        for line in filter(None, lines):
            if text := [cell for cell in line[1:] if not is_number(cell)]:
                column = dict(enumerate(header)).get(line.index(text[0], 1), "")
                raise ValueError(f"line {lines.line_num}, column {column}: {text[0]!r:.40} is no number")
            table.append((line[0].strip(), np.array(line[1:], np.float64)))
    return table


def is_number(text):
    """True for the text of a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def as_array(path, ids, rows):
    """Vectors as float32 (n, D); DatabaseError unless they are of one length and finite."""
    for name, row in zip(ids, rows):
        if row.ndim != 1 or row.dtype.kind not in "fiu" or not len(row):
            raise protocols.DatabaseError(f"{path}: {name} is no vector of numbers, but of shape {row.shape}; fix it")
        if len(row) != len(rows[0]):
            raise protocols.DatabaseError(
                f"{path}: {name} has {len(row)} numbers, {ids[0]} has {len(rows[0])}; all vectors need the same length"
            )
    with np.errstate(over="ignore"):
        vectors = np.array(rows, np.float32)
    if not (finite := np.isfinite(vectors).all(1)).all():
        raise protocols.DatabaseError(f"{path}: the vector of {ids[finite.argmin()]} is not finite; replace it")
    return vectors


def file_facts(path):
    """SHA-256 of a recording's file, and its length in seconds; AudioError where it is missing or unreadable."""
    import soundfile

    try:
        return sha256_of(path), soundfile.info(os.fsencode(path)).duration  # bytes: of any encoding
    except (OSError, RuntimeError):
        raise features.AudioError(f"{path}: no such recording, or unreadable; restore it") from None
