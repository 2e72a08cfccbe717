"""Log-Mel front end of both papers, from recording to segments, with numpy and scipy; common/audio.py reads the files.

    recording -> read_audio -> split_segments -> pre_emphasize -> split_frames -> power_spectrum
              -> mel_filter_bank -> ln(E + log_floor) -> segments (S, n_mels, frames)

Comparison methods can have the logarithm of the power spectrum itself, and segments of equal length.

`extract` computes the segments of a recording; `load` those of a list of recordings. It saves them in a
cache folder, and the next run maps them into memory from there:

    >>> from features import FRONT_ENDS, load
    >>> features = load(root, ["wangzhe/angry/201.wav"], FRONT_ENDS["tft"])
    >>> features.segments.shape                      # (segments, 80 Mel bands, 80 frames), float32
    >>> features.counts                              # segments of each recording

All arrays are float32: NumPy promotes to float64 silently, so constants are cast where they are made.
"""

import errno
import hashlib
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import ceil, inf
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common import audio, containers, duplicates, paths
from common.audio import SAMPLE_RATES, AudioError, enough_memory, read_audio

__all__ = ["SAMPLE_RATES", "AudioError", "enough_memory", "read_audio"]  # used as features.read_audio and so on
MAX_OVERLAP = 0.75  # of a segment
BLOCK_SEGMENTS = 4  # segments per pass: frames and spectra of a block stay in the processor's cache
OMITTED_IF_DEFAULT = {  # absent from the settings of older runs
    "overlap": 0.0, "pre_emphasis_scope": "segment", "scale": "mel", "cut": "fixed",
}  # fmt: skip
SCALES, CUTS = ("mel", "linear"), ("fixed", "equal")
REUSED_BYTES = 16_000_000  # freed memory in blocks of up to this size is reused, not handed back
CACHE_ROW = np.dtype(  # of a recording in a cache file
    [("segments", "<i8"), ("seconds", "<f8"), ("sha256", "S64"), ("fingerprint", duplicates.FINGERPRINT)]
)
TEMPORARY_AGE = 86_400  # seconds since its last write, until a temporary file of the cache is removed


@dataclass(frozen=True)
class FrontEnd:
    """Settings of the front end. Both papers: 16 kHz, 20 ms Hamming window, 10 ms hop, 512-point FFT,
    80 Mel bands (TFT section 3.3, ATFNN section III-C)."""

    frames: int  # of a segment
    pre_emphasis: float  # coefficient a of y[n] = x[n] - a x[n-1]; 0: none
    sample_rate: int = 16_000  # Hz
    win_length: int = 320  # samples, 20 ms
    hop_length: int = 160  # samples, 10 ms
    n_fft: int = 512  # points
    n_mels: int = 80  # Mel bands, or bins on a linear scale
    fmin: float = 0.0  # Hz, lower edge of the first Mel band
    fmax: float = 8_000.0  # Hz, upper edge of the last Mel band; no bin of a linear scale lies above
    log_floor: float = 1e-6  # added to the energy of a band before the logarithm
    overlap: float = 0.0  # share of a segment that the next segment repeats; a whole number of frames
    pre_emphasis_scope: str = "segment"  # filter each "segment", or the "utterance" before it is split
    scale: str = "mel"  # "mel": Mel bands; "linear": the first n_mels bins of the FFT, from 0 Hz, as they are
    cut: str = "fixed"  # "fixed": segments of `frames`; "equal": of one length, at most `frames`, see split_segments

    @property
    def segment_samples(self):
        """Samples that a segment reads: its last frame reaches past the start of the next segment."""
        return (self.frames - 1) * self.hop_length + self.win_length

    @property
    def segment_hop(self):
        """Samples between the starts of two segments of the fixed cut; `hop_of` knows both cuts."""
        return round(self.frames * (1 - self.overlap)) * self.hop_length

    def overlap_fits(self):
        """True if segments overlap by whole frames and by no more than MAX_OVERLAP, of the equal cut not at all."""
        if self.cut == "equal":
            return self.overlap == 0
        frames = self.frames * self.overlap
        whole = 0 <= self.overlap <= MAX_OVERLAP and abs(frames - round(frames)) < 1e-6
        return whole and (round(frames) > 0 or self.overlap == 0)

    @property
    def row_shape(self):
        """Shape of a segment, (n_mels, frames)."""
        return self.n_mels, self.frames

    def rows_of(self, wave):
        """Segments of a waveform, float32 (S, n_mels, frames)."""
        return log_mel(wave, self)

    def cache_key(self):
        """Text that changes with what `rows_of` gives, but for the code of this file."""
        return json.dumps(asdict(self))

    def as_settings(self):
        """Its fields as {name: value}, as runs save them: those in OMITTED_IF_DEFAULT only if they differ."""
        return {name: value for name, value in asdict(self).items() if OMITTED_IF_DEFAULT.get(name) != value}


FRONT_ENDS = {
    "tft": FrontEnd(frames=80, pre_emphasis=0.97),
    "atfnn": FrontEnd(frames=128, pre_emphasis=0.0),
}
PAPER_FRONT_ENDS = tuple(FRONT_ENDS)  # names
SPECTRUM = dict(win_length=640, fmax=4_000.0, scale="linear", cut="equal")  # 40 ms, 0 to 4 kHz, at most 3 s
FRONT_ENDS |= {  # of comparison methods, named for the width of a bin in Hz
    "spectrum-10": FrontEnd(frames=300, pre_emphasis=0.0, n_fft=1600, n_mels=400, **SPECTRUM),
    "spectrum-20": FrontEnd(frames=300, pre_emphasis=0.0, n_fft=800, n_mels=200, **SPECTRUM),
}


# ---------------------------------------------------------------------------------- from samples to segments


def count_frames(samples, front_end):
    """Number of whole frames of a recording of `samples` samples, at least 1."""
    return 1 + max(0, samples - front_end.win_length) // front_end.hop_length


def count_segments(samples, front_end):
    """Number of segments of a recording of `samples` samples: enough for all whole frames, at least 1."""
    excess = (count_frames(samples, front_end) - front_end.frames) * front_end.hop_length  # beyond the first segment
    return 1 + max(0, ceil(excess / front_end.segment_hop))


def hop_of(samples, front_end):
    """Samples between the starts of two segments of a recording of `samples` samples."""
    if front_end.cut == "fixed":
        return front_end.segment_hop
    frames = count_frames(samples, front_end)
    return ceil(frames / count_segments(samples, front_end)) * front_end.hop_length


def split_segments(wave, front_end):
    """Split a waveform (samples,) into segments (S, segment_samples).

    Zeros fill up the last segment. With the equal cut a waveform of T frames gives n = ceil(T / frames) segments of
    ceil(T / n) frames, the last of what is left, and zeros fill up all of them.
    """
    number, hop = count_segments(len(wave), front_end), hop_of(len(wave), front_end)
    padded = np.zeros((number - 1) * hop + front_end.segment_samples, np.float32)
    framed = wave[: len(padded)]  # without the samples after the last whole frame, under 10 ms
    padded[: len(framed)] = framed
    segments = sliding_window_view(padded, front_end.segment_samples)[::hop]  # (S, segment_samples)
    if front_end.cut == "equal":
        segments = segments.copy()
        segments[:-1, hop - front_end.hop_length + front_end.win_length :] = 0  # behind a segment's last frame
    return segments


def pre_emphasize(segments, coefficient):
    """Filter along the last axis: y[n] = x[n] - coefficient x[n-1], y[0] = x[0] (TFT section 3.3)."""
    if coefficient == 0:
        return segments
    emphasized = segments.copy()
    emphasized[..., 1:] -= np.float32(coefficient) * segments[..., :-1]
    return emphasized


def split_frames(segments, win_length, hop_length):
    """View (S, samples) as overlapping frames (S, frames, win_length), without centring or copying."""
    return sliding_window_view(segments, win_length, axis=-1)[:, ::hop_length]


def power_spectrum(frames, n_fft, bins=None):
    """Power |FFT|^2 of Hamming-windowed frames: (..., win_length) -> (..., n_fft // 2 + 1), or its first `bins`."""
    from scipy.fft import rfft

    spectrum = rfft(frames * hamming(frames.shape[-1]), n_fft)[..., :bins]
    return spectrum.real**2 + spectrum.imag**2


@lru_cache
def hamming(win_length):
    """Symmetric Hamming window, float32 (win_length,)."""
    return np.hamming(win_length).astype(np.float32)


def hz_to_mel(hz):
    """Convert Hz to the HTK Mel scale: 2595 log10(1 + f / 700)."""
    return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)


def mel_to_hz(mel):
    """Convert the HTK Mel scale to Hz, the inverse of `hz_to_mel`."""
    return 700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0)


def band_edges(front_end):
    """Edges of the Mel bands in Hz, (n_mels + 2,): band i rises from edge i to its centre i + 1, falls to i + 2.

    On a linear scale bin i is the centre i + 1.
    """
    if front_end.scale == "linear":
        return np.arange(-1, front_end.n_mels + 1) * (front_end.sample_rate / front_end.n_fft)
    return mel_to_hz(np.linspace(hz_to_mel(front_end.fmin), hz_to_mel(front_end.fmax), front_end.n_mels + 2))


@lru_cache
def mel_filter_bank(front_end):
    """Triangular Mel filters of height 1 on continuous Hz, float32 (n_mels, n_fft // 2 + 1).

    The edges are not rounded to FFT bins: with 80 bands that would give empty filters (a bin is 31.25 Hz
    wide, the first triangle 46 Hz).
    """
    edges = band_edges(front_end)[:, None]  # (n_mels + 2, 1)
    bins = np.arange(front_end.n_fft // 2 + 1) * (front_end.sample_rate / front_end.n_fft)  # Hz
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])  # (n_mels, n_fft // 2 + 1)
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


@lru_cache
def _sparse_filter_bank(front_end):
    from scipy.sparse import csr_array

    return csr_array(mel_filter_bank(front_end))  # 503 of 20 560 weights are not zero


def log_mel(wave, front_end):
    """Log-Mel segments of a waveform, float32: (samples,) -> (S, n_mels, frames); log-power on a linear scale."""
    linear = front_end.scale == "linear"
    bins, size = (front_end.n_mels, 1) if linear else (None, BLOCK_SEGMENTS)  # longer FFTs: smaller blocks
    per_segment = front_end.pre_emphasis_scope == "segment"
    wave = wave if per_segment else pre_emphasize(wave, front_end.pre_emphasis)
    segments = split_segments(wave, front_end)  # (S, segment_samples)
    out = np.empty((len(segments), front_end.n_mels, front_end.frames), np.float32)
    for start in range(0, len(segments), size):
        block = segments[start : start + size]  # (s, segment_samples)
        block = pre_emphasize(block, front_end.pre_emphasis) if per_segment else block
        frames = split_frames(block, front_end.win_length, front_end.hop_length)  # (s, frames, win_length)
        power = power_spectrum(frames, front_end.n_fft, bins)  # (s, frames, bins)
        power = power.reshape(-1, power.shape[-1]).T  # (bins, s * frames)
        energy = power if linear else _sparse_filter_bank(front_end) @ power  # (n_mels, s * frames)
        level = np.log(energy + np.float32(front_end.log_floor))
        level = level.reshape(front_end.n_mels, -1, front_end.frames)  # (n_mels, s, frames)
        out[start : start + len(block)] = level.transpose(1, 0, 2)  # (s, n_mels, frames)
    return out


def extract(path, front_end, start=0.0, end=inf):
    """Segments of a recording, float32 (S, n_mels, frames), its length in seconds and its file's SHA-256.

    `start` and `end` in seconds select a part of it. Raises AudioError. Another object with `sample_rate`,
    `row_shape`, `rows_of` and `cache_key` can take the part of the front end, here and in `load`:
    comparisons/descriptors.py has such.
    """
    segments, seconds, _ = _extract(path, front_end, start, end)
    return segments, seconds, sha256_of(path)


def _extract(path, front_end, start, end):
    """Segments, length in seconds and fingerprint of the samples."""
    with enough_memory(path):
        samples = audio.read_samples(path, start, end)
        wave = audio.resample(samples.wave, samples.rate, front_end.sample_rate)
        segments = front_end.rows_of(wave)
    return segments, len(wave) / front_end.sample_rate, duplicates.fingerprint(samples)


def sha256_of(path):
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------------------------- a list of recordings, cached


@dataclass(frozen=True)
class Features:
    """Segments of a list of recordings, in the order of the list."""

    segments: np.ndarray  # (S, n_mels, frames) float32, or rows of descriptors; mapped from the cache, copy on write
    counts: np.ndarray  # (recordings,) segments of each
    seconds: np.ndarray  # (recordings,) length of each
    file_digests: list  # SHA-256 of each recording's file
    digest: str  # SHA-256 over file_digests and parts: the same on all machines, whatever the files' names
    load_time: float  # seconds spent in `load`
    cached: bool  # read from the cache
    fingerprints: np.ndarray = None  # (recordings,) of duplicates.FINGERPRINT, of the samples of each


def load(root, recordings, front_end, cache=None, report=None):
    """Segments of recordings below `root` as Features, through the cache.

    `recordings` are paths, or (path, start, end) of parts in seconds. `cache` is the folder of the cache (default:
    `$SER_CACHE`, else `cache` next to this file). A cache file belongs to a list of recordings in their present
    state and a front end. It is written under a temporary name and renamed, and it ends with its own SHA-256: a
    damaged file is made again. `report(done, total)` is called after each recording that is read. Raises AudioError
    for a recording that cannot be used, OSError if the cache cannot be written.
    """
    start_time = time.perf_counter()
    root = Path(root).resolve()
    parts = [(entry, 0.0, inf) if isinstance(entry, (str, Path)) else entry for entry in recordings]
    parts = [(root / path, float(start), float(end)) for path, start, end in parts]
    cache = Path(cache or os.environ.get("SER_CACHE") or Path(__file__).with_name("cache"))
    entry = cache / f"{_cache_key(parts, front_end)}.segments"
    content = _read_entry(entry, len(parts), front_end)
    cached = content is not None
    if not cached:
        _write_entry(entry, parts, front_end, report)
        content = _read_entry(entry, len(parts), front_end)
        if content is None:
            raise OSError(errno.EIO, "was damaged as soon as it was written; check the disk", str(entry))
    segments, table = content
    counts, seconds = table["segments"].copy(), table["seconds"].copy()
    file_digests = [digest.decode() for digest in table["sha256"]]
    digest = digest_of(file_digests, parts)
    load_time, fingerprints = time.perf_counter() - start_time, table["fingerprint"].copy()
    return Features(segments, counts, seconds, file_digests, digest, load_time, cached, fingerprints)


def digest_of(file_digests, recordings):
    """SHA-256 over the files' digests and the parts of `recordings`, as `load` takes them: the identity of a corpus."""
    identity = hashlib.sha256()
    for digest, entry in zip(file_digests, recordings):
        start, end = (0, inf) if isinstance(entry, (str, Path)) else entry[1:]
        identity.update(f"{digest}{start}-{end};".encode() if (start, end) != (0, inf) else digest.encode())
    return identity.hexdigest()


def same_samples(root, recordings, loaded, speakers=None):
    """Index (recordings,) of the first recording with the same samples as each (see common/duplicates.py).

    `recordings` below `root` were loaded as `loaded`, Features.
    """

    def read(i):
        part = recordings[i]
        part = (part,) if isinstance(part, (str, Path)) else part
        return audio.read_samples(Path(root) / part[0], *part[1:]).wave

    return duplicates.group(loaded.fingerprints, read, speakers)


def _cache_key(parts, front_end):
    """Key over the recordings (path, part, size, times of change), the front end and the code."""
    states = {}
    for path in dict.fromkeys(path for path, _, _ in parts):
        if not path.is_file():
            raise AudioError(paths.why_missing(path))
        status = path.stat()
        states[path] = [os.fsencode(path).hex(), status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        if status.st_ctime_ns % 1_000_000_000 == 0:  # whole seconds: an image or a file system that does not tell more
            states[path].append(sha256_of(path))
    key = hashlib.sha256()
    for file in (__file__, audio.__file__, containers.__file__, duplicates.__file__):
        key.update(Path(file).read_bytes())
    key.update(json.dumps([front_end.cache_key(), [(*states[path], *part) for path, *part in parts]]).encode())
    return key.hexdigest()[:32]


def _write_entry(entry, parts, front_end, report):
    """Write a cache file: the segments, a CACHE_ROW for each recording, the SHA-256 of both.

    Recordings are read in a plain loop: threads gain nothing, the work holds the interpreter's lock. CASIA's
    1200 take about 0.7 s.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    _remove_old_temporary_files(entry.parent)
    temporary = entry.with_suffix(f".{secrets.token_hex(8)}.tmp")
    table, digest = np.zeros(len(parts), CACHE_ROW), hashlib.sha256()
    file_digest = lru_cache(None)(sha256_of)  # of a long recording with many parts, once
    np.empty(REUSED_BYTES, np.uint8)  # freed at once: from then on glibc reuses such blocks, 1.7 times as fast
    try:
        with open(temporary, "xb") as file:
            for i, (path, start, end) in enumerate(parts):
                segments, seconds, fingerprint = _extract(path, front_end, start, end)
                file.write(segments)
                digest.update(segments)
                table[i] = len(segments), seconds, file_digest(path), fingerprint
                if report:
                    report(i + 1, len(parts))
            digest.update(table)
            file.write(table.tobytes() + digest.digest())
        os.replace(temporary, entry)
    except OSError as error:
        error.filename = error.filename or str(temporary)  # a full disk is reported without it
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _read_entry(entry, recordings, front_end):
    """Segments (S, n_mels, frames) and CACHE_ROW of each recording of a cache file; None if missing or damaged."""
    try:
        data = np.memmap(entry, np.uint8, "c")
    except (OSError, ValueError):  # no such file, an empty file
        return None
    content, digest = data[:-32], data[-32:].tobytes()
    if hashlib.sha256(content).digest() != digest:
        return None
    end = len(content) - recordings * CACHE_ROW.itemsize  # of the segments
    segments = content[:end].view(np.float32).reshape(-1, *front_end.row_shape)
    return segments, np.array(content[end:]).view(CACHE_ROW)


def _remove_old_temporary_files(cache):
    """Remove the unfinished files of processes that were killed: those untouched for TEMPORARY_AGE."""
    for path in cache.glob("*.tmp"):
        with suppress(OSError):  # another process removed it, or owns it
            if time.time() - path.stat().st_mtime > TEMPORARY_AGE:
                path.unlink()
