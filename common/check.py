"""What a corpus holds and what is wrong with it, before anything is trained; reads each recording once.

    python train.py --check --db casia --root path/to/casia
    python train.py --check --db my/corpus.csv

Prints utterances, speakers, classes, lengths, sample rates and channels, then a line for each fault (training would
refuse it) and each note (training would accept it). Exit code 0 if the corpus can be trained on, 3 if not.
"""

import os
import shlex
import sys
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

import features
import protocols
from common import audio, cli, duplicates

WRAP = textwrap.TextWrapper(80, subsequent_indent=13 * " ", break_long_words=False, break_on_hyphens=False)
NBSP = "\xa0"  # a space at which WRAP breaks no line
MAX_LINES = 20  # printed faults or notes of the same kind; the others are counted
MAX_SPEAKERS = 30  # listed by name


class Recording(NamedTuple):
    """What was found in a file; a fault comes without the other values."""

    sample_rate: int = 0  # Hz
    channels: int = 0
    samples: int = 0  # per channel, at that rate
    digest: str = ""  # SHA-256 of the file
    fingerprint: tuple = ()  # of its samples, see common/duplicates.py
    fault: str = ""

    @property
    def seconds(self):
        """Duration."""
        return self.samples / self.sample_rate


def check_corpus(db, root=None, protocol="speaker", partial=False):
    """Print what a corpus holds, its faults and notes; return the exit code, 0 without faults, else 3.

    Arguments as of `protocols.open_database` and `make_folds`. Raises UsageError and DatabaseError where the corpus
    cannot be opened at all.
    """
    database = protocols.open_database(db, root, partial=True)
    recordings = inspect_all(database)
    for heading, text in describe(database, recordings):
        print(WRAP.fill(f"{heading:<13}{text}").replace(NBSP, " "))
    faults = list(find_faults(database, recordings, protocol, partial))
    for line in shorten(faults):
        print(f"fault: {line}")
    for line in shorten(find_notes(database, recordings, protocol, partial)):
        print(f"note: {line}")
    if faults:
        remedy = "1 fault; fix it" if len(faults) == 1 else f"{len(faults)} faults; fix them"
        print(f"{database.name}: {remedy} before training")
        return protocols.DatabaseError.exit_code
    flags = [f"--db {shlex.quote(str(db))}", root and f"--root {shlex.quote(str(root))}"]
    flags += [protocol != "speaker" and f"--protocol {protocol}", database.partial and "--partial"]
    print(f"no faults; to train: python train.py {' '.join(filter(None, flags))}")
    return 0


# ---------------------------------------------------------------------------------------- recordings


def inspect(path, start, end, file_digest):
    """Read a file, or its part from `start` to `end` in seconds, as training does, as a Recording."""
    try:
        with features.enough_memory(path):
            samples = audio.read_samples(path, start, end)
        digest = file_digest(path)
    except features.AudioError as error:
        return Recording(fault=str(error))
    fingerprint = duplicates.fingerprint(samples)
    return Recording(samples.rate, samples.channels, len(samples.wave), digest, fingerprint)


def parts_of(database):
    """(path, start, end) of each utterance; whole recordings from 0 to infinity."""
    if database.starts is None:
        return [(database.root / path, 0.0, np.inf) for path in database.paths]
    return [(database.root / path, *part) for path, *part in database.recordings]


def inspect_all(database):
    """List the Recording of each utterance."""
    parts = parts_of(database)
    progress = cli.Progress(f"{database.name}: reading {len(parts)} recordings", sys.stderr)
    file_digest = lru_cache(None)(features.sha256_of)  # of a long recording with many parts, once
    pool, found = ThreadPoolExecutor(os.cpu_count()), []
    try:
        for recording in pool.map(lambda part: inspect(*part, file_digest), parts):
            found.append(recording)
            progress.update(f"{100 * len(found) // len(parts)} %")
    finally:
        pool.shutdown(cancel_futures=True)
    progress.line(f"{sum(not recording.fault for recording in found)} can be used")
    return found


def describe(database, recordings):
    """Yield (heading, text) of each part of the summary."""
    speakers = Counter(database.speakers.tolist())
    sizes = sorted(speakers.values())
    listed = count_list(speakers)
    if len(speakers) > MAX_SPEAKERS:
        listed = f"{sizes[0]} to {sizes[-1]} utterances each, median {sizes[len(sizes) // 2]}"
    yield "database", f"{database.name}, {database.root}"
    yield "utterances", str(len(database.ids))
    yield f"{len(database.classes)} classes", ", ".join(f"{name}{NBSP}{n}" for name, n in database.counts().items())
    yield f"{len(speakers)} speakers", listed
    if database.sessions.astype(bool).all():
        sessions = Counter(database.sessions.tolist())
        yield f"{len(sessions)} sessions", count_list(sessions)
    readable = [recording for recording in recordings if not recording.fault]
    if not readable:
        return
    seconds = np.array([recording.seconds for recording in readable])
    total = f"{seconds.sum() / 60:.1f} minutes; {seconds.min():.2f} to {seconds.max():.2f} s"
    yield "lengths", f"{total}, median {np.median(seconds):.2f} s"
    yield "rate", count_list(Counter(recording.sample_rate for recording in readable), f"{NBSP}Hz:")
    yield "channels", count_list(Counter(recording.channels for recording in readable), ":")
    for name in features.PAPER_FRONT_ENDS:
        front_end = features.FRONT_ENDS[name]
        samples = [-(-recording.samples * front_end.sample_rate // recording.sample_rate) for recording in readable]
        segments = sum(features.count_segments(n, front_end) for n in samples)
        yield f"{name} input", f"{segments} segments of {front_end.segment_samples / front_end.sample_rate:.2f} s"


def count_list(counts, unit=""):
    """{name: number} in sorted order as text: "a 4, b 4", with a unit "16000 Hz: 12, 48000 Hz: 1"."""
    return ", ".join(f"{name}{unit}{NBSP}{number}" for name, number in sorted(counts.items()))


# ------------------------------------------------------------------------------------------ problems


def find_faults(database, recordings, protocol, partial):
    """Yield (kind, line) of what training would refuse."""
    if database.partial and not partial:
        corpus, sizes = protocols.DATABASES[database.name], Counter(database.speakers.tolist())
        for difference in protocols.count_differences(corpus, database.counts(), sizes):
            yield "counts", f"found {difference}; restore what is missing, or use --partial to go on without it"
    for recording in recordings:
        if recording.fault:
            yield "recordings", recording.fault
    same = same_samples(database, recordings)
    for line in protocols.shared_recordings(database, digests_of(recordings), same):
        yield "recordings", line
    try:
        protocols.make_folds(database, protocol)
    except protocols.UsageError as error:
        yield "folds", str(error)


def find_notes(database, recordings, protocol, partial):
    """Yield (kind, line) of what training accepts, but its user should know."""
    if database.partial and partial:
        yield "counts", "the counts are not the published ones; tables will be marked: partial database"
    yield from duplicate_notes(database, recordings)
    for line in protocols.overlapping_parts(database, digests_of(recordings)):
        yield "overlaps", line
    for name in features.PAPER_FRONT_ENDS:
        front_end = features.FRONT_ENDS[name]
        shortest = front_end.segment_samples / front_end.sample_rate
        found = zip(recordings, database.ids, strict=True)
        short = [(recording.seconds, utterance) for recording, utterance in found if not recording.fault]
        short = sorted(pair for pair in short if pair[0] < shortest)
        if short:
            number = f"{len(short)} utterances are shorter than a segment of {name} ({shortest:.2f} s) and filled up"
            yield "short", f"{number} with silence, the shortest {short[0][1]} ({short[0][0]:.2f} s)"
    yield from class_notes(database)
    try:
        folds = protocols.make_folds(database, protocol)
    except protocols.UsageError:
        return  # a fault
    for fold in folds:
        try:
            protocols.split_validation_speakers(database, fold, seed=0)
        except protocols.UsageError as error:
            yield "validation", str(error)


def digests_of(recordings):
    """Digest of each file; of one that cannot be read a number of its own."""
    return [recording.digest or i for i, recording in enumerate(recordings)]


def same_samples(database, recordings):
    """Index (N,) of the first utterance with the same samples as each."""
    parts, same = parts_of(database), np.arange(len(recordings))
    readable = np.array([i for i, recording in enumerate(recordings) if not recording.fault], int)
    prints = np.array([recordings[i].fingerprint for i in readable], duplicates.FINGERPRINT)
    same[readable] = readable[duplicates.group(prints, lambda i: audio.read_samples(*parts[readable[i]]).wave)]
    return same


def duplicate_notes(database, recordings):
    """Yield the recordings that a speaker has twice; shared by two speakers they are a fault."""
    for j, i in enumerate(same_samples(database, recordings).tolist()):
        if i != j and database.speakers[i] == database.speakers[j]:
            names = " and ".join(database.ids[k] for k in (i, j))
            labels = " and ".join(f"{database.speakers[k]} {database.classes[database.labels[k]]}" for k in (i, j))
            what = "bytes" if recordings[i].digest == recordings[j].digest else "samples"
            yield "duplicates", f"{names} hold the same {what}, of {labels}; keep only the correct one"


def class_notes(database):
    """Yield the speakers without recordings of a class, and the classes of a single speaker."""
    names = sorted(set(database.speakers.tolist()))
    for name in names:
        missing = set(range(len(database.classes))) - set(database.labels[database.speakers == name].tolist())
        if missing:
            yield "classes", f"speaker {name} has no {', '.join(database.classes[i] for i in sorted(missing))}"
    for i, label in enumerate(database.classes):
        having = sorted(set(database.speakers[database.labels == i].tolist()))
        if len(having) == 1 < len(names):
            yield "classes", f"only speaker {having[0]} has {label}: when left out, {label} is not trained at all"


def shorten(problems):
    """Yield the lines of (kind, line), at most MAX_LINES of a kind."""
    by_kind = {}
    for kind, line in problems:
        by_kind.setdefault(kind, []).append(line)
    for kind, lines in by_kind.items():
        yield from lines[:MAX_LINES]
        if len(lines) > MAX_LINES:
            yield f"and {len(lines) - MAX_LINES} more of the same kind ({kind})"
