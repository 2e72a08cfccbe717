"""Generated speech in the folder layouts of the real databases, to test everything from files to tables.

    python -m common.synthetic --out data/synthetic                                   # 96 utterances
    python -m common.synthetic --layout casia --out data/synthetic-casia --size full

Layouts: iemocap, casia, abc, emodb, ravdess and manifest. Size `small` holds each class of each speaker, `full` the
published number of utterances; `manifest` has one size. The same arguments give the same bytes.

The sounds are pulses and noise that pass through four resonators. The emotion sets pitch, melody, rate, level and
timbre, the speaker adds a pitch, a tract length and a level of its own. Results on them mean nothing for real speech.
"""

import csv
import io
import os
import shutil
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy  # scipy.signal is loaded on first use, so that --help stays quick
import soundfile

import protocols
from common import cli

# --------------------------------------------------------------------------------------------- sound

RATE = 16_000  # Hz, of the synthesis and of all layouts but ravdess
LEVEL, LEVEL_RANGE = -25.0, (-33.0, -15.0)  # dBFS (RMS): of a neutral utterance, bounds of all
ROOM_NOISE = 10 ** (-68 / 20)  # RMS
PEAK = 0.95  # largest absolute sample

# The key is the start of a class's name: anger, angry and ang are the same emotion. The numbers: pitch (semitones above
# the speaker's), its deviation between syllables (semitones), its rise over the utterance (semitones), syllables per
# second, level (dB), brightness (octaves), breath (noise in the voice)
STYLES = {
    "neu": (0.0, 1.5, -3.0, 4.6, 0.0, 0.0, 0.1),
    "ang": (4.0, 2.8, -4.0, 5.4, 6.0, 1.6, 0.05),
    "hap": (5.5, 4.0, 2.0, 5.0, 2.5, 0.3, 0.3),
    "sad": (-1.0, 0.8, -3.0, 3.4, -5.0, -0.9, 0.3),
    "fea": (6.0, 2.0, 1.0, 5.8, -1.0, 0.3, 0.3),
    "sur": (6.5, 4.2, 6.0, 4.8, 2.0, 0.5, 0.15),
    "dis": (-1.0, 2.2, -5.0, 4.0, 0.0, 0.5, 0.2),
    "cal": (-1.0, 1.2, -2.0, 4.1, -3.0, -0.4, 0.2),
    "bor": (-1.5, 0.8, -2.0, 3.8, -3.0, -0.5, 0.15),
    "int": (1.0, 2.8, -3.0, 3.7, 2.0, 0.5, 0.2),
    "ner": (2.5, 2.4, 0.0, 5.6, -1.0, 0.1, 0.2),
    "tir": (-2.0, 0.8, -3.0, 3.5, -5.0, -0.8, 0.35),
}
STYLES |= dict(agg=STYLES["ang"], che=STYLES["hap"], exc=STYLES["hap"], fru=STYLES["ang"])  # others are neutral
SPREAD = (0.8, 0.3, 1.0, 0.3, 1.0, 0.2, 0.03)  # deviation of each between utterances
LOWEST = (-12.0, 0.2, -12.0, 2.0, -20.0, -2.0, 0.02)
VOWELS = np.array([  # formants (Hz) of a, e, i, o, u
    (750, 1200, 2500, 3400), (450, 1900, 2500, 3400), (290, 2250, 2900, 3500), (480, 850, 2450, 3300),
    (320, 800, 2300, 3300),
])  # fmt: skip


def generator(*key):
    """Random generator of a key of strings and non-negative integers."""
    return np.random.default_rng([zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key])


def resonators(formants):
    """Second-order sections (4, 6) with a pole pair at each formant (4,) in Hz and gain 1 at 0 Hz."""
    radius = np.exp(-np.pi * (60 + 0.05 * formants) / RATE)
    a1, a2 = -2 * radius * np.cos(2 * np.pi * formants / RATE), radius**2
    ones, zeros = np.ones_like(a1), np.zeros_like(a1)
    return np.stack([ones + a1 + a2, zeros, zeros, ones, a1, a2], 1)


def synthesize(speaker, emotion, text, seconds, rate=RATE, seed=0, take=""):
    """Speak a text: float32 samples (round(seconds * rate),) in [-1, 1].

    The same `text` (a number) has the same syllables with any speaker, emotion or `take` (the name of a repetition).
    `speaker` is any name, `emotion` a class of a database, `rate` (Hz) 16 000 or a multiple; speech ends at 8 kHz.
    """
    rng, voice = generator(seed, speaker, emotion, text, take), generator(seed, "voice", speaker)
    base, tract, gain = 110 * 2 ** voice.uniform(0, 1), voice.uniform(0.95, 1.12), voice.normal(0, 0.8)
    neutral, full = np.array(STYLES["neu"]), np.array(STYLES.get(emotion[:3], STYLES["neu"]))
    strength = np.clip(rng.normal(1, 0.2), 0.5, 1.5)  # from almost neutral to overacted
    style = np.maximum(neutral + strength * (full - neutral) + SPREAD * rng.standard_normal(len(SPREAD)), LOWEST)
    pitch, deviation, rise, tempo, level, brightness, breath = style

    n = -(-round(seconds * rate) * RATE // rate)
    syllables = max(1, round(seconds * tempo))
    time = np.linspace(-0.5, 0.5, n)
    melody = np.interp(time, np.linspace(-0.5, 0.5, syllables), deviation * rng.standard_normal(syllables))
    cycles = np.cumsum(base * 2 ** ((pitch + rise * time + melody) / 12)) / RATE
    pulses = np.diff(np.floor(cycles), prepend=0.0)  # 1 where a period starts
    noise = rng.standard_normal(n)
    pole = np.exp(-2 * np.pi * 1000 * 2**brightness / RATE)  # the source falls from 1000 Hz on
    source = scipy.signal.lfilter([1 - pole], [1, -pole], pulses / (pulses.std() + 1e-9) + breath * noise)

    wave, hiss = np.zeros(n), np.diff(noise, prepend=0.0)
    edges = np.linspace(0.04 * n, 0.96 * n, syllables + 1).astype(int)  # silence before and after
    for start, end, kind in zip(edges, edges[1:], generator("text", text).integers(10, size=syllables)):
        vowel = start + (end - start) // 4 if kind % 2 else start  # half of the syllables start with a hiss
        wave[start:vowel] = 0.2 * np.hanning(vowel - start) * hiss[start:vowel]
        voiced = scipy.signal.sosfilt(resonators(tract * VOWELS[kind // 2]), source[vowel:end])
        wave[vowel:end] = np.sqrt(np.hanning(end - vowel)) * voiced

    if rate != RATE:
        wave = scipy.signal.resample_poly(wave, rate // RATE, 1)[: round(seconds * rate)]
    wave *= 10 ** (np.clip(LEVEL + level + gain, *LEVEL_RANGE) / 20) / (wave.std() + 1e-9)
    wave += ROOM_NOISE * rng.standard_normal(len(wave))
    return (wave * min(1.0, PEAK / np.abs(wave).max())).astype(np.float32)


# ------------------------------------------------------------------------------------------- layouts


@dataclass(frozen=True)
class Recording:
    """An utterance as it is planned."""

    path: str  # relative to the corpus, with forward slashes
    speaker: str
    emotion: str  # class of the database
    label: str  # as the database spells it
    text: int  # number of the sentence
    usable: bool = True  # False: readers must pass over it
    seconds: float = 0.0
    rate: int = RATE  # Hz
    channels: int = 1
    extra_chunks: bool = False  # in the file's header


class Layout(NamedTuple):
    """A database as it is generated."""

    database: str  # in protocols.DATABASES
    plan: Callable  # {(speaker, emotion): utterances} -> Recording, ...
    speakers: list  # in sorted order
    small: int  # utterances of a speaker in a class of size `small`
    seconds: tuple  # shortest and mean duration of size `full`


IGNORED_LABELS = ("xxx", "exc", "fru", "sur", "fea", "oth", "dis")  # of IEMOCAP
EMODB_TEXTS = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")

# What macOS writes next to a file on a foreign disk, named ._file, and what recorders write into a header
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\x02\x00\x00\x00\x09\xff\xfe"
EXTRA_CHUNKS = b"".join(
    name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    for name, data in ((b"LIST", b"INFOISFT\x06\0\0\0bench\0"), (b"note", b"odd"))
)


def proportional_table(rows, columns):
    """Near-proportional table {(row, column): count} with exactly these totals {row: total}, {column: total}."""
    total = sum(rows.values())
    table = {(row, column): rows[row] * columns[column] // total for row in rows for column in columns}
    for row, column in table:  # distribute what rounding left over
        row_rest = rows[row] - sum(table[row, other] for other in columns)
        column_rest = columns[column] - sum(table[other, column] for other in rows)
        table[row, column] += min(row_rest, column_rest)
    return table


def inverse(mapping):
    """{value: key} of {key: value}."""
    return {value: key for key, value in mapping.items()}


def plan_iemocap(table):
    """Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M003.wav: the speaker's letter is in the last field."""
    labels, turns = inverse(protocols.IEMOCAP_LABELS), Counter()
    for number, speaker in enumerate(LAYOUTS["iemocap"].speakers):
        session, letter = speaker
        scenes = [f"Ses0{session}{scene}" for scene in ("F_impro01", "M_impro01", "F_impro05", "M_impro05")]
        if session == "3":  # recorded in two parts
            scenes[-1:] = ["Ses03M_impro05a", "Ses03M_impro05b"]
        emotions = [emotion for emotion in labels for _ in range(table[speaker, emotion])]
        spoken = [(scenes[index % len(scenes)], emotion, labels[emotion]) for index, emotion in enumerate(emotions)]
        for index, scene in enumerate(scenes, number):
            label = IGNORED_LABELS[index % len(IGNORED_LABELS)]
            spoken.append((scene, label, label))
        spoken += [(f"Ses0{session}F_script01_1", emotion, labels[emotion]) for emotion in ("neutral", "angry")]
        for text, (scene, emotion, label) in enumerate(spoken):
            name = f"{scene}_{letter}{turns[scene, letter]:03d}"
            turns[scene, letter] += 1
            path, usable = f"Session{session}/sentences/wav/{scene}/{name}.wav", "impro" in scene and emotion in labels
            yield Recording(path, speaker, emotion, label, text, usable=usable)


def plan_casia(table):
    """wangzhe/angry/201.wav: all speak the same 50 sentences in all emotions."""
    for (speaker, emotion), count in table.items():
        for text in range(201, 201 + count):
            yield Recording(f"{speaker}/{emotion}/{text}.wav", speaker, emotion, emotion, text)


def plan_abc(table):
    """wav/01F/angry_01.wav, listed in abc.csv, where two classes have two spellings."""
    spellings = inverse(protocols.ABC_SPELLINGS)
    for utterance in plan_manifest(table):
        other = spellings.get(utterance.emotion, utterance.emotion)
        yield replace(utterance, label=other) if utterance.text % 2 else utterance


def plan_emodb(table):
    """wav/03a01Fa.wav: speaker, text, emotion, version."""
    letters = inverse(protocols.EMODB_LABELS)
    for (speaker, emotion), count in table.items():
        for number in range(count):
            version, text = divmod(number, len(EMODB_TEXTS))
            path = f"wav/{speaker}{EMODB_TEXTS[text]}{letters[emotion]}{'abcdef'[version]}.wav"
            yield Recording(path, speaker, emotion, letters[emotion], text)


def plan_ravdess(table):
    """Actor_01/03-01-05-01-02-01-01.wav: 48 kHz, some in stereo or with more header; 03-02-... is a song."""
    codes = inverse(protocols.RAVDESS_LABELS)
    for (speaker, emotion), count in table.items():
        actor = int(speaker[-2:])
        for number in range(count):
            intensity, repetition, statement = 1 + number // 4, 1 + number // 2 % 2, 1 + number % 2
            name = f"{codes[emotion]}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
            stereo, extra_chunks = actor == 5, actor == 11
            path, channels = f"{speaker}/03-01-{name}.wav", 2 if stereo else 1
            spoken = Recording(path, speaker, emotion, emotion, statement, True, 0.0, 3 * RATE, channels, extra_chunks)
            yield spoken
            if emotion == "calm" and number == 0:
                yield replace(spoken, path=f"{speaker}/03-02-{name}.wav", usable=False)


def plan_manifest(table):
    """wav/S1/angry_01.wav, listed in manifest.csv."""
    for (speaker, emotion), count in table.items():
        for number in range(count):
            yield Recording(f"wav/{speaker}/{emotion}_{number + 1:02d}.wav", speaker, emotion, emotion, number)


LAYOUTS = {
    "iemocap": Layout("iemocap", plan_iemocap, "1F 1M 2F 2M 3F 3M 4F 4M 5F 5M".split(), 2, (0.7, 4.45)),
    "casia": Layout("casia", plan_casia, "ZhaoZuoxiang liuchanhg wangzhe zhaoquanyin".split(), 2, (1.0, 1.88)),
    "abc": Layout("abc", plan_abc, "01F 02F 03F 04F 05M 06M 07M 08M".split(), 2, (1.0, 9.0)),
    "emodb": Layout("emodb", plan_emodb, "03 08 09 10 11 12 13 14 15 16".split(), 1, (1.2, 2.78)),
    "ravdess": Layout("ravdess", plan_ravdess, [f"Actor_{n:02d}" for n in range(1, 25)], 1, (2.9, 3.7)),
    "manifest": Layout("synthetic", plan_manifest, "S1 S2 S3 S4".split(), 6, (0.5, 1.5)),
}
SMALL_SECONDS = (0.5, 1.1)  # shortest and mean duration of size `small`


def plan_corpus(layout, size="small", seed=0, speakers=None):
    """List the Recordings of a corpus without making a sound; arguments as of `write_corpus`.

    Of size `full`, classes and (where they are known) speakers have the published number of utterances.
    """
    if layout not in LAYOUTS or size not in ("small", "full") or seed < 0:
        raise ValueError(f"{layout}, {size}, {seed}: choose {', '.join(LAYOUTS)}; small or full; a seed from 0")
    chosen = LAYOUTS[layout]
    corpus, names = protocols.DATABASES[chosen.database], chosen.speakers
    share, rest = divmod(sum(corpus.classes.values()), len(names))
    sizes = corpus.speaker_sizes or [share + (index < rest) for index in range(len(names))]
    table = proportional_table(dict(zip(names, sizes, strict=True)), corpus.classes)
    if size == "small":
        table = {cell: min(count, chosen.small) for cell, count in table.items()}
    plan = list(chosen.plan(table))
    shortest, mean = SMALL_SECONDS if size == "small" and layout != "manifest" else chosen.seconds
    seconds = shortest + generator(seed, "seconds", layout, size).gamma(3, (mean - shortest) / 3, len(plan))
    plan = [replace(utterance, seconds=length) for utterance, length in zip(plan, seconds.round(3).tolist())]
    return [utterance for utterance in plan if utterance.speaker in names[:speakers]]


# ------------------------------------------------------------------------------------------- writing


def iemocap_annotations(plan):
    """Files {path: text} with the labels of a plan, and with ratings that are not for reading."""
    files, clocks = {}, {}
    for utterance in plan:
        session, _, _, scene, file = utterance.path.split("/")
        name, folder, start = file.removesuffix(".wav"), f"{session}/dialog/EmoEvaluation", clocks.get(scene, 6.29)
        clocks[scene] = end = start + utterance.seconds
        head = f"[{start:.4f} - {end:.4f}]\t{name}\t{utterance.label}\t[2.5000, 3.0000, 2.5000]\n"
        raters = "C-E2:\tNeutral;\t()\nC-F1:\tAnger; Other;\t(a comment)\nA-E2:\tval 3; act 2; dom  3;\t()\n"
        files.setdefault(f"{folder}/{scene}.txt", "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n")
        files[f"{folder}/{scene}.txt"] += f"\n{head}{raters}"
        categories = f"{folder}/Categorical/{scene}_e2_cat.txt"
        files[categories] = files.get(categories, "") + f"{name} :Neutral; ()\n"
    return files


def annotations(layout, plan):
    """Files {path: bytes} of a corpus that are no recordings: its labels, and AppleDouble files."""
    if layout in ("abc", "manifest"):
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(("path", "emotion", "speaker"))
        rows.writerows((utterance.path, utterance.label, utterance.speaker) for utterance in plan)
        return {f"{layout}.csv": text.getvalue().encode()}
    files = {path: text.encode() for path, text in iemocap_annotations(plan).items()} if layout == "iemocap" else {}
    for path in map(Path, [plan[0].path, *list(files)[:1]]):
        files[path.with_name(f"._{path.name}").as_posix()] = APPLE_DOUBLE
    return files


def write_utterance(utterance, folder, seed):
    """Synthesize a planned utterance and write it as 16-bit WAV in the corpus `folder`."""
    u, path = utterance, folder / utterance.path
    wave = synthesize(u.speaker, u.emotion, u.text, u.seconds, u.rate, seed, u.path)
    soundfile.write(path, wave if u.channels == 1 else np.stack([wave, 0.8 * wave], 1), u.rate, subtype="PCM_16")
    if u.extra_chunks:  # between the format and the samples
        data = path.read_bytes()
        start = data.index(b"data")
        size = struct.pack("<I", len(data) + len(EXTRA_CHUNKS) - 8)
        path.write_bytes(data[:4] + size + data[8:start] + EXTRA_CHUNKS + data[start:])


def is_occupied(folder):
    """True for a file, and for a folder that is not empty."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def write_corpus(layout, folder, size="small", seed=0, speakers=None, seconds=None):
    """Write a corpus; `folder` appears when it is complete. Return its number of usable utterances.

    `layout` is a key of LAYOUTS, `size` "small" or "full"; `seed` (from 0) changes sounds and durations. For quick
    tests: the first `speakers` only, and no recording longer than `seconds`. Raises FileExistsError if the folder
    is not empty, ValueError for an unknown layout or size or a negative seed.
    """
    plan, folder = plan_corpus(layout, size, seed, speakers), Path(folder).resolve()
    if seconds:
        plan = [replace(utterance, seconds=min(seconds, utterance.seconds)) for utterance in plan]
    if is_occupied(folder):
        raise FileExistsError(f"{folder}: exists already; choose a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        files = annotations(layout, plan)
        for path in {(unfinished / path).parent for path in [*files, *(utterance.path for utterance in plan)]}:
            path.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            (unfinished / path).write_bytes(data)
        for utterance in plan:
            write_utterance(utterance, unfinished, seed)
        try:
            unfinished.rename(folder)
        except OSError:
            if not is_occupied(folder):  # else another process was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sum(utterance.usable for utterance in plan)


def main(arguments=None):
    parser = cli.CommandParser(__doc__)
    parser.prog = "python -m common.synthetic"
    add = parser.add_argument
    add("--layout", choices=LAYOUTS, default="manifest", help="folders and names of this database (default manifest)")
    add("--out", type=Path, required=True, help="folder to write; new or empty")
    add("--size", choices=("small", "full"), default="small", help="few or the published number (default small)")
    add("--seed", type=int, default=0, help="of sounds and durations, from 0 (default 0)")
    options = parser.parse_args(arguments)
    try:
        count = write_corpus(options.layout, options.out, options.size, options.seed)
    except (FileExistsError, ValueError) as error:
        parser.error(error)
    print(f"{options.out}: {count} usable utterances, layout {options.layout}, {options.size}, seed {options.seed}")


if __name__ == "__main__":
    with cli.exit_on_error("common.synthetic", interrupted="nothing was written"):
        main()
