"""Descriptors of a recording for the comparison methods, with numpy and scipy: float32 waves at 16 kHz -> numbers.

    openear           (6552,)   39 functionals x 56 descriptors x (value, first, second difference)
    is09              (384,)    12 functionals x 16 descriptors x (value, difference)
    hu                (416,)    16 functionals x 13 cepstral numbers of a Hu-moment spectrum x (value, difference)
    band_statistics   (240,)    mean, deviation, deviation of the change x 80 log-Mel bands of TFT's front end
    mfcc39            (T, 39)   12 MFCC, log energy, first and second differences
    mfcc_pitch_hnr    (T, 30)   12 MFCC, log energy, pitch period, harmonics-to-noise ratio, first differences

    >>> from comparisons.descriptors import DESCRIPTORS
    >>> DESCRIPTORS["openear"](features.read_audio(path)).shape        # (6552,)

Sources. openear: Schuller et al., ASRU 2009, doi 10.1109/ASRU.2009.5372886; its frames are those of openSMILE's
emo_large.conf, by one of its authors. is09: Schuller, Steidl, Batliner, Interspeech 2009, and openSMILE's
IS09_emotion.conf. All frames but those of band_statistics: 25 ms, 10 ms hop, pre-emphasis 0.97 in the frame, Hamming
window.

Numbers of is09 were compared with openSMILE's over CASIA: 0.94 or more is the correlation of nearly all of MFCC,
energy and zero crossings, 0.99 that of mean F0 and mean voicing. Ours, where the sources are silent: F0 is the lag of
the largest autocorrelation, without a cepstrum; the centroid of a contour weights time by magnitude, so that its
divisor is not nearly 0; the edges of a contour are repeated for averages and differences.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.fft import irfft, rfft
from scipy.ndimage import correlate1d
from scipy.signal import lfilter

import features

SAMPLE_RATE = 16_000  # Hz
WIN_LENGTH, HOP_LENGTH = 400, 160  # samples: 25 and 10 ms
PRE_EMPHASIS = 0.97
N_FFT = 1024  # points, so that the autocorrelation of a frame does not wrap around; spectra are 512-point ones
HZ = np.arange(257, dtype=np.float32) * (2 * SAMPLE_RATE / N_FFT)  # of each bin
N_MELS = 26  # 0 to 8000 Hz

F0_LAGS = (32, 213)  # samples: 500 to 75 Hz
PITCH_LAGS = (32, 208)  # samples: 2 to 13 ms
VOICED = 0.55  # autocorrelation of a frame that has an F0, at least
F0_SMOOTHING = 0.75  # share of the envelope's last value
BANDS_HZ = ((0, 250), (0, 650), (250, 650), (1000, 4000))
ROLL_OFF = (0.25, 0.50, 0.75, 0.90)  # of the energy below the point
LIFTER = 22
MAGNITUDE_FLOOR = 1 / 32768  # of a Mel band before the logarithm: HTK's floor of 1 at 16-bit samples
ENERGY_FLOOR = MAGNITUDE_FLOOR**2  # of a frame or a band before the logarithm
HU_REGION = np.arange(-2, 3)  # offsets of a region of 5 x 5 cells from its centre
LOG_MEL = features.FrontEnd(frames=80, pre_emphasis=PRE_EMPHASIS)  # TFT's


# ----------------------------------------------------------------------------------------------- frames


class Spectra(NamedTuple):
    """Frames of a recording and their spectra."""

    frames: np.ndarray  # (T, 400) samples
    windowed: np.ndarray  # (T, 400) after pre-emphasis and window
    power: np.ndarray  # (T, 257)
    magnitude: np.ndarray  # (T, 257)
    acf: np.ndarray  # (T, 1024) autocorrelation, not yet divided by that of lag 0


def analyse(wave):
    """Spectra of a wave (samples,); zeros fill up a wave that is shorter than a frame."""
    wave = np.pad(wave, (0, max(0, WIN_LENGTH - len(wave))))
    frames = sliding_window_view(wave, WIN_LENGTH)[::HOP_LENGTH]  # (T, 400)
    windowed = frames.copy()
    windowed[:, 1:] -= np.float32(PRE_EMPHASIS) * frames[:, :-1]
    windowed[:, 0] *= np.float32(1 - PRE_EMPHASIS)  # as HTK: no step at the start of a frame
    windowed *= features.hamming(WIN_LENGTH)
    spectrum = rfft(windowed, N_FFT)
    power = spectrum.real**2 + spectrum.imag**2  # (T, 513)
    acf = irfft(power, N_FFT)
    power = power[:, ::2]  # (T, 257): a transform of twice the points holds the shorter transform
    return Spectra(frames, windowed, power, np.sqrt(power), acf)


def periodicity(acf, lags):
    """Largest autocorrelation of each frame in a range of lags, relative to lag 0, (T,) in 0..1, and its lag (T,)."""
    first, last = lags
    in_range = acf[:, first : last + 1] / np.maximum(acf[:, :1], ENERGY_FLOOR)
    return in_range.max(1).clip(0, 1), first + in_range.argmax(1)


def f0_contours(acf):
    """F0 in Hz, 0 where unvoiced; its smoothed envelope, held through unvoiced frames; voicing: (T, 3)."""
    voicing, lag = periodicity(acf, F0_LAGS)
    voiced = voicing >= VOICED
    f0 = np.where(voiced, SAMPLE_RATE / lag, 0.0)
    envelope = np.zeros(len(f0))
    if voiced.any():
        start = [F0_SMOOTHING * f0[voiced][0]]
        smoothed, _ = lfilter([1 - F0_SMOOTHING], [1, -F0_SMOOTHING], f0[voiced], zi=start)
        envelope = np.concatenate([[0.0], smoothed])[voiced.cumsum()]  # of the last voiced frame
    return np.stack([f0, envelope, voicing], 1)  # (T, 3)


@lru_cache
def _mel_filter_bank():
    """HTK's Mel filters (26, 257): triangles that are straight on the Mel scale; those of features.py are so in Hz."""
    mel, step = features.hz_to_mel(HZ), features.hz_to_mel(SAMPLE_RATE / 2) / (N_MELS + 1)
    centres = step * np.arange(1, N_MELS + 1)[:, None]  # (26, 1)
    return np.maximum(0, 1 - np.abs(mel - centres) / step).astype(np.float32)


def mel_bands(spectrum):
    """Mel bands (T, 26) of a magnitude or power spectrum (T, 257)."""
    return spectrum @ _mel_filter_bank().T


@lru_cache
def _cosines():
    """DCT-II and HTK's lifter, (26, 13)."""
    bands, order = np.arange(N_MELS)[:, None], np.arange(13)
    lifter = 1 + LIFTER / 2 * np.sin(np.pi * order / LIFTER)
    return np.sqrt(2 / N_MELS) * np.cos(np.pi * order * (bands + 0.5) / N_MELS) * lifter


def cepstrum(log_bands):
    """Cepstral coefficients 0 to 12 of log bands: (T, 26) -> (T, 13)."""
    return log_bands @ _cosines()


def mfcc(magnitude):
    """MFCC 0 to 12 of a magnitude spectrum (T, 257) -> (T, 13)."""
    return cepstrum(np.log(np.maximum(mel_bands(magnitude), MAGNITUDE_FLOOR)))


def log_energy(frames):
    """Log energy of frames (T, 400) -> (T, 1)."""
    return np.log(np.square(frames).sum(1, keepdims=True) + ENERGY_FLOOR)


def zero_crossings(frames):
    """Share of neighbouring samples of a frame whose signs differ: (T, 400) -> (T, 1)."""
    return np.diff(np.signbit(frames), axis=1).mean(1, keepdims=True)


def spectral_shape(power, magnitude):
    """Band energies 4, roll-off points 4, centroid, flux, frequencies of maximum and minimum: (T, 257) -> (T, 12)."""
    total = np.maximum(power.sum(1, keepdims=True), ENERGY_FLOOR)
    bands = [power[:, (HZ >= low) & (HZ < high)].sum(1) for low, high in BANDS_HZ]
    share = power.cumsum(1) / total  # (T, 257), rises to 1
    roll_off = [HZ[(share < point).sum(1).clip(max=len(HZ) - 1)] for point in ROLL_OFF]
    centroid = (power @ HZ) / total[:, 0]
    unit = magnitude / np.maximum(magnitude.sum(1, keepdims=True), MAGNITUDE_FLOOR)
    flux = np.sqrt(np.square(np.diff(unit, axis=0, prepend=unit[:1])).mean(1))  # 0 in the first frame
    return np.stack([*bands, *roll_off, centroid, flux, HZ[power.argmax(1)], HZ[power.argmin(1)]], 1)  # (T, 12)


def smooth(contours):
    """Moving average over 3 frames, edges repeated: (T, C) -> (T, C)."""
    padded = np.pad(contours, ((1, 1), (0, 0)), "edge")
    return (padded[:-2] + padded[1:-1] + padded[2:]) / 3


def delta(contours):
    """Differences by regression over 2 frames to each side, edges repeated: (T, C) -> (T, C)."""
    padded = np.pad(contours, ((2, 2), (0, 0)), "edge")
    return (padded[3:-1] - padded[1:-3] + 2 * (padded[4:] - padded[:-4])) / 10


# ------------------------------------------------------------------------------------------- functionals


OPENEAR = (
    "max_position min_position range max_distance min_distance mean quadratic_mean nonzero nonzero_geometric_mean "
    "nonzero_quadratic_mean absolute_mean nonzero_absolute_mean q25 q50 q75 q50-q25 q75-q50 q75-q25 q95 q98 deviation "
    "variance kurtosis skewness centroid crossings peaks peak_distance peak_mean peak_mean_distance "
    "slope offset line_absolute_error line_squared_error "
    "quadratic_2 quadratic_1 quadratic_0 quadratic_absolute_error quadratic_squared_error"
).split()  # 39
IS09 = (
    "max min range max_frame min_frame mean slope offset line_squared_error deviation skewness kurtosis"
).split()  # 12
HU = (
    "mean deviation skewness kurtosis slope line_absolute_error line_squared_error q1 q25 q50 q75 q99 q75-q25 q99-q1 "
    "max_position min_position"
).split()  # 16


def functionals(contours, names):
    """The named functionals of contours (T, C) -> float32 (len(names) * C,), a functional after the other.

    Positions are relative to the length; slopes, `max_frame`, `min_frame` and peak distances are in frames.
    """
    x = np.ascontiguousarray(contours.T, np.float64)  # (C, T)
    length, last = x.shape[1], max(x.shape[1] - 1, 1)
    high, low, mean, size = x.max(1), x.min(1), x.mean(1), np.abs(x)
    centred = np.where((high > low)[:, None], x - mean[:, None], 0)  # exactly 0 for a constant
    squared = centred * centred
    variance = squared.mean(1)
    deviation = np.sqrt(variance)
    nonzero = np.count_nonzero(x, 1)
    ordered = np.sort(x, 1)
    q = {percent: _quantile(ordered, percent / 100) for percent in (1, 25, 50, 75, 95, 98, 99)}
    max_frame, min_frame = x.argmax(1), x.argmin(1)
    time = np.arange(length) / last  # 0..1

    inner = x[:, 1:-1]
    peak = (inner > x[:, :-2]) & (inner > x[:, 2:])  # (C, T - 2)
    peaks = peak.sum(1)
    first_peak, last_peak = (peak.argmax(1), len(peak[0]) - peak[:, ::-1].argmax(1)) if length > 2 else (0, 0)
    peak_mean = _ratio((inner * peak).sum(1), peaks)
    line, line_residual = _polynomial(x, time, 1)  # (2, C), (C, T)
    parabola, parabola_residual = _polynomial(x, time, 2)
    values = {
        "max": high, "min": low, "range": high - low, "max_distance": high - mean, "min_distance": mean - low,
        "max_frame": max_frame, "min_frame": min_frame,
        "max_position": max_frame / last, "min_position": min_frame / last,
        "mean": mean, "quadratic_mean": np.sqrt((x * x).mean(1)), "absolute_mean": size.mean(1),
        "nonzero": nonzero, "nonzero_absolute_mean": _ratio(size.sum(1), nonzero),
        "nonzero_quadratic_mean": np.sqrt(_ratio((x * x).sum(1), nonzero)),
        "nonzero_geometric_mean":
            np.where(nonzero > 0, np.exp(_ratio(np.log(np.where(x != 0, size, 1)).sum(1), nonzero)), 0),
        **{f"q{percent}": value for percent, value in q.items()},
        "q50-q25": q[50] - q[25], "q75-q50": q[75] - q[50], "q75-q25": q[75] - q[25], "q99-q1": q[99] - q[1],
        "deviation": deviation, "variance": variance,
        "skewness": _ratio((squared * centred).mean(1), deviation**3),
        "kurtosis": _ratio((squared * squared).mean(1), variance**2),
        "centroid": _ratio(size @ time, size.sum(1)),
        "crossings": (x[:, 1:] * x[:, :-1] < 0).sum(1) / length,
        "peaks": peaks, "peak_distance": _ratio(np.where(peaks > 1, last_peak - first_peak - 1, 0), peaks - 1),
        "peak_mean": peak_mean, "peak_mean_distance": np.where(peaks > 0, peak_mean - mean, 0),
        "slope": line[1] / last, "offset": line[0],
        "line_absolute_error": np.abs(line_residual).mean(1), "line_squared_error": np.square(line_residual).mean(1),
        "quadratic_2": parabola[2] / last**2, "quadratic_1": parabola[1] / last, "quadratic_0": parabola[0],
        "quadratic_absolute_error": np.abs(parabola_residual).mean(1),
        "quadratic_squared_error": np.square(parabola_residual).mean(1),
    }  # fmt: skip
    return np.concatenate([values[name] for name in names]).astype(np.float32)


def _ratio(value, divisor):
    """value / divisor, 0 where the divisor is 0 or below."""
    return np.divide(value, divisor, out=np.zeros(len(value)), where=np.asarray(divisor) > 0)


def _quantile(ordered, share):
    """Quantile of sorted contours (C, T), linear between two values: (C,)."""
    position = share * (ordered.shape[1] - 1)
    below = int(position)
    above = min(below + 1, ordered.shape[1] - 1)
    return ordered[:, below] + (position - below) * (ordered[:, above] - ordered[:, below])


def _polynomial(x, time, degree):
    """Least-squares polynomial of contours (C, T): coefficients (degree + 1, C), constant first; residual (C, T)."""
    powers = time[:, None] ** np.arange(degree + 1)  # (T, degree + 1)
    coefficients = np.linalg.pinv(powers) @ x.T
    return coefficients, x - (powers @ coefficients).T


# ------------------------------------------------------------------------------- sets of an utterance


def low_level(wave):
    """The 56 descriptors of ASRU 2009: (samples,) -> (T, 56)."""
    spectra = analyse(wave)
    return np.concatenate([
        zero_crossings(spectra.frames), log_energy(spectra.windowed), f0_contours(spectra.acf),
        spectral_shape(spectra.power, spectra.magnitude), mel_bands(spectra.magnitude), mfcc(spectra.magnitude),
    ], 1)  # fmt: skip


def openear(wave):
    """The 6552 numbers of ASRU 2009: (samples,) -> (6552,)."""
    contours = smooth(low_level(wave))  # (T, 56)
    first = delta(contours)
    return functionals(np.concatenate([contours, first, delta(first)], 1), OPENEAR)


def is09(wave):
    """The 384 numbers of the INTERSPEECH 2009 Emotion Challenge: (samples,) -> (384,)."""
    spectra = analyse(wave)
    rms = np.sqrt(np.square(spectra.windowed).mean(1, keepdims=True))
    f0 = f0_contours(spectra.acf)[:, [0, 2]]
    contours = [rms, mfcc(spectra.magnitude)[:, 1:], zero_crossings(spectra.frames), f0]
    contours = smooth(np.concatenate(contours, 1))  # (T, 16)
    return functionals(np.concatenate([contours, delta(contours)], 1), IS09)


def hu_spectrum(energy):
    """Energy of each cell times the first Hu moment of the region around it: (T, 26) -> (T, 26).

    phi1 = (mu20 + mu02) / m00^2 with central moments over HU_REGION in time and band, edges repeated. It is small
    where energy is concentrated at the region's centre of gravity.
    """
    energy = energy.astype(np.float64) + ENERGY_FLOOR
    ones = np.ones(len(HU_REGION))

    def moment(in_time, in_band):
        return correlate1d(correlate1d(energy, in_time, 0, mode="nearest"), in_band, 1, mode="nearest")

    mass = moment(ones, ones)
    spread = moment(HU_REGION**2.0, ones) + moment(ones, HU_REGION**2.0)
    spread -= (moment(HU_REGION * 1.0, ones) ** 2 + moment(ones, HU_REGION * 1.0) ** 2) / mass
    return energy * spread / mass**2


def hu(wave):
    """Functionals of the cepstrum of the Hu-moment spectrum: (samples,) -> (416,)."""
    spectrum = hu_spectrum(mel_bands(analyse(wave).power))
    contours = smooth(cepstrum(np.log(spectrum + ENERGY_FLOOR)))  # (T, 13)
    return functionals(np.concatenate([contours, delta(contours)], 1), HU)


def band_statistics(wave):
    """Mean, deviation, and deviation of the change from frame to frame of 80 log-Mel bands: (samples,) -> (240,)."""
    segments = features.log_mel(wave, LOG_MEL)  # (S, 80, 80), the last filled with zeros
    whole = 1 + (len(wave) - LOG_MEL.win_length) // LOG_MEL.hop_length
    frames = segments.transpose(0, 2, 1).reshape(-1, LOG_MEL.n_mels)  # (S * 80, 80)
    frames = frames[: max(2, whole)].astype(np.float64)  # without padding; a change needs two
    numbers = [frames.mean(0), frames.std(0), np.diff(frames, axis=0).std(0)]
    return np.concatenate(numbers).astype(np.float32)


# --------------------------------------------------------------------------------- sets of each frame


def mfcc39(wave):
    """12 MFCC, log energy, first and second differences, as HTK: (samples,) -> (T, 39)."""
    spectra = analyse(wave)
    contours = np.concatenate([mfcc(spectra.magnitude)[:, 1:], log_energy(spectra.frames)], 1)  # (T, 13)
    first = delta(contours)
    return np.concatenate([contours, first, delta(first)], 1).astype(np.float32)


def mfcc_pitch_hnr(wave):
    """12 MFCC, log energy, pitch period in ms, harmonics-to-noise ratio in dB, first differences: (T, 30).

    Column 12 is the log energy. With r the largest normalised autocorrelation, the ratio is 10 lg(r / (1 - r)).
    """
    spectra = analyse(wave)
    r, lag = periodicity(spectra.acf, PITCH_LAGS)
    r = r.clip(0.001, 0.999)  # -30 to 30 dB
    pitch = np.stack([lag * (1000 / SAMPLE_RATE), 10 * np.log10(r / (1 - r))], 1)  # (T, 2)
    contours = np.concatenate([mfcc(spectra.magnitude)[:, 1:], log_energy(spectra.frames), pitch], 1)  # (T, 15)
    return np.concatenate([contours, delta(contours)], 1).astype(np.float32)


@dataclass(frozen=True)
class Descriptor:
    """Descriptors of a recording, in the form that features.load caches; a call computes them from a wave."""

    name: str
    function: Callable  # wave (samples,) -> (D,) or (T, D) float32
    size: int  # D
    sample_rate: int = SAMPLE_RATE

    def __call__(self, wave):
        return self.function(wave)

    @property
    def row_shape(self):
        """Shape of a row, (D,)."""
        return (self.size,)

    def rows_of(self, wave):
        """Rows of a recording, float32 (1 or T, D)."""
        return self.function(wave).reshape(-1, self.size)

    def cache_key(self):
        """Text that changes with the name and with the code of this file."""
        return self.name + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


DESCRIPTORS = {
    function.__name__: Descriptor(function.__name__, function, size)
    for function, size in (
        (openear, 6552), (is09, 384), (hu, 416), (band_statistics, 240), (mfcc39, 39), (mfcc_pitch_hnr, 30),
    )
}  # fmt: skip
