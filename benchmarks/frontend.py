"""Speed of the log-Mel front end against torch.stft and, where it is installed, librosa; and of its cache.

    python benchmarks/frontend.py                           # a synthetic corpus, made for the occasion
    python benchmarks/frontend.py --root data/casia         # all WAV and FLAC files below a folder
    pip install librosa                                     # adds librosa's rows; the project needs no librosa

All compute the same from the same clips in memory, one clip at a time, in one thread: segments, pre-emphasis, Hamming
frames of 20 ms each 10 ms, 512-point power spectra, 80 HTK triangles without area normalisation, ln(E + 1e-6). The
filter banks are made once. Segments are cut and emphasised by features.py for all. torch.stft and librosa put a window
of 320 samples in the middle of the 512 that they transform, so their segments get 96 zeros on both sides.

Processor time counts: other programs disturb it least. After two rounds of burn-in all take turns within a round;
a ratio is the median over the rounds, with the least and the greatest. Exit code 1 if results differ by more than 1e-3.
"""

import os

for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"  # read when NumPy is imported

import contextlib
import platform
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import features
import protocols
from common import cli, config, synthetic
from training.scheduler import processor_name

TOLERANCE = 1e-3  # in ln E
BURN_IN = 2  # rounds that are not measured

# ---------------------------------------------------------------------------------- three front ends


def padded_segments(wave, front_end):
    """Emphasised segments of a wave with zeros on both sides, (S, segment_samples + 192)."""
    side = (front_end.n_fft - front_end.win_length) // 2
    segments = features.pre_emphasize(features.split_segments(wave, front_end), front_end.pre_emphasis)
    return np.pad(segments, ((0, 0), (side, side)))


def with_torch(front_end):
    """Function from a wave (samples,) to log-Mel segments (S, n_mels, frames) by torch.stft."""
    window = torch.from_numpy(features.hamming(front_end.win_length))
    bank = torch.from_numpy(features.mel_filter_bank(front_end))  # (n_mels, bins)

    def log_mel(wave):
        segments = torch.from_numpy(padded_segments(wave, front_end))
        sizes = front_end.n_fft, front_end.hop_length, front_end.win_length
        spectrum = torch.stft(segments, *sizes, window, center=False, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()  # (S, bins, frames)
        return (bank @ power + front_end.log_floor).log().numpy()

    return log_mel


def with_librosa(front_end):
    """The same by librosa's stft and filter bank; ImportError where there is no librosa."""
    import librosa

    mel = dict(n_mels=front_end.n_mels, fmin=front_end.fmin, fmax=front_end.fmax, htk=True, norm=None)
    bank = librosa.filters.mel(sr=front_end.sample_rate, n_fft=front_end.n_fft, **mel)
    frames = dict(n_fft=front_end.n_fft, win_length=front_end.win_length, hop_length=front_end.hop_length)
    window = features.hamming(front_end.win_length)  # symmetric; the name "hamming" would give the periodic window

    def log_mel(wave):
        spectrum = librosa.stft(padded_segments(wave, front_end), window=window, center=False, **frames)
        power = np.abs(spectrum) ** 2  # (S, bins, frames)
        return np.log(bank @ power + front_end.log_floor)

    return log_mel


def compare(waves, front_end, rounds):
    """Names, largest difference from ours, and processor time in seconds (rounds, functions), ours first."""
    functions = {"features.log_mel": lambda wave: features.log_mel(wave, front_end)}
    functions["torch.stft"] = with_torch(front_end)
    with contextlib.suppress(ImportError):
        functions["librosa"] = with_librosa(front_end)
    difference = 0.0
    for name, wave in product(list(functions)[1:], waves):
        gap = features.log_mel(wave, front_end) - functions[name](wave)
        difference = max(difference, float(np.abs(gap).max()))
    seconds = np.empty((rounds, len(functions)))
    for number in range(-BURN_IN, rounds):
        for column in np.roll(np.arange(len(functions)), number):  # each is first in its turn
            function, start = list(functions.values())[column], time.process_time()
            for wave in waves:
                function(wave)
            if number >= 0:
                seconds[number, column] = time.process_time() - start
    return list(functions), difference, seconds


# --------------------------------------------------------------------------------------------- the table


def print_comparison(title, names, difference, seconds, audio):
    """Print a table of `compare`; audio: seconds of all clips."""
    print(f"\n{title:<20} {'processor':>12} {'x real time':>12}   ours is faster by")
    for column, name in enumerate(names):
        middle, ratio = np.median(seconds[:, column]), seconds[:, column] / seconds[:, 0]
        gain = f"   {np.median(ratio):5.2f} ({ratio.min():.2f} to {ratio.max():.2f})" if column else ""
        print(f"{name:<20} {1000 * middle:9.1f} ms {audio / middle:12,.0f}{gain}")
    print(f"largest difference: {difference:.1e} in ln E")


def print_reading(root, paths):
    """Print the time from recordings to segments, with an empty cache and from the cache."""
    with tempfile.TemporaryDirectory() as cache:
        first, again = (features.load(root, paths, features.FRONT_ENDS["tft"], cache) for _ in range(2))
    audio = first.seconds.sum()
    print(f"\nfeatures.load, {len(paths)} recordings, {audio:.0f} s of audio, by the clock")
    for name, part in ("from the recordings", first), ("from the cache", again):
        print(f"{name:<20} {1000 * part.load_time:9.1f} ms {audio / part.load_time:12,.0f} x real time")


def measure(root, options):
    """Print all tables of the recordings below a folder; gives the largest difference."""
    paths = [path.as_posix() for path in protocols.audio_files(root, "**/*")]
    if not paths:
        raise protocols.UsageError(f"--root {root}: has no recordings below it; name another folder")
    chosen = np.unique(np.linspace(0, len(paths) - 1, options.clips).round().astype(int))
    waves = [features.read_audio(root / paths[i]) for i in chosen]
    audio, differences = sum(map(len, waves)) / 16_000, []
    print(f"{processor_name()}, Python {platform.python_version()}, NumPy {np.__version__}, torch {torch.__version__}")
    print(f"one thread, {len(waves)} clips, {audio:.0f} s of audio, median of {options.rounds} rounds")
    for name in features.PAPER_FRONT_ENDS:
        names, difference, seconds = compare(waves, features.FRONT_ENDS[name], options.rounds)
        print_comparison(f"front end of {name}", names, difference, seconds, audio)
        differences.append(difference)
    print_reading(root, paths)
    return max(differences)


def main(arguments=None):
    parser = cli.CommandParser(__doc__)
    add, whole = parser.add_argument, config.bounded(int, 1)
    add("--root", type=Path, help="folder of recordings (default: a synthetic corpus)")
    add("--clips", type=whole, default=200, help="clips to compare on, spread evenly (default 200)")
    add("--rounds", type=whole, default=9, help="measured rounds (default 9)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = options.root or Path(folder) / "synthetic"
        if not options.root:
            synthetic.write_corpus("manifest", root)
        difference = measure(root, options)
    if difference > TOLERANCE:
        print(f"frontend.py: results differ by {difference:.1e}, more than {TOLERANCE:.0e}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    with cli.exit_on_error("frontend.py", interrupted="it writes nothing"):
        main()
