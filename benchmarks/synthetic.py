"""Synthetic emotional speech, written to disk in the folder layouts of the real databases.

A source-filter synthesiser: a glottal pulse train and noise drive five formant resonators. The
emotion sets pitch, its range and slope, speaking rate, level, spectral tilt, jitter and breath; the
speaker sets base pitch, formant scale and microphone level. The corpora test the whole path from
files to tables without any recording. A result on them says nothing about real emotion.

    python benchmarks/synthetic.py --layout manifest --out data/synthetic
    python benchmarks/synthetic.py --layout casia --out data/synthetic-casia --size full --seed 0

Layouts: iemocap, casia, abc, emodb, ravdess and manifest (96 utterances in either size). Size
`small` holds every class of every speaker, `full` the published counts. The same arguments give the
same bytes, whatever the number of processes. The last line printed says what was written.
"""

import argparse
import csv
import io
import os
import shutil
import struct
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import scipy  # its signal module loads on first use: --help stays quick
import soundfile

# ---------------------------------------------------------------------------- constants

RATE = 16000  # Hz, of the synthesis and of every layout but RAVDESS
SHIFT = 160  # samples at 16 kHz between frames (10 ms)
WINDOW = 320  # samples at 16 kHz in a frame (20 ms)
SEGMENT = 80  # frames in a segment
BLOCK = 320  # samples during which the resonators stand still (20 ms)
LEVEL = -25.0  # dBFS, RMS of a neutral utterance
LOUDEST, SOFTEST = -15.0, -33.0  # dBFS, bounds on the RMS of any utterance
PEAK = 0.95  # largest absolute sample
ROOM = 10 ** (-68 / 20)  # RMS of the noise of the room

# pitch (semitones above the speaker's base), pitch range (semitones, deviation of the accents),
# slope (semitones from first to last syllable), rate (syllables/s), level (dB),
# tilt (octaves from 1400 Hz, where the source starts to fall faster), jitter (%), breath (ratio)
EMOTIONS = {
    "neutral": (0.0, 1.6, -3.0, 4.6, 0.0, 0.0, 0.8, 0.06),
    "angry": (4.5, 3.2, -4.0, 5.3, 6.0, 1.3, 2.0, 0.04),
    "happy": (4.0, 3.6, 1.0, 5.1, 3.0, 0.6, 1.0, 0.07),
    "sad": (-1.0, 0.9, -3.0, 3.6, -5.0, -0.9, 1.2, 0.16),
    "fearful": (6.0, 2.2, 1.0, 5.8, -1.0, 0.3, 3.0, 0.14),
    "surprised": (6.5, 4.2, 6.0, 4.8, 2.0, 0.5, 1.0, 0.08),
    "disgust": (-1.0, 2.2, -5.0, 4.0, 0.0, 0.5, 3.0, 0.08),
    "calm": (-1.0, 1.2, -2.0, 4.1, -3.0, -0.4, 0.6, 0.12),
    "bored": (-1.5, 0.8, -2.0, 3.8, -3.0, -0.5, 0.8, 0.08),
    "intoxicated": (1.0, 2.8, -3.0, 3.7, 2.0, 0.5, 3.5, 0.10),
    "nervous": (2.5, 2.4, 0.0, 5.6, -1.0, 0.1, 2.5, 0.10),
    "tired": (-2.0, 0.8, -3.0, 3.5, -5.0, -0.8, 1.5, 0.18),
}
SPREAD = (1.2, 0.3, 1.2, 0.4, 1.8, 0.3, 0.2, 0.02)  # deviation of each between utterances
FLOOR = (-12.0, 0.2, -12.0, 2.0, -20.0, -2.0, 0.1, 0.01)
ALIASES = dict(fear="fearful", surprise="surprised", aggressive="angry", cheerful="happy")

# Formants (Hz, average man), voicing and aspiration; q is silence
PHONES = {
    "a": (750, 1200, 2500, 3400, 4500, 1.0, 0.0),
    "e": (450, 1900, 2500, 3400, 4500, 1.0, 0.0),
    "i": (290, 2250, 2900, 3500, 4500, 0.9, 0.0),
    "o": (480, 850, 2450, 3300, 4500, 1.0, 0.0),
    "u": (320, 800, 2300, 3300, 4500, 0.9, 0.0),
    "y": (300, 1800, 2300, 3300, 4500, 0.9, 0.0),
    "m": (250, 1000, 2200, 3300, 4500, 0.4, 0.0),
    "n": (250, 1500, 2500, 3300, 4500, 0.4, 0.0),
    "l": (350, 1100, 2600, 3300, 4500, 0.6, 0.0),
    "h": (500, 1500, 2500, 3500, 4500, 0.0, 0.1),
    "s": (350, 1700, 2600, 3400, 4500, 0.0, 0.0),
    "S": (350, 1900, 2600, 3400, 4500, 0.0, 0.0),
    "f": (350, 1100, 2300, 3300, 4500, 0.0, 0.0),
    "q": (450, 1500, 2500, 3400, 4500, 0.0, 0.0),
}
FRICATION = {"s": (5000, 1500, 0.25), "S": (2900, 1200, 0.3), "f": (3500, 4000, 0.1)}  # Hz, Hz, RMS
ONSETS = ("m", "n", "l", "s", "S", "f", "h", "qh", "qs", "q", "")
VOWELS = ("a", "e", "i", "o", "u", "y")
CODAS = ("", "", "", "n", "m", "s", "l")

CASIA = ("angry", "fear", "happy", "neutral", "sad", "surprise")
CASIA_SPEAKERS = ("ZhaoZuoxiang", "liuchanhg", "wangzhe", "zhaoquanyin")
IEMOCAP = dict(ang=289, hap=284, neu=1099, sad=608)
IEMOCAP_SPEAKERS = {
    "1F": 217,
    "1M": 205,
    "2F": 185,
    "2M": 208,
    "3F": 264,
    "3M": 274,
    "4F": 149,
    "4M": 221,
    "5F": 298,
    "5M": 259,
}
IEMOCAP_LABELS = dict(
    ang=("angry", "Anger"),
    hap=("happy", "Happiness"),
    sad=("sad", "Sadness"),
    neu=("neutral", "Neutral"),
    exc=("happy", "Excited"),
    dis=("disgust", "Disgust"),
    fru=("angry", "Frustration"),
    sur=("surprised", "Surprise"),
    fea=("fearful", "Fear"),
    oth=("neutral", "Other"),
    xxx=("neutral", "Neutral"),
)
IGNORED = ("xxx", "exc", "fru", "sur", "fea", "oth", "dis")
ABC = dict(aggressive=95, cheerful=105, intoxicated=33, nervous=93, neutral=79, tired=25)
ABC_SPEAKERS = {"01F": 54, "02F": 54, "03F": 54, "04F": 54, "05M": 54, "06M": 54, "07M": 53, "08M": 53}
EMODB = {"W": 127, "L": 81, "E": 46, "A": 69, "F": 71, "T": 62, "N": 79}
EMODB_EMOTIONS = dict(W="angry", L="bored", E="disgust", A="fearful", F="happy", T="sad", N="neutral")
EMODB_SPEAKERS = {"03": 49, "08": 58, "09": 43, "10": 38, "11": 55, "12": 35, "13": 61, "14": 69, "15": 56, "16": 71}
EMODB_TEXTS = ("a01", "a02", "a04", "a05", "a07", "b01", "b02", "b03", "b09", "b10")
RAVDESS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
WOMEN = {
    "liuchanhg",
    "zhaoquanyin",
    "S2",
    "S4",
    "08",
    "09",
    "13",
    "14",
    "16",
    *(f"Actor_{number:02d}" for number in range(2, 25, 2)),
}

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\x02\x00\x00\x00\x09\xff\xfe"
EXTRA_CHUNKS = (
    b"LIST"
    + struct.pack("<I", 18)
    + b"INFOISFT"
    + struct.pack("<I", 6)
    + b"bench\0"
    + b"note"
    + struct.pack("<I", 3)
    + b"odd\0"
)  # an odd length, padded


@dataclass(frozen=True)
class Utterance:
    """One planned recording."""

    path: str  # relative to the corpus, with forward slashes
    speaker: str
    emotion: str  # a name in EMOTIONS or ALIASES
    label: str  # as the database spells it
    text: int  # number of the sentence: the same number, the same phones
    samples: int
    take: int = 0  # tells repetitions of one text apart
    rate: int = RATE  # Hz
    channels: int = 1
    extra_chunks: bool = False
    usable: bool = True  # False: the protocol must leave it out


def generator(*key):
    """Random generator of a key of non-negative integers and strings."""
    return np.random.default_rng([zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key])


# ---------------------------------------------------------------------------- synthesis


def voice_of(speaker, seed):
    """Base pitch (Hz), formant scale and level (dB) of a speaker."""
    rng = generator(seed, "voice", speaker)
    woman = speaker in WOMEN or speaker.endswith("F")
    pitch, scale = (200.0, 1.16) if woman else (115.0, 1.0)
    return pitch * 2 ** rng.uniform(-0.25, 0.25), scale * rng.uniform(0.94, 1.06), rng.normal(0, 1.2)


def phones_of(text, seconds, rate, rng):
    """Phones of a text spoken for `seconds` at about `rate` syllables/s, their durations (s), and
    which of them are the vowels.

    The phones depend on the text alone, the time decides how many of them are reached.
    """
    edge = min(0.1, 0.08 * seconds) * rng.uniform(0.6, 1.4, 2)  # silence before and after
    room, phrase = seconds - edge.sum(), rng.integers(7, 13)
    names, lengths, vowels, spent = ["q"], [edge[0]], [], 0.0
    for onset, vowel, coda in generator("text", text).integers(1 << 30, size=(int(9 * room) + 3, 3)):
        if spent >= room:
            break
        onset, vowel, coda = ONSETS[onset % len(ONSETS)], VOWELS[vowel % 6], CODAS[coda % len(CODAS)]
        pause = "q" if vowels and len(vowels) % phrase == 0 and room - spent > 1.0 else ""
        seconds_each = [rng.uniform(0.15, 0.4)] * len(pause) + list(
            np.exp(rng.normal(0, 0.15))
            / rate
            * np.array([0.3 / max(len(onset), 1)] * len(onset) + [0.5] + [0.2] * len(coda))
        )
        vowels.append(len(names) + len(pause + onset))
        names += pause + onset + vowel + coda
        lengths += seconds_each
        spent += sum(seconds_each)
    lengths[1:] = [length * room / spent for length in lengths[1:]]
    return names + ["q"], np.array([*lengths, edge[1]]), np.array(vowels)


def glottal_source(pitch, tilt, jitter, rng):
    """Pulses (n,) at a pitch (n,) in Hz that fall faster from tilt (Hz) on, and their phase (n,)."""
    step = pitch / RATE  # cycles per sample
    wobble = rng.standard_normal((2, int(1.5 * step.sum()) + 2))  # of period and of height
    step = step * (1 + np.clip(jitter * wobble[0, np.cumsum(step).astype(int)], -0.3, 0.3))
    phase = np.cumsum(step)
    cycle = phase.astype(int)
    phase -= cycle
    # A sawtooth, each step rounded by a polynomial over two samples against aliasing
    after, before = np.minimum(phase / step, 1), np.minimum((1 - phase) / step, 1)
    saw = 2 * phase - 1 + (1 - after) ** 2 - (1 - before) ** 2
    saw *= 1 + np.clip(2 * jitter * wobble[1, cycle], -0.5, 0.5)
    pole = np.exp(-2 * np.pi * tilt / RATE)
    return scipy.signal.lfilter([1 - pole], [1, -pole], saw), phase


def resonators(centre, width):
    """Second-order sections (..., 6) with a pole pair at centre (...) of a width (...), in Hz."""
    centre, radius = np.minimum(centre, 0.46 * RATE), np.exp(-np.pi * width / RATE)
    sections = np.zeros((*np.shape(centre), 6))
    sections[..., 3] = 1
    sections[..., 4] = -2 * radius * np.cos(2 * np.pi * centre / RATE)
    sections[..., 5] = radius**2
    sections[..., 0] = sections[..., 3:].sum(-1)  # gain 1 at 0 Hz
    return sections


def vocal_tract(source, formants):
    """Pass source (n,) through formants (blocks, 5) in Hz, which stand still during a block."""
    sections = resonators(formants, 50 + 0.045 * formants)  # (blocks, 5, 6)
    # A section must hand its two last outputs to the next block, but the state of sosfilt holds them
    # times the old coefficients, and clicks where these change: carry turns old products into new.
    a1, a2 = sections[..., 4], sections[..., 5]
    products = -np.stack([a1, a2, a2, 0 * a2], -1).reshape(*a1.shape, 2, 2)  # of 2 outputs
    carry = products[1:] @ np.linalg.inv(products[:-1])  # (blocks - 1, 5, 2, 2)
    state, out = np.zeros((formants.shape[1], 2)), np.empty_like(source)
    for index, section in enumerate(sections):
        block = slice(index * BLOCK, (index + 1) * BLOCK)
        if index:
            state = (carry[index - 1] @ state[..., None])[..., 0]
        out[block], state = scipy.signal.sosfilt(section, source[block], zi=state)
    return out


def frication(names, track, scale, rng):
    """Noise (n,) of the fricatives among the phones; track turns a value per phone into (n,)."""
    out = 0.0
    for phone in sorted(FRICATION.keys() & set(names)):
        centre, width, amplitude = FRICATION[phone]
        envelope = track([float(name == phone) for name in names])
        noise = rng.standard_normal(len(envelope))
        noise = scipy.signal.sosfilt(resonators(np.array([centre * scale]), width), noise)
        noise = np.diff(noise, prepend=0.0)  # nothing at 0 Hz
        out = out + amplitude * envelope * noise / noise.std()
    return out


def style_of(emotion, rng):
    """The eight numbers of EMOTIONS as one utterance has them: between neutral and overacted."""
    neutral, full = np.array(EMOTIONS["neutral"]), np.array(EMOTIONS[emotion])
    strength = np.clip(rng.normal(0.85, 0.3), 0.2, 1.4)
    drawn = neutral + strength * (full - neutral) + SPREAD * rng.standard_normal(len(SPREAD))
    return np.maximum(drawn, FLOOR)


def speak(text, n, style, base, scale, rng):
    """One utterance (n,) at RATE, of any level: a text in a style, by a voice."""
    height, spread, slope, tempo, _, tilt, jitter, breath = style
    names, lengths, vowels = phones_of(text, n / RATE, tempo, rng)
    ends, targets = np.cumsum(lengths), np.array([PHONES[name] for name in names])  # (p, 7)
    knots = np.stack([ends - 0.75 * lengths, ends - 0.25 * lengths], 1).ravel()  # (2p,)
    time = np.arange(n) / RATE  # (n,)

    def track(values, at=time):  # a plateau in each phone, straight lines between them
        return np.interp(at, knots, np.repeat(values, 2))

    blocks = (np.arange(0, n, BLOCK) + BLOCK / 2) / RATE
    formants = scale * np.stack([track(values, blocks) for values in targets[:, :5].T], 1)
    middle, accent = ends[vowels] - lengths[vowels] / 2, spread * rng.standard_normal(len(vowels))
    melody = height + accent + slope * np.linspace(-0.5, 0.5, len(vowels))  # semitones
    pitch = np.clip(base * 2 ** (np.interp(time, middle, melody) / 12), 50, 600)
    pulses, phase = glottal_source(pitch, 1400 * 2**tilt, jitter / 100, rng)
    air = rng.standard_normal(n)  # in voiced phones strongest just after the glottis opens
    source = track(targets[:, 5]) * (pulses + breath * (1.4 - phase) * air) + track(targets[:, 6]) * air
    wave = vocal_tract(source, formants) + frication(names, track, scale, rng)
    return wave * np.interp(time, middle, 10 ** (np.clip(accent, -4, 4) / 20))


def synthesize(speaker, emotion, text, seconds, rate=RATE, seed=0, take=0):
    """Speak a text as a speaker in an emotion.

    Parameters
    ----------
    speaker : str
        Any name. A last letter F makes it a woman's voice, as does a place in WOMEN.
    emotion : str
        A name in EMOTIONS or ALIASES.
    text, seed, take : int
        Not negative. The text fixes the phones, the take tells repetitions apart.
    seconds : float
        Duration, from 10 ms to an hour.
    rate : int
        Samples per second (Hz). The speech itself ends at 8 kHz, the noise of the room does not.

    Returns
    -------
    float32 array (round(seconds * rate),) in [-1, 1]

    Raises
    ------
    ValueError
        Unknown emotion, too short or long a time, too low a rate or a negative number.
    """
    emotion = ALIASES.get(emotion, emotion)
    if emotion not in EMOTIONS:
        raise ValueError(f"unknown emotion {emotion!r}: one of {', '.join(EMOTIONS)}")
    if not 0.01 <= seconds <= 3600 or rate < 1000 or min(text, seed, take) < 0:
        raise ValueError("seconds must be 0.01 to 3600, rate 1000 or more, other numbers not negative")
    rng = generator(seed, speaker, emotion, text, take)
    base, scale, gain = voice_of(speaker, seed)
    style, n = style_of(emotion, rng), round(seconds * rate)
    wave = speak(text, -(-n * RATE // rate), style, base, scale, rng)
    if rate != RATE:
        common = np.gcd(rate, RATE)
        wave = scipy.signal.resample_poly(wave, rate // common, RATE // common)[:n]
    loudness = np.clip(LEVEL + style[4] + gain, SOFTEST, LOUDEST)
    wave = (wave - wave.mean()) * 10 ** (loudness / 20) / (wave.std() + 1e-9)
    wave += ROOM * rng.standard_normal(n)
    return (wave * min(1.0, PEAK / np.abs(wave).max())).astype(np.float32)


# ---------------------------------------------------------------------------- plans


def count_segments(samples):
    """Segments of 80 frames in utterances of so many samples at 16 kHz, the last one padded."""
    frames = 1 + (np.asarray(samples) - WINDOW) // SHIFT
    return np.maximum(1, -(-frames // SEGMENT))


def draw_samples(rng, count, shortest, mean, shape, segments=None):
    """Lengths (count,) in samples at 16 kHz: a shortest duration (s) and a gamma distribution.

    With `segments`, whole segments are added or taken until the lengths hold exactly so many.
    """
    seconds = shortest + rng.gamma(shape, (mean - shortest) / shape, count)
    samples = np.round(seconds * RATE).astype(int)
    while segments and (missing := segments - count_segments(samples).sum()):
        able = np.flatnonzero(count_segments(samples) > 2)  # short utterances keep their length
        samples[rng.permutation(able)[: abs(missing)]] += np.sign(missing) * SEGMENT * SHIFT
    return [int(n) for n in samples]


def contingency(rows, columns):
    """Near-proportional table {(row, column): count} with exactly these totals (two dicts)."""
    total = sum(rows.values())
    table = {(r, c): rows[r] * columns[c] // total for r in rows for c in columns}
    for r, c in table:  # hand out what rounding left over
        row_left = rows[r] - sum(table[r, other] for other in columns)
        column_left = columns[c] - sum(table[other, c] for other in rows)
        table[r, c] += min(row_left, column_left)
    return table


def plan_iemocap(full, rng):
    cells = contingency(IEMOCAP_SPEAKERS, IEMOCAP)
    cells = {key: cells[key] if full else int(rng.integers(1, 3)) for key in cells}
    spoken = []  # (speaker, label, dialogue)
    for session in "12345":
        names = [f"Ses0{session}{worn}_impro{number:02d}" for number in range(1, 8) for worn in "FM"]
        names = names if full else [names[0], names[3]]  # F_impro01, M_impro02
        if session == "3":  # one scene was recorded in two parts
            names = [name for name in names if name != "Ses03M_impro05"]
            names += ["Ses03M_impro05a", "Ses03M_impro05b"]
        for letter in "FM":
            labels = [label for label in IEMOCAP for _ in range(cells[session + letter, label])]
            rng.shuffle(labels)
            for place, dialogue in enumerate(names):
                mine = labels[place :: len(names)]  # dealt out: everyone speaks everywhere
                mine += [IGNORED[(place + k) % len(IGNORED)] for k in range(1 + len(mine) // 8)]
                spoken += [(session + letter, label, dialogue) for label in mine]
            spoken += [(session + letter, label, f"Ses0{session}F_script01_1") for label in IEMOCAP]
    usable = [label in IEMOCAP and "impro" in dialogue for _, label, dialogue in spoken]
    lengths = (0.7, 4.45, 2.0) if full else (0.5, 1.2, 2.0)
    kept = iter(draw_samples(rng, sum(usable), *lengths, 13547 if full else None))
    other = iter(draw_samples(rng, len(usable) - sum(usable), *lengths))
    turns, plan = {}, []
    for index in rng.permutation(len(spoken)):
        speaker, label, dialogue = spoken[index]
        turn = turns[dialogue, speaker] = turns.get((dialogue, speaker), -1) + 1
        name = f"{dialogue}_{speaker[1]}{turn:03d}"
        plan.append(
            Utterance(
                f"Session{speaker[0]}/sentences/wav/{dialogue}/{name}.wav",
                speaker,
                IEMOCAP_LABELS[label][0],
                label,
                int(index),
                next(kept if usable[index] else other),
                usable=usable[index],
            )
        )
    return plan


def plan_casia(full, rng):
    texts = range(201, 251 if full else 203)
    keys = [(s, e, t) for s in CASIA_SPEAKERS for e in CASIA for t in texts]
    samples = draw_samples(rng, len(keys), *((1.0, 1.88, 3.5, 3381) if full else (0.6, 1.1, 3.0)))
    return [Utterance(f"{s}/{e}/{t}.wav", s, e, e, t, n) for (s, e, t), n in zip(keys, samples)]


def plan_abc(full, rng):
    cells = contingency(ABC_SPEAKERS, ABC)
    keys = [(*cell, k) for cell in cells for k in range(cells[cell] if full else 2)]
    samples = draw_samples(rng, len(keys), *((1.0, 9.0, 3.0) if full else (0.6, 1.1, 3.0)))
    other = dict(aggressive="aggressiv", intoxicated="intoxicate")  # both spellings are in use
    return [
        Utterance(f"wav/{s}/{e}_{k + 1:02d}.wav", s, e, other.get(e, e) if k % 2 else e, k, n)
        for (s, e, k), n in zip(keys, samples)
    ]


def plan_emodb(full, rng):
    cells = contingency(EMODB_SPEAKERS, EMODB)
    keys = [(*cell, k) for cell in cells for k in range(cells[cell] if full else 1)]
    samples = draw_samples(rng, len(keys), *((1.2, 2.78, 3.0) if full else (0.6, 1.1, 3.0)))
    plan = []
    for (speaker, letter, k), n in zip(keys, samples):
        text, version = (k + int(speaker)) % 10, k // 10
        path = f"wav/{speaker}{EMODB_TEXTS[text]}{letter}{'abcdef'[version]}.wav"
        plan.append(Utterance(path, speaker, EMODB_EMOTIONS[letter], letter, text, n, version))
    return plan


def plan_ravdess(full, rng):
    keys = [
        (actor, emotion, intensity, statement, repetition)
        for actor in range(1, 25)
        for emotion in range(1, 9)
        for intensity in (1, 2)
        for statement in (1, 2)
        for repetition in (1, 2)
        if (emotion, intensity) != (1, 2) and (full or (intensity, statement, repetition) == (1, 1 + actor % 2, 1))
    ]
    samples = draw_samples(rng, len(keys), *((2.9, 3.7, 4.0) if full else (0.5, 0.8, 3.0)))
    plan = []
    for place, ((actor, emotion, intensity, statement, repetition), n) in enumerate(zip(keys, samples)):
        speaker, label = f"Actor_{actor:02d}", RAVDESS[emotion - 1]
        name = f"03-01-{emotion:02d}-{intensity:02d}-{statement:02d}-{repetition:02d}-{actor:02d}"
        plan.append(
            Utterance(
                f"{speaker}/{name}.wav",
                speaker,
                label,
                label,
                statement,
                3 * n,
                2 * intensity + repetition,
                3 * RATE,
                2 if place % 97 == 5 else 1,
                place % 41 == 11,
            )
        )
    return plan


def plan_manifest(full, rng):
    keys = [
        (s, e, k) for s in ("S1", "S2", "S3", "S4") for e in ("angry", "happy", "neutral", "sad") for k in range(1, 7)
    ]
    seconds = np.where(rng.random(len(keys)) < 0.1, rng.uniform(0.5, 0.8, len(keys)), rng.uniform(0.8, 2.4, len(keys)))
    return [
        Utterance(f"wav/{s}/{e}_{k:02d}.wav", s, e, e, k, round(RATE * float(t))) for (s, e, k), t in zip(keys, seconds)
    ]


LAYOUTS = dict(
    iemocap=plan_iemocap, casia=plan_casia, abc=plan_abc, emodb=plan_emodb, ravdess=plan_ravdess, manifest=plan_manifest
)


def plan_corpus(layout, size="small", seed=0):
    """Everything a corpus will hold, without synthesising it.

    Parameters
    ----------
    layout : str
        A name in LAYOUTS.
    size : str
        "small" or "full".
    seed : int
        Not negative.

    Returns
    -------
    list of Utterance
        `samples` counts at the utterance's own `rate`.

    Raises
    ------
    ValueError
        Unknown layout or size, or a negative seed.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}: one of {', '.join(LAYOUTS)}")
    if size not in ("small", "full"):
        raise ValueError(f"unknown size {size!r}: small or full")
    if seed < 0:
        raise ValueError(f"seed must not be negative: {seed}")
    return LAYOUTS[layout](size == "full", generator(seed, "plan", layout, size))


# ---------------------------------------------------------------------------- writing


def iemocap_annotations(plan):
    """Evaluation files {path: bytes} of a plan, and the files beside them that are not for reading."""
    dialogues = {}
    for utterance in plan:
        dialogues.setdefault(Path(utterance.path).parent.name, []).append(utterance)
    files = {}
    for dialogue, turns in dialogues.items():
        folder, clock = f"Session{dialogue[4]}/dialog/EmoEvaluation", 6.29
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        categories, attributes = [], []
        for turn in turns:
            rng, name = generator("raters", turn.path), Path(turn.path).stem
            word = IEMOCAP_LABELS[turn.label][1]
            end = clock + turn.samples / turn.rate
            vad = rng.integers(1, 6, (3, 3))  # (raters, V A D)
            mean = ", ".join(f"{value:.4f}" for value in vad[:2].mean(0))  # two experts
            lines.append(f"[{clock:.4f} - {end:.4f}]\t{name}\t{turn.label}\t[{mean}]")
            raters = ("E2", "E4", turn.speaker[1] + "1")
            lines += [f"C-{rater}:\t{word};\t()" for rater in raters]
            lines += [f"A-{rater}:\tval {v}; act {a}; dom  {d};\t()" for rater, (v, a, d) in zip(raters, vad)]
            lines.append("")
            categories.append(f"{name} :{word}; ()")
            attributes.append(f"{name} :act  {vad[0, 1]}; :val  {vad[0, 0]}; :dom  {vad[0, 2]}; ()")
            clock = end + rng.uniform(0.1, 1.5)
        files[f"{folder}/{dialogue}.txt"] = "\n".join(lines)
        files[f"{folder}/Categorical/{dialogue}_e2_cat.txt"] = "\n".join(categories)
        files[f"{folder}/Attribute/{dialogue}_e2_atr.txt"] = "\n".join(attributes)
        files[f"{folder}/Self-evaluation/{dialogue}_f1_cat.txt"] = "\n".join(categories[:1])
    files = {path: (text + "\n").encode() for path, text in files.items()}
    files["Session1/dialog/EmoEvaluation/._Ses01F_impro01.txt"] = APPLE_DOUBLE
    files["Session1/sentences/wav/Ses01F_impro01/._Ses01F_impro01_F000.wav"] = APPLE_DOUBLE
    return files


def annotations(layout, plan):
    """Files {path: bytes} that tell the labels of a plan; none where file names tell them."""
    if layout == "iemocap":
        return iemocap_annotations(plan)
    if layout not in ("abc", "manifest"):
        return {}
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "emotion", "speaker"))
    rows.writerows((utterance.path, utterance.label, utterance.speaker) for utterance in plan)
    return {f"{layout}.csv": text.getvalue().encode()}


def write_utterance(utterance, root, seed):
    """Synthesise one planned utterance and write it as 16-bit WAV below root."""
    u = utterance
    wave = synthesize(u.speaker, u.emotion, u.text, u.samples / u.rate, u.rate, seed, u.take)
    if u.channels == 2:
        wave = np.stack([wave, 0.8 * wave], 1)  # (n, 2)
    soundfile.write(root / u.path, wave, u.rate, subtype="PCM_16")
    if u.extra_chunks:  # between the format and the samples
        data = (root / u.path).read_bytes()
        at = data.index(b"data")
        size = struct.pack("<I", len(data) + len(EXTRA_CHUNKS) - 8)
        (root / u.path).write_bytes(data[:4] + size + data[8:at] + EXTRA_CHUNKS + data[at:])


def is_taken(root):
    """Whether root is a file or a folder with something in it."""
    return root.exists() and (not root.is_dir() or any(root.iterdir()))


def write_corpus(layout, root, size="small", seed=0):
    """Write a corpus in the folder layout of a database; root appears when it is complete.

    Parameters
    ----------
    layout : str
        A name in LAYOUTS.
    root : Path
        Folder to make; it may exist if it is empty.
    size : str
        "small", or "full" for the published counts (a minute or two, on every core).
    seed : int
        Not negative. It changes voices, styles and lengths, never the counts of `full`.

    Returns
    -------
    int
        Utterances that a protocol should use.

    Raises
    ------
    FileExistsError
        There is something at root already.
    ValueError
        Unknown layout or size, or a negative seed.
    """
    plan, root = plan_corpus(layout, size, seed), Path(root).resolve()
    if is_taken(root):
        raise FileExistsError(f"not overwritten, it holds something already: {root}")
    root.parent.mkdir(parents=True, exist_ok=True)
    unfinished = root.with_name(f".{root.name}.{os.getpid()}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        files = annotations(layout, plan)
        for folder in {(unfinished / path).parent for path in (*files, *(u.path for u in plan))}:
            folder.mkdir(parents=True, exist_ok=True)
        for path, data in files.items():
            (unfinished / path).write_bytes(data)
        write = partial(write_utterance, root=unfinished, seed=seed)
        if size == "full":
            with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
                for _ in pool.map(write, plan, chunksize=16):
                    pass
        else:
            for utterance in plan:
                write(utterance)
        try:
            unfinished.rename(root)
        except OSError:
            if not is_taken(root):  # else another process was faster
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sum(u.usable for u in plan)


# ---------------------------------------------------------------------------- command line


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments=None):
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layout", choices=LAYOUTS, default="manifest", help="default manifest")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--size", choices=("small", "full"), default="small", help="default small")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    options = parser.parse_args(arguments)
    try:
        count = write_corpus(options.layout, options.out, options.size, options.seed)
    except (OSError, ValueError) as problem:
        parser.error(str(problem))
    print(f"{options.out}: {count} usable utterances, layout {options.layout}, {options.size}, seed {options.seed}")


if __name__ == "__main__":
    main()
