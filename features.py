"""Log-Mel front end of both papers, from recording to segments, on numpy and scipy; soundfile reads the files.

    recording -> read_audio -> split_segments -> pre_emphasize -> split_frames -> power_spectrum
              -> mel_filter_bank -> ln(E + floor) -> segments (S, bands, frames)

`extract` does all of it for one recording; `load` does it for a list of recordings with every core and
keeps the result in a cache folder, from which the next run maps it into memory:

    >>> from features import FRONT_ENDS, load
    >>> features = load(root, ["wangzhe/angry/201.wav"], FRONT_ENDS["tft"])
    >>> features.segments.shape                      # (segments, 80 bands, 80 frames), float32
    >>> features.counts                              # segments of each recording

Everything stays float32: NumPy promotes to float64 silently, so constants are cast where they are made.
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

BLOCK_SEGMENTS = 4  # segments per pass: frames and spectra of a block stay in the processor's cache
POOL_BYTES = 32_000_000  # below this much audio, starting processes costs more than they save
STREAMED = 0x7FFF_F000  # bytes; a data chunk of such a size was written before its length was known
CHUNK_FILES = 16  # recordings per unit of work of the process pool


FORMATS = ("WAV", "WAVEX", "FLAC")  # of these a file that was cut short is noticed
RATES = (4_000, 384_000)  # Hz, what a recording's header may say
MOST_OVERLAP = 0.75  # of a segment
OMITTED_IF_DEFAULT = dict(overlap=0.0, emphasized="segment")  # of FrontEnd, which earlier runs do not tell
LOUDEST = 8.0  # samples belong in [-1, 1]; floating-point files may overshoot, not hold integers


class AudioError(ValueError):
    """A recording that cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class FrontEnd:
    """Settings of the front end. Both papers: 16 kHz, 20 ms Hamming window, 10 ms shift, 512-point FFT,
    80 Mel bands (TFT section 3.3, ATFNN section III-C)."""

    frames: int  # frames of a segment
    pre_emphasis: float  # y[n] = x[n] - a x[n-1]; 0: none
    rate: int = 16_000  # Hz
    window: int = 320  # samples, 20 ms
    shift: int = 160  # samples, 10 ms
    fft: int = 512  # points
    bands: int = 80  # Mel triangles
    low: float = 0.0  # Hz, lower edge of the first triangle
    high: float = 8_000.0  # Hz, upper edge of the last triangle
    floor: float = 1e-6  # added to a band's energy before the logarithm
    overlap: float = 0.0  # share of a segment that the next one holds too; a whole number of frames
    emphasized: str = "segment"  # pre-emphasis within each segment, or of the utterance before it is cut

    @property
    def samples(self):
        """Samples that one segment reads: its last frame reaches past the next segment's start."""
        return (self.frames - 1) * self.shift + self.window

    @property
    def hop(self):
        """Samples between the starts of two segments."""
        return round(self.frames * (1 - self.overlap)) * self.shift

    def overlap_fits(self):
        """True if segments overlap by a whole number of frames and by no more than MOST_OVERLAP."""
        frames = self.frames * self.overlap
        whole = 0 <= self.overlap <= MOST_OVERLAP and abs(frames - round(frames)) < 1e-6
        return whole and (round(frames) > 0 or self.overlap == 0)

    def as_settings(self):
        """Its values by name, as runs tell them: without those of OMITTED_IF_DEFAULT that are as there."""
        return {name: value for name, value in asdict(self).items() if OMITTED_IF_DEFAULT.get(name) != value}


FRONT_ENDS = {
    "tft": FrontEnd(frames=80, pre_emphasis=0.97),
    "atfnn": FrontEnd(frames=128, pre_emphasis=0.0),
}


# ---------------------------------------------------------------------------------- one recording


@contextmanager
def enough_memory(path):
    """AudioError where what is done inside with a recording takes more memory than there is."""
    try:
        yield
    except MemoryError:  # it is long, or a damaged header says so
        raise AudioError(f"{path}: is too long for this machine's memory; cut it into parts") from None


def read_audio(path, rate=16_000):
    """Read a recording as mono float32 in [-1, 1] at `rate` Hz, shape (samples,).

    Channels are averaged, other rates are resampled by a polyphase filter. Raises AudioError for a
    file that is missing, unreadable, empty, cut short, silent, or that holds NaN or infinity.
    """
    import soundfile

    if not os.path.isfile(path):
        raise AudioError(f"{path}: no such recording; restore it or take it off the list")
    try:
        with soundfile.SoundFile(path) as file:
            if file.format not in FORMATS:
                raise AudioError(f"{path}: holds {file.format}, not WAV or FLAC; convert it")
            if not RATES[0] <= file.samplerate <= RATES[1]:
                raise AudioError(f"{path}: its header says {file.samplerate} Hz; replace the file")
            wave = file.read(dtype="float32", always_2d=True)
            source_rate = file.samplerate
            short = len(wave) < file.frames or _wav_cut_short(path)
    except AudioError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(getattr(error, "error_string", error)).splitlines()[0].rstrip(".")
        if not os.path.getsize(path):
            reason = "the file is empty"
        raise AudioError(f"{path}: cannot be read as audio ({reason}); replace the file") from None
    if len(wave) == 0:
        raise AudioError(f"{path}: holds no samples; replace the file")
    if short:
        raise AudioError(f"{path}: was cut short, its header promises more samples; replace the file")
    mono = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
    if not np.isfinite(mono).all():
        raise AudioError(f"{path}: holds NaN or infinite samples; replace the file")
    if abs(mono).max() > LOUDEST:
        raise AudioError(f"{path}: has samples of {abs(mono).max():.3g}, far outside [-1, 1]; rescale it")
    if mono.max() == mono.min():
        raise AudioError(f"{path}: is silent, every sample of the mean of its channels is the same; replace the file")
    if source_rate != rate:
        from scipy.signal import resample_poly

        common = gcd(source_rate, rate)
        mono = resample_poly(mono, rate // common, source_rate // common).astype(np.float32, copy=False)
    return mono


def _wav_cut_short(path):
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


def count_segments(samples, front_end):
    """Segments of a recording of `samples` samples: as many as hold every whole frame, at least one."""
    frames = 1 + (samples - front_end.window) // front_end.shift
    hop = front_end.hop // front_end.shift  # frames
    return 1 + max(0, ceil((frames - front_end.frames) / hop))


def split_segments(wave, front_end):
    """Cut (samples,) into segments (S, front_end.samples), the last one filled up with zeros."""
    number = count_segments(len(wave), front_end)
    padded = np.zeros((number - 1) * front_end.hop + front_end.samples, np.float32)
    kept = wave[: len(padded)]  # past the last whole frame, under 10 ms can remain
    padded[: len(kept)] = kept
    return sliding_window_view(padded, front_end.samples)[:: front_end.hop]


def pre_emphasize(segments, coefficient):
    """y[n] = x[n] - coefficient x[n-1] along the last axis; the first sample is kept (TFT section 3.3)."""
    if coefficient == 0:
        return segments
    emphasized = segments.copy()
    emphasized[..., 1:] -= np.float32(coefficient) * segments[..., :-1]
    return emphasized


def split_frames(segments, window, shift):
    """View (S, samples) as overlapping frames (S, frames, window), without centring or copying."""
    return sliding_window_view(segments, window, axis=-1)[:, ::shift]


def power_spectrum(frames, fft):
    """|FFT|^2 of Hamming-windowed frames: (..., window) -> (..., fft // 2 + 1)."""
    from scipy.fft import rfft

    spectrum = rfft(frames * hamming(frames.shape[-1]), fft)
    return spectrum.real**2 + spectrum.imag**2


@lru_cache
def hamming(window):
    """Symmetric Hamming window, float32 (window,)."""
    return np.hamming(window).astype(np.float32)


def hz_to_mel(hz):
    """HTK Mel scale: 2595 log10(1 + f / 700)."""
    return 2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0)


def mel_to_hz(mel):
    """Inverse of `hz_to_mel`."""
    return 700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0)


def band_edges(front_end):
    """Edges and centres of the Mel triangles in Hz, (bands + 2,): band i rises from edge i to i + 1, falls to i + 2."""
    return mel_to_hz(np.linspace(hz_to_mel(front_end.low), hz_to_mel(front_end.high), front_end.bands + 2))


@lru_cache
def mel_filter_bank(front_end):
    """Triangles of height 1 on continuous Hz, float32 (bands, fft // 2 + 1).

    The edges are not rounded to FFT bins: at 80 bands that would leave rows empty (31.25 Hz per bin, the
    first triangle spans 46 Hz).
    """
    edges = band_edges(front_end)[:, None]
    bins = np.arange(front_end.fft // 2 + 1) * (front_end.rate / front_end.fft)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


@lru_cache
def _sparse_bank(front_end):
    from scipy.sparse import csr_array

    return csr_array(mel_filter_bank(front_end))  # 503 of 20 560 weights are not zero


def log_mel(wave, front_end):
    """Log-Mel segments of a waveform: float32 (samples,) -> (S, bands, frames)."""
    within = front_end.emphasized == "segment"
    wave = wave if within else pre_emphasize(wave, front_end.pre_emphasis)
    segments = split_segments(wave, front_end)  # (S, samples)
    bands, frames = front_end.bands, front_end.frames
    out = np.empty((len(segments), bands, frames), np.float32)
    for start in range(0, len(segments), BLOCK_SEGMENTS):
        block = segments[start : start + BLOCK_SEGMENTS]
        block = pre_emphasize(block, front_end.pre_emphasis) if within else block
        power = power_spectrum(split_frames(block, front_end.window, front_end.shift), front_end.fft)
        energy = _sparse_bank(front_end) @ power.reshape(-1, power.shape[-1]).T  # (bands, s * frames)
        level = np.log(energy + np.float32(front_end.floor)).reshape(bands, -1, frames)
        out[start : start + len(block)] = level.transpose(1, 0, 2)  # (s, bands, frames)
    return out


def extract(path, front_end):
    """Log-Mel segments of a recording, float32 (S, bands, frames), its length in seconds, its file's SHA-256."""
    with enough_memory(path):
        wave = read_audio(path, front_end.rate)
        segments = log_mel(wave, front_end)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return segments, len(wave) / front_end.rate, digest


# ----------------------------------------------------------------------- many recordings, and the cache


@dataclass(frozen=True)
class Features:
    """Segments of a list of recordings, in its order."""

    segments: np.ndarray  # (S, bands, frames) float32, mapped from the cache, copy on write
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
        shape = [sum(counts), front_end.bands, front_end.frames]
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
