"""Speed of the log-Mel front end beside librosa's, and of reading a whole corpus through the cache.

    pip install librosa                                     # here only, the project does without it
    python benchmarks/frontend.py                           # a synthetic corpus, made for the occasion
    python benchmarks/frontend.py --root data/casia         # every WAV file below a folder
    python benchmarks/frontend.py --root data/casia --clips 50 --seconds-per-clip 10

Both sides get the same clips, already in memory at 16 kHz, and compute the same thing: Hamming frames of 20 ms every
10 ms, 512-point power spectra, 80 HTK triangles without area normalisation, ln(E + 1e-6). librosa puts its 320-sample
window in the middle of the 512 samples that it transforms; so it is fed our segments with 96 zeros added at either
end, and its frame j then sees exactly the samples of our frame j (a delay changes no power). Cutting and padding the
segments is timed on our side and given to librosa free of charge. librosa makes its filter bank anew in each call;
a second column times it with the bank made once, from the same public functions.

The comparison is one-threaded and counts processor time, which other programs on the machine disturb least. After
two unmeasured rounds the three take turns within each round; a ratio is the median of the ratios of the rounds, with
the least and the greatest. The corpus is then read by `features.load`, by the clock: with an empty cache and every
core, again from the cache, and again in a new process from the start of Python to its end.

It prints one table with device and versions. It ends with 1 if the two differ by more than 1e-3 anywhere, and with 2
if librosa is missing or there is nothing to read.
"""

import os

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"  # read when NumPy is imported

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy
import soundfile

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import features  # noqa: E402
import results  # noqa: E402
from benchmarks import synthetic  # noqa: E402

TOLERANCE = 1e-3  # in ln E
BURN_IN = 2  # rounds that are not measured
SECOND_START = """
import json, sys
from features import FRONT_ENDS, load
root, paths, cache = json.load(sys.stdin)
assert load(root, paths, FRONT_ENDS["tft"], cache).cached
"""


# ------------------------------------------------------------------------------------- the two front ends


def make_librosa(front_end):
    """librosa's way to the same features: two functions of (S, samples + 192), with results (S, bands, frames).

    The first is what its manual shows, the second keeps the filter bank between calls.
    """
    import librosa

    mel = dict(n_mels=front_end.bands, fmin=front_end.low, fmax=front_end.high, htk=True, norm=None)
    window = np.hamming(front_end.window)  # symmetric; the name "hamming" would give the periodic one
    frames = dict(
        n_fft=front_end.fft, win_length=front_end.window, hop_length=front_end.shift, window=window, center=False
    )
    bank = librosa.filters.mel(sr=front_end.rate, n_fft=front_end.fft, **mel)

    def emphasize(padded):
        if front_end.pre_emphasis == 0:
            return padded
        start = np.zeros((len(padded), 1))  # the sample before the first one
        return librosa.effects.preemphasis(padded, coef=front_end.pre_emphasis, zi=start)

    def as_called(padded):
        wave = emphasize(padded)
        energy = librosa.feature.melspectrogram(y=wave, sr=front_end.rate, power=2.0, **frames, **mel)
        return np.log(energy + 1e-6)

    def bank_made_once(padded):
        power = np.abs(librosa.stft(emphasize(padded), **frames)) ** 2
        return np.log(np.matmul(bank, power) + 1e-6)

    return as_called, bank_made_once


def pad_for_librosa(wave, front_end):
    """Segments (S, samples) of a clip with zeros at either end, (S, samples + 192)."""
    side = (front_end.fft - front_end.window) // 2
    return np.pad(features.split_segments(wave, front_end), ((0, 0), (side, side)))


def compare(waves, front_end, rounds):
    """Largest difference, and processor time (rounds, 3) of ours, librosa's and librosa's with its bank kept."""
    as_called, bank_made_once = make_librosa(front_end)
    padded = [pad_for_librosa(wave, front_end) for wave in waves]
    difference = 0.0
    for wave, clip in zip(waves, padded):
        ours = features.log_mel(wave, front_end)
        for theirs in (as_called(clip), bank_made_once(clip)):
            difference = max(difference, float(np.abs(ours - theirs).max()))
    sides = [(lambda wave: features.log_mel(wave, front_end), waves), (as_called, padded), (bank_made_once, padded)]
    spent = np.empty((rounds, 3))
    for turn in range(-BURN_IN, rounds):
        for place in np.roll(np.arange(3), turn):  # each goes first in its turn
            function, clips = sides[place]
            start = time.process_time()
            for clip in clips:
                function(clip)
            if turn >= 0:
                spent[turn, place] = time.process_time() - start
    return difference, spent


# -------------------------------------------------------------------------------------- the whole corpus


def read_corpus(root, paths):
    """Seconds of audio below root, and the wall time from recordings to segments: [(what, seconds)]."""
    with tempfile.TemporaryDirectory() as cache:
        front_end = features.FRONT_ENDS["tft"]
        first = features.load(root, paths, front_end, cache)
        again = features.load(root, paths, front_end, cache)
        assert again.cached and again.digest == first.digest
        told = json.dumps([str(root), paths, cache])
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", SECOND_START], input=told, text=True, check=True, cwd=REPOSITORY)
        process = time.perf_counter() - start
    return first.seconds.sum(), [
        ("empty cache, all cores", first.load_time),
        ("from the cache", again.load_time),
        ("from the cache, new process with its imports", process),
    ]


# --------------------------------------------------------------------------------------------- the table


def print_comparison(name, difference, spent, audio):
    middle = np.median(spent, axis=0)
    print(f"{name:<6} {'features.log_mel':<34} {1000 * middle[0]:8.1f} ms {audio / middle[0]:9,.0f} x")
    for place, label in ((1, "librosa"), (2, "librosa, filter bank made once")):
        ratio = spent[:, place] / spent[:, 0]
        print(
            f"{'':<6} {label:<34} {1000 * middle[place]:8.1f} ms {audio / middle[place]:9,.0f} x"
            f"   {np.median(ratio):5.2f} ({ratio.min():.2f}-{ratio.max():.2f})"
        )
    print(f"{'':<6} largest difference {difference:.1e} in ln E")


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of WAV files (default: a synthetic corpus)")
    parser.add_argument("--clips", type=int, default=200, help="clips to compare on, spread evenly (default 200)")
    parser.add_argument("--seconds-per-clip", type=float, help="cut or repeat each to this (default: as they are)")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default 9)")
    options = parser.parse_args(arguments)
    if min(options.clips, options.rounds) < 1 or (options.seconds_per_clip or 1) <= 0:
        parser.error("--clips, --rounds and --seconds-per-clip must be positive")
    return options


def find_recordings(root):
    """WAV files below a folder, as paths relative to it, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.wav") if path.name[0] != ".")


def measure(root, options):
    """Measure on the recordings below root and print the table; returns the largest difference."""
    import librosa

    paths = find_recordings(root)
    chosen = np.unique(np.linspace(0, len(paths) - 1, options.clips).round().astype(int))
    waves = [features.read_audio(root / paths[i]) for i in chosen]
    if options.seconds_per_clip:
        waves = [np.resize(wave, round(options.seconds_per_clip * 16_000)) for wave in waves]
    audio = sum(map(len, waves)) / 16_000
    print(
        f"{results.processor()}, {os.cpu_count()} cores · Python {platform.python_version()}, NumPy {np.__version__}, "
        f"SciPy {scipy.__version__}, librosa {librosa.__version__}, soundfile {soundfile.__version__}"
    )
    print(f"\nOne thread, {len(waves)} clips, {audio:.0f} s of audio, median of {options.rounds} rounds\n")
    print(f"{'':<6} {'':<34} {'processor':>11} {'real time':>11}   ours is faster by")
    worst = 0.0
    for name, front_end in features.FRONT_ENDS.items():
        difference, spent = compare(waves, front_end, options.rounds)
        print_comparison(name, difference, spent, audio)
        worst = max(worst, difference)
    audio, rows = read_corpus(root, paths)
    print(f"\nfeatures.load, {len(paths)} recordings, {audio:.0f} s of audio, files warm in memory\n")
    for label, seconds in rows:
        print(f"{label:<52} {seconds:7.3f} s {audio / seconds:9,.0f} x")
    return worst


def main(arguments=None):
    options = parse_arguments(arguments)
    try:
        import librosa  # noqa: F401
    except ImportError:
        print("librosa is missing: pip install librosa", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as made:
        root = options.root
        if root is None:
            root = Path(made) / "synthetic"
            synthetic.write_corpus("manifest", root)
        if not find_recordings(root):
            print(f"{root}: no WAV files below it", file=sys.stderr)
            return 2
        try:
            worst = measure(root, options)
        except features.AudioError as error:
            print(error, file=sys.stderr)
            return 2
    if worst > TOLERANCE:
        print(f"the front ends differ by {worst:.1e}, more than {TOLERANCE:.0e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
