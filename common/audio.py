"""Recordings as samples: what is read, what is refused and why.

    samples = read_samples("a.wav", start=1.5, end=3.25)     # at its own rate, with what is known of it
    wave = read_audio("a.wav")                               # mono float32 at 16 kHz

libsndfile (soundfile) decodes. A format or codec is refused where a loss of samples would go unnoticed.
"""

import os
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from math import ceil, gcd, inf, pi
from typing import NamedTuple

import numpy as np

from common import containers, paths

ENDINGS = (".wav", ".wave", ".bwf", ".flac", ".w64", ".rf64")  # of the files that are read
OTHER_ENDINGS = (  # of recordings that are not read
    ".mp3", ".mp2", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".m4b", ".aac", ".ac3", ".amr", ".3gp", ".wma", ".webm",
    ".mka", ".mkv", ".avi", ".mov", ".aiff", ".aif", ".aifc", ".caf", ".au", ".snd", ".sph", ".nist", ".spx", ".ape",
    ".wv", ".gsm", ".g722", ".voc", ".raw", ".pcm",
)  # fmt: skip
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC")  # of libsndfile
SAMPLE_RATES = (4_000, 384_000)  # Hz, lowest and highest that a recording may have
MIN_SECONDS = 0.02  # of a recording: a window of both papers
LOUDEST = 8.0  # samples belong in [-1, 1]; a floating-point file may overshoot, but not hold integers
END_TOLERANCE = 0.05  # s that a part may end behind its recording, because times are rounded
STEPS = {  # codec of libsndfile -> step between two levels; 16 bits where it is not here
    **dict.fromkeys(("PCM_S8", "PCM_U8"), 2**-7), **dict.fromkeys(("PCM_24", "PCM_32", "FLOAT", "DOUBLE"), 2**-23)
}  # fmt: skip
TRANSITION = 1 / 16  # of the new Nyquist frequency; resampling cuts off between 7.5 and 8 kHz
ATTENUATION = 65.0  # dB, of what lies above


class AudioError(ValueError):
    """A recording that cannot be used; the message names the file and the remedy."""

    exit_code = 3  # of a command that ends with this error


class Samples(NamedTuple):
    """A recording or a part of it, as stored."""

    wave: np.ndarray  # (samples,) float32 in [-1, 1], mean of the channels
    rate: int  # Hz
    channels: int
    step: float  # between two levels of the samples as stored

    @property
    def seconds(self):
        """Duration."""
        return len(self.wave) / self.rate


@contextmanager
def enough_memory(path):
    """Turn a MemoryError raised in the context into an AudioError that names the recording."""
    try:
        yield
    except MemoryError:  # it is long, or its damaged header claims to be
        raise AudioError(f"{path}: is too long for this machine's memory; cut it into parts") from None


def read_audio(path, sample_rate=16_000, start=0.0, end=inf):
    """Read a recording, or its part from `start` to `end` in seconds, as mono float32 at `sample_rate` Hz, (samples,).

    Channels are averaged, other rates are resampled. Raises AudioError for a file that is missing, unreadable, empty,
    truncated, silent, shorter than MIN_SECONDS, or that holds NaN or infinity.
    """
    samples = read_samples(path, start, end)
    return resample(samples.wave, samples.rate, sample_rate)


def read_samples(path, start=0.0, end=inf):
    """Read a recording, or its part from `start` to `end` in seconds, as Samples. Raises AudioError as `read_audio`."""
    import soundfile

    if not os.path.isfile(path):
        raise AudioError(paths.why_missing(path))
    try:
        with open(os.fsencode(path), "rb") as file:
            header = containers.read_wav_header(file)
            problem, content = containers.true_flac(file)
            if name := containers.unknown_format(file):
                problem = f"holds {name}, not WAV or FLAC; convert it"
        if header and header.codec not in containers.CODECS:
            problem = f"holds {header.codec_name} in {header.container}; convert it to 16-bit PCM"
        problem = problem or (header and header.problem())
        if problem:
            raise AudioError(f"{path}: {problem}")
        with soundfile.SoundFile(BytesIO(content) if content else os.fsencode(path)) as file:  # bytes: of any encoding
            if file.format not in FORMATS:
                raise AudioError(f"{path}: holds {file.format}, not WAV or FLAC; convert it")
            if not SAMPLE_RATES[0] <= file.samplerate <= SAMPLE_RATES[1]:
                raise AudioError(f"{path}: its header claims {file.samplerate} Hz; replace the file")
            frames = header.true_frames(file.frames) if header else file.frames
            if frames is None:
                raise AudioError(f"{path}: its header contradicts itself in channels, bits and bytes; replace the file")
            first, last = part_of(path, frames, file.samplerate, start, end)
            if file.seekable():
                if first:
                    file.seek(first)
                wave = file.read(last - first, dtype="float32", always_2d=True)  # (samples, channels)
            else:  # GSM and the like
                wave = file.read(file.frames, dtype="float32", always_2d=True)[first:last]
            mono = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
            samples = Samples(mono, file.samplerate, file.channels, STEPS.get(file.subtype, 2**-15))
    except AudioError:
        raise
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
        reason = f"cannot be read as audio ({reason.splitlines()[0].rstrip('.')})"
        if not os.path.getsize(path):
            reason = "the file is empty"
        raise AudioError(f"{path}: {reason}; replace the file") from None
    if len(mono) < last - first:
        raise AudioError(f"{path}: was cut short, its header promises more samples; replace the file")
    check_samples(path, samples)
    return samples


def part_of(path, frames, rate, start, end):
    """First sample of a part in seconds, and the first behind it; AudioError where it reaches out of the recording."""
    if frames == 0:
        raise AudioError(f"{path}: holds no samples; replace the file")
    seconds = frames / rate
    if start >= seconds or (end < inf and end > seconds + END_TOLERANCE):
        part = f"{start:.2f} to {end:.2f} s" if end < inf else f"{start:.2f} s to its end"
        raise AudioError(
            f"{path}: {part} is asked for, and it has {seconds:.2f} s; correct the times (in seconds), or take their "
            "columns out of the manifest where the file is cut already"
        )
    return round(start * rate), frames if end == inf else min(frames, round(end * rate))


def check_samples(path, samples):
    """Raise AudioError for samples that are of no use."""
    wave, milliseconds = samples.wave, 1000 * samples.seconds
    if samples.seconds < MIN_SECONDS:
        window = f"a window of {1000 * MIN_SECONDS:.0f} ms"
        raise AudioError(f"{path}: has {milliseconds:.3g} ms, less than {window}; take it off the list")
    if not np.isfinite(wave).all():
        raise AudioError(f"{path}: holds NaN or infinite samples; replace the file")
    if abs(wave).max() > LOUDEST:
        raise AudioError(f"{path}: has samples of {abs(wave).max():.3g}, far outside [-1, 1]; rescale it")
    if wave.max() == wave.min():
        raise AudioError(f"{path}: is silent, all samples of the mean of its channels are the same; replace the file")


def resample(wave, rate, new_rate):
    """Resample a waveform by a polyphase filter: (samples,) -> (ceil(samples * new_rate / rate),), float32.

    Flat to 0.1 dB up to 15/16 of the lower Nyquist frequency, and below -60 dB above it. (The default filter of
    scipy.signal.resample_poly lets 8.1 kHz pass at -7 dB.) A rate that stays leaves the bits as they are.
    """
    if rate == new_rate:
        return wave
    from scipy.signal import resample_poly

    common = gcd(rate, new_rate)
    up, down = new_rate // common, rate // common
    return resample_poly(wave, up, down, window=low_pass(up, down)).astype(np.float32, copy=False)


@lru_cache(32)
def low_pass(up, down):
    """Taps of the low-pass filter between two rates, float32, by Kaiser's formulas for its length and window."""
    from scipy.signal import firwin, kaiser_beta

    nyquist = 1 / max(up, down)  # the lower of both rates', as a share of the filter's own
    taps = ceil((ATTENUATION - 7.95) / (2.285 * pi * nyquist * TRANSITION)) | 1
    window = ("kaiser", kaiser_beta(ATTENUATION))
    return firwin(taps, nyquist * (1 - TRANSITION / 2), window=window).astype(np.float32)
