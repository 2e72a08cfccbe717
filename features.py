"""Log-Mel front end of both papers, from recording to segments, with numpy and scipy; soundfile reads the files.

    recording -> read_audio -> split_segments -> pre_emphasize -> split_frames -> power_spectrum
              -> mel_filter_bank -> ln(E + log_floor) -> segments (S, n_mels, frames)

`extract` computes the segments of a recording; `load` those of a list of recordings. It saves them in a
cache folder, and the next run maps them into memory from there:

    >>> from features import FRONT_ENDS, load
    >>> features = load(root, ["wangzhe/angry/201.wav"], FRONT_ENDS["tft"])
    >>> features.segments.shape                      # (segments, 80 Mel bands, 80 frames), float32
    >>> features.counts                              # segments of each recording

All arrays are float32: NumPy promotes to float64 silently, so constants are cast where they are made.
"""

import ctypes
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import struct
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import ceil, gcd
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

FORMATS = ("WAV", "WAVEX", "FLAC")  # the formats of which a truncated file is noticed
SAMPLE_RATES = (4_000, 384_000)  # Hz, lowest and highest that a recording may have
STREAMED = 0x7FFF_F000  # bytes; a data chunk of this size or more was written before its length was known
LOUDEST = 8.0  # samples belong in [-1, 1]; a floating-point file may overshoot, but not hold integers
MAX_OVERLAP = 0.75  # of a segment
BLOCK_SEGMENTS = 4  # segments per pass: frames and spectra of a block stay in the processor's cache
OMITTED_IF_DEFAULT = {"overlap": 0.0, "pre_emphasis_scope": "segment"}  # absent from the settings of older runs
POOL_BYTES = 32_000_000  # below this much audio, starting processes costs more than they save
CHUNK_FILES = 16  # recordings per unit of work of the process pool


class AudioError(ValueError):
    """A recording that cannot be used; the message names the file and the remedy."""

    exit_code = 3  # of a command that ends with this error


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
    n_mels: int = 80  # Mel bands
    fmin: float = 0.0  # Hz, lower edge of the first Mel band
    fmax: float = 8_000.0  # Hz, upper edge of the last Mel band
    log_floor: float = 1e-6  # added to the energy of a band before the logarithm
    overlap: float = 0.0  # share of a segment that the next segment repeats; a whole number of frames
    pre_emphasis_scope: str = "segment"  # filter each "segment", or the "utterance" before it is split

    @property
    def segment_samples(self):
        """Samples that a segment reads: its last frame reaches past the start of the next segment."""
        return (self.frames - 1) * self.hop_length + self.win_length

    @property
    def segment_hop(self):
        """Samples between the starts of two segments."""
        return round(self.frames * (1 - self.overlap)) * self.hop_length

    def overlap_fits(self):
        """True if segments overlap by a whole number of frames and by no more than MAX_OVERLAP."""
        frames = self.frames * self.overlap
        whole = 0 <= self.overlap <= MAX_OVERLAP and abs(frames - round(frames)) < 1e-6
        return whole and (round(frames) > 0 or self.overlap == 0)

    def as_settings(self):
        """Its fields as {name: value}, as runs save them: those in OMITTED_IF_DEFAULT only if they differ."""
        return {name: value for name, value in asdict(self).items() if OMITTED_IF_DEFAULT.get(name) != value}


FRONT_ENDS = {
    "tft": FrontEnd(frames=80, pre_emphasis=0.97),
    "atfnn": FrontEnd(frames=128, pre_emphasis=0.0),
}


# ---------------------------------------------------------------------------------- reading a recording


@contextmanager
def enough_memory(path):
    """Turn a MemoryError raised in the context into an AudioError that names the recording."""
    try:
        yield
    except MemoryError:  # it is long, or its damaged header claims to be
        raise AudioError(f"{path}: is too long for this machine's memory; cut it into parts") from None


def read_audio(path, sample_rate=16_000):
    """Read a recording as mono float32 in [-1, 1] at `sample_rate` Hz, shape (samples,).

    Channels are averaged, other rates are resampled by a polyphase filter. Raises AudioError for a
    file that is missing, unreadable, empty, truncated, silent, or that holds NaN or infinity.
    """
    import soundfile

    if not os.path.isfile(path):
        raise AudioError(f"{path}: no such recording; restore it or take it off the list")
    try:
        with soundfile.SoundFile(path) as file:
            if file.format not in FORMATS:
                raise AudioError(f"{path}: holds {file.format}, not WAV or FLAC; convert it")
            if not SAMPLE_RATES[0] <= file.samplerate <= SAMPLE_RATES[1]:
                raise AudioError(f"{path}: its header claims {file.samplerate} Hz; replace the file")
            wave = file.read(dtype="float32", always_2d=True)  # (samples, channels)
            source_rate = file.samplerate
            truncated = len(wave) < file.frames or _is_truncated_wav(path)
    except AudioError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(getattr(error, "error_string", error)).splitlines()[0].rstrip(".")
        if not os.path.getsize(path):
            reason = "the file is empty"
        raise AudioError(f"{path}: cannot be read as audio ({reason}); replace the file") from None
    if len(wave) == 0:
        raise AudioError(f"{path}: holds no samples; replace the file")
    if truncated:
        raise AudioError(f"{path}: was cut short, its header promises more samples; replace the file")
    mono = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: holds NaN or infinite samples; replace the file")
    if abs(mono).max() > LOUDEST:
        raise AudioError(f"{path}: has samples of {abs(mono).max():.3g}, far outside [-1, 1]; rescale it")
    if mono.max() == mono.min():
        raise AudioError(f"{path}: is silent, every sample of the mean of its channels is the same; replace the file")
    if source_rate != sample_rate:
        from scipy.signal import resample_poly

        common = gcd(source_rate, sample_rate)
        mono = resample_poly(mono, sample_rate // common, source_rate // common).astype(np.float32, copy=False)
    return mono


def _is_truncated_wav(path):
    """True for a WAV file that ends before its data chunk does: libsndfile reads it without complaint."""
    with open(path, "rb") as file:
        head = file.read(12)
        order = {b"RIFF": "<", b"RIFX": ">"}.get(head[:4])
        if order is None or head[8:] != b"WAVE":
            return False
        while len(chunk := file.read(8)) == 8:
            name, size = struct.unpack(order + "4sI", chunk)
            if name == b"data":
                return size < STREAMED and size > os.path.getsize(path) - file.tell()
            file.seek(size + size % 2, os.SEEK_CUR)
    return True


# ---------------------------------------------------------------------------------- from samples to segments


def count_segments(samples, front_end):
    """Number of segments of a recording of `samples` samples: enough for all whole frames, at least 1."""
    frames = 1 + (samples - front_end.win_length) // front_end.hop_length
    hop = front_end.segment_hop // front_end.hop_length  # frames
    return 1 + max(0, ceil((frames - front_end.frames) / hop))


def split_segments(wave, front_end):
    """Split a waveform (samples,) into segments (S, segment_samples); zeros fill up the last segment."""
    number = count_segments(len(wave), front_end)
    padded = np.zeros((number - 1) * front_end.segment_hop + front_end.segment_samples, np.float32)
    framed = wave[: len(padded)]  # without the samples after the last whole frame, under 10 ms
    padded[: len(framed)] = framed
    return sliding_window_view(padded, front_end.segment_samples)[:: front_end.segment_hop]  # (S, segment_samples)


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


def power_spectrum(frames, n_fft):
    """Power |FFT|^2 of Hamming-windowed frames: (..., win_length) -> (..., n_fft // 2 + 1)."""
    from scipy.fft import rfft

    spectrum = rfft(frames * hamming(frames.shape[-1]), n_fft)
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
    """Edges of the Mel bands in Hz, (n_mels + 2,): band i rises from edge i to i + 1, its centre, and falls to i + 2."""
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
    """Log-Mel segments of a waveform, float32: (samples,) -> (S, n_mels, frames)."""
    per_segment = front_end.pre_emphasis_scope == "segment"
    wave = wave if per_segment else pre_emphasize(wave, front_end.pre_emphasis)
    segments = split_segments(wave, front_end)  # (S, segment_samples)
    out = np.empty((len(segments), front_end.n_mels, front_end.frames), np.float32)
    for start in range(0, len(segments), BLOCK_SEGMENTS):
        block = segments[start : start + BLOCK_SEGMENTS]  # (s, segment_samples)
        block = pre_emphasize(block, front_end.pre_emphasis) if per_segment else block
        frames = split_frames(block, front_end.win_length, front_end.hop_length)  # (s, frames, win_length)
        power = power_spectrum(frames, front_end.n_fft)  # (s, frames, bins)
        energy = _sparse_filter_bank(front_end) @ power.reshape(-1, power.shape[-1]).T  # (n_mels, s * frames)
        level = np.log(energy + np.float32(front_end.log_floor))
        level = level.reshape(front_end.n_mels, -1, front_end.frames)  # (n_mels, s, frames)
        out[start : start + len(block)] = level.transpose(1, 0, 2)  # (s, n_mels, frames)
    return out


def extract(path, front_end):
    """Segments of a recording, float32 (S, n_mels, frames), its length in seconds and its file's SHA-256.

    Raises AudioError.
    """
    with enough_memory(path):
        wave = read_audio(path, front_end.sample_rate)
        segments = log_mel(wave, front_end)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return segments, len(wave) / front_end.sample_rate, digest


# ----------------------------------------------------------------------- many recordings, and the cache


@dataclass(frozen=True)
class Features:
    """Segments of a list of recordings, in its order."""

    segments: np.ndarray  # (S, n_mels, frames) float32, mapped from the cache, copy on write
    counts: np.ndarray  # (recordings,) segments of each
    seconds: np.ndarray  # (recordings,) length of each
    file_digests: list  # SHA-256 of each recording's file
    digest: str  # over all of them: the same on every machine, whatever the files are called
    load_time: float  # seconds of reading the cache or making it
    cached: bool  # read from the cache


def keep_freed_memory():
    """Let glibc keep what is freed for the rest of the process: handed back and fetched anew, the pages of
    each block's spectra, or of each training step's activations, cost about as much as the arithmetic."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own mapping
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: keep up to 2 GiB


def load(root, paths, front_end, cache=None, workers=None, report=None):
    """Segments of the recordings `root / path for path in paths`, through the cache.

    A cache entry is a folder named by a key over the recordings (path, size, time stamp), the settings and
    this file's code. It is made beside its place and renamed into it, so no process sees half of it, and its
    SHA-256 is checked whenever it is read: a damaged one is made again.

    Parameters: `cache` the cache folder (default `$SER_CACHE`, else `cache` beside this file); `workers`
    processes (default: all cores); `report(done, total)` is called as recordings are finished.
    Raises AudioError for a recording that cannot be used, OSError where the cache cannot be written.
    """
    start = time.perf_counter()
    root = Path(root).resolve()
    cache = Path(cache or os.environ.get("SER_CACHE") or Path(__file__).with_name("cache"))
    entry = cache / _cache_key(root, paths, front_end)
    index = _read_entry(entry)
    cached = index is not None
    if not cached:
        _make_entry(entry, root, paths, front_end, workers or os.cpu_count(), report)
        index = _read_entry(entry)
        if index is None:
            raise OSError(f"{entry}: was damaged as soon as it was written; check the disk")
    segments = np.memmap(entry / "segments.f32", np.float32, "c", shape=tuple(index["shape"]))
    counts, seconds = np.array(index["counts"]), np.array(index["seconds"])
    file_digests = index["recordings"]
    digest = hashlib.sha256("".join(file_digests).encode()).hexdigest()
    return Features(segments, counts, seconds, file_digests, digest, time.perf_counter() - start, cached)


def _cache_key(root, paths, front_end):
    stamps = []
    for path in paths:
        if not os.path.isfile(root / path):
            raise AudioError(f"{root / path}: no such recording; restore it or take it off the list")
        status = os.stat(root / path)
        stamps.append([str(path), status.st_size, status.st_mtime_ns])
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    told = json.dumps([str(root), asdict(front_end), code, stamps])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _read_entry(entry):
    """The index of a sound cache entry, else None."""
    try:
        index = json.loads((entry / "index.json").read_text(encoding="utf-8"))
        with open(entry / "segments.f32", "rb") as file:
            sound = hashlib.file_digest(file, "sha256").hexdigest() == index["sha256"]
        return index if sound and index["seal"] == _seal(index) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _seal(index):
    """SHA-256 over all of an index but the seal itself."""
    told = {name: value for name, value in index.items() if name != "seal"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _make_entry(entry, root, paths, front_end, workers, report):
    entry.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(entry.parent)
    making = entry.parent / f".{entry.name}.{socket.gethostname()}.{os.getpid()}.tmp"
    making.mkdir(exist_ok=True)
    try:
        counts, seconds, recordings, digest = [], [], [], hashlib.sha256()
        with open(making / "segments.f32", "wb") as file:
            for segments, length, content in _extract_all(root, paths, front_end, workers):
                file.write(segments.data)
                digest.update(segments.data)
                counts.append(len(segments))
                seconds.append(length)
                recordings.append(content)
                if report:
                    report(len(counts), len(paths))
        shape = [sum(counts), front_end.n_mels, front_end.frames]
        index = dict(shape=shape, counts=counts, seconds=seconds, sha256=digest.hexdigest(), recordings=recordings)
        (making / "index.json").write_text(json.dumps(dict(index, seal=_seal(index))), encoding="utf-8")
        _install(making, entry)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _install(making, entry):
    """Rename a whole entry into its place, unless another process was first with the same content."""
    if entry.exists() and _read_entry(entry) is None:  # damaged: out of the way in one step
        damaged = making.with_name(making.name.removesuffix(".tmp") + ".damaged.tmp")
        entry.rename(damaged)
        if damaged.is_dir():
            shutil.rmtree(damaged, ignore_errors=True)
        else:
            damaged.unlink()
    try:
        making.rename(entry)
    except OSError:
        if _read_entry(entry) is None:
            raise


def _extract_all(root, paths, front_end, workers):
    """Yield what `extract` gives for each recording, in order."""
    files = [str(root / path) for path in paths]
    keep_freed_memory()
    if workers == 1 or sum(os.path.getsize(file) for file in files) < POOL_BYTES:
        for file in files:
            yield extract(file, front_end)
        return
    workers = min(workers, ceil(len(files) / CHUNK_FILES))
    saved = {name: os.environ.get(name) for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")}
    os.environ.update(dict.fromkeys(saved, "1"))  # the processes inherit it: one thread each
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as pool:
            try:
                yield from pool.map(extract, files, [front_end] * len(files), chunksize=CHUNK_FILES)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for name, value in saved.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _start_worker():
    """A worker ends with the process that started it, also where that one is killed."""
    keep_freed_memory()
    threading.Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()


def _remove_leftovers(cache):
    """Remove what processes of this machine left half made when they were killed."""
    ours = re.compile(re.escape(f".{socket.gethostname()}.") + r"(\d+)(\.damaged)?\.tmp$")
    for folder in cache.glob(".*.tmp"):
        if found := ours.search(folder.name):
            try:
                os.kill(int(found[1]), 0)
            except ProcessLookupError:
                shutil.rmtree(folder, ignore_errors=True)
            except PermissionError:
                pass  # alive, somebody else's
