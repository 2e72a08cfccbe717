"""What a database holds and what is wrong with it, before anything is trained; reads every recording once.

    python protocols.py --check --db casia --root path/to/casia
    python protocols.py --check --db my/corpus.csv

Prints utterances, speakers, classes, lengths, rates and channels, then one line for each fault (training would
refuse it) and each note (it would not). Exit code 0 if the database can be trained, 3 if not.
"""

import hashlib
import os
import shlex
import sys
import textwrap
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

import features
import protocols
import results

WRAP = textwrap.TextWrapper(80, subsequent_indent=13 * " ", break_long_words=False, break_on_hyphens=False)
MOST_LINES = 20  # faults or notes of one kind that are printed; the rest is counted
TIE = "\xa0"  # a space at which no line is broken
MOST_SPEAKERS = 30  # listed one by one


class Recording(NamedTuple):
    rate: int = 0  # Hz, 0 where it cannot be read
    channels: int = 0
    samples: int = 0  # per channel, at that rate
    digest: bytes = b""  # SHA-256 of the file
    fault: str = ""

    @property
    def seconds(self):
        return self.samples / self.rate


def inspect(path):
    """Read a recording as training does, but for the resampling."""
    import soundfile

    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        about = soundfile.info(path)
    except (OSError, RuntimeError, TypeError, ValueError):
        about = None  # read_audio has words for it
    try:
        with features.enough_memory(path):
            wave = features.read_audio(path, about.samplerate if about else features.FrontEnd.rate)
    except features.AudioError as error:
        return Recording(fault=str(error))
    return Recording(about.samplerate, about.channels, len(wave), digest)


def inspect_all(database):
    """A Recording for each utterance, in order."""
    paths = [str(database.root / path) for path in database.paths]
    show = results.Progress(f"{database.name}: reading {len(paths)} recordings", sys.stderr)
    pool, found = ThreadPoolExecutor(os.cpu_count()), []
    try:
        for recording in pool.map(inspect, paths):
            found.append(recording)
            show.running(f"{100 * len(found) // len(paths)} %")
    finally:
        pool.shutdown(cancel_futures=True)
    show.line(f"{sum(not one.fault for one in found)} can be used")
    return found


# ------------------------------------------------------------------------------- what was found, in words


def describe(database, recordings):
    """(heading, text) of each part of the summary."""
    speakers = Counter(database.speakers.tolist())
    sizes = sorted(speakers.values())
    listed = ", ".join(f"{name}{TIE}{size}" for name, size in sorted(speakers.items()))
    if len(speakers) > MOST_SPEAKERS:
        listed = f"{sizes[0]} to {sizes[-1]} utterances each, median {sizes[len(sizes) // 2]}"
    yield "database", f"{database.name}, {database.root}"
    yield "utterances", str(len(database.ids))
    yield f"{len(database.classes)} classes", ", ".join(f"{name}{TIE}{n}" for name, n in database.counts().items())
    yield f"{len(speakers)} speakers", listed
    if database.sessions.astype(bool).all():
        sessions = Counter(database.sessions.tolist())
        yield f"{len(sessions)} sessions", ", ".join(f"{name}{TIE}{n}" for name, n in sorted(sessions.items()))
    sound = [one for one in recordings if one.rate]
    if not sound:
        return
    seconds = np.array([one.seconds for one in sound])
    told = f"{seconds.sum() / 60:.1f} minutes; {seconds.min():.2f} to {seconds.max():.2f} s"
    yield "lengths", f"{told}, median {np.median(seconds):.2f} s"
    for what, unit in (("rate", f"{TIE}Hz"), ("channels", "")):
        counts = Counter(getattr(one, what) for one in sound)
        yield what, ", ".join(f"{value}{unit}:{TIE}{n}" for value, n in sorted(counts.items()))
    for name, front_end in features.FRONT_ENDS.items():
        samples = [-(-one.samples * front_end.rate // one.rate) for one in sound]
        segments = sum(features.count_segments(n, front_end) for n in samples)
        yield f"{name} input", f"{segments} segments of {front_end.samples / front_end.rate:.2f} s"


# ------------------------------------------------------------------------------------------- problems


def find_faults(database, recordings, protocol, partial):
    """Yield (kind, line) of what training would refuse."""
    if database.partial and not partial:
        for fault in protocols.count_faults(
            protocols.DATABASES[database.name], database.counts(), Counter(database.speakers.tolist())
        ):
            yield "counts", f"found {fault}; restore what is missing, or say --partial to go on with what is there"
    for one in recordings:
        if one.fault:
            yield "recordings", one.fault
    try:
        protocols.refuse_shared_recordings(database, [one.digest or i for i, one in enumerate(recordings)])
    except protocols.DatabaseError as error:
        yield "recordings", str(error)
    try:
        protocols.make_folds(database, protocol)
    except protocols.UsageError as error:
        yield "folds", str(error)


def find_notes(database, recordings, protocol, partial):
    """Yield (kind, line) of what training accepts, but its user should know."""
    if database.partial and partial:
        yield "counts", "the counts are not the published ones; tables will say: partial database"
    first = {}
    for i, one in enumerate(recordings):
        both = (first.setdefault(one.digest, i), i)
        if one.digest and both[0] != i and len({database.speakers[j] for j in both}) == 1:
            names = " and ".join(database.paths[j] for j in both)
            of = " and ".join(f"{database.speakers[j]} {database.classes[database.labels[j]]}" for j in both)
            yield "duplicates", f"{names} hold the same bytes, of {of}; keep one of them"
    for name, front_end in features.FRONT_ENDS.items():
        least = front_end.samples / front_end.rate
        short = [path for path, one in zip(database.paths, recordings) if one.rate and one.seconds < least]
        if short:
            told = f"{len(short)} utterances are shorter than a segment of {name} ({least:.2f} s) and filled up"
            yield "short", f"{told} with silence, such as {short[0]}"
    yield from class_notes(database)
    try:
        folds = protocols.make_folds(database, protocol)
    except protocols.UsageError:
        return  # a fault
    for fold in folds:
        try:
            protocols.hold_out(database, fold, seed=0)
        except protocols.UsageError as error:
            yield "validation", str(error)


def class_notes(database):
    """Which speakers lack a class, and which classes one speaker alone has."""
    names = sorted(set(database.speakers.tolist()))
    for name in names:
        missing = set(range(len(database.classes))) - set(database.labels[database.speakers == name].tolist())
        if missing:
            yield "classes", f"speaker {name} has no {', '.join(database.classes[i] for i in sorted(missing))}"
    for i, label in enumerate(database.classes):
        of = sorted(set(database.speakers[database.labels == i].tolist()))
        if len(of) == 1 < len(names):
            yield "classes", f"only speaker {of[0]} has {label}: when left out, {label} is not trained at all"


def shorten(problems):
    """Lines of (kind, line), at most MOST_LINES of a kind."""
    by_kind = {}
    for kind, line in problems:
        by_kind.setdefault(kind, []).append(line)
    for kind, lines in by_kind.items():
        yield from lines[:MOST_LINES]
        if len(lines) > MOST_LINES:
            yield f"and {len(lines) - MOST_LINES} more of the same kind ({kind})"


# ---------------------------------------------------------------------------------------- the command


def parse_command_line(arguments=None):
    parser = results.OneLineParser(__doc__)
    add = parser.add_argument
    add("--check", action="store_true", required=True, help="list what a database holds, and its problems")
    add("--db", default="synthetic", help="database, or the path of a manifest .csv (default: synthetic)")
    add("--root", help="folder of the recordings (default: $SER_DATA/<db>, else data/<db>, or a manifest's own)")
    add("--protocol", default="speaker", choices=protocols.PROTOCOLS, help="what a fold leaves out (default: speaker)")
    add("--partial", action="store_true", help="accept counts that differ from the published ones, as train.py does")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_command_line(arguments)
    database = protocols.open_database(options.db, options.root, partial=True)
    recordings = inspect_all(database)
    for heading, text in describe(database, recordings):
        print(WRAP.fill(f"{heading:<13}{text}").replace(TIE, " "))
    faults = list(find_faults(database, recordings, options.protocol, options.partial))
    for line in shorten(faults):
        print(f"fault: {line}")
    for line in shorten(find_notes(database, recordings, options.protocol, options.partial)):
        print(f"note: {line}")
    if faults:
        told = "1 fault; mend it" if len(faults) == 1 else f"{len(faults)} faults; mend them"
        print(f"{database.name}: {told} before training")
        sys.exit(results.EXIT_DATA)
    flags = [f"--db {shlex.quote(options.db)}", options.root and f"--root {shlex.quote(options.root)}"]
    flags += [options.protocol != "speaker" and f"--protocol {options.protocol}", database.partial and "--partial"]
    print(f"no faults; to train: python train.py {' '.join(filter(None, flags))}")


def command():
    with results.plain_errors("protocols.py", interrupted="nothing was changed"):
        main()
