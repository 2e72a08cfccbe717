"""Descriptors and functionals of the comparison methods."""

import numpy as np
import pytest
from scipy import stats
from scipy.fft import dct
from scipy.signal import argrelmax

import features
from comparisons import descriptors
from comparisons.descriptors import DESCRIPTORS, HU, IS09, OPENEAR, functionals

RNG = np.random.default_rng(0)
VECTORS = {"openear": 6552, "is09": 384, "hu": 416, "band_statistics": 240}
FRAMES = {"mfcc39": 39, "mfcc_pitch_hnr": 30}


def named(contours):
    """Functionals of contours (T, C) as {name: (C,)}."""
    names = list(dict.fromkeys([*OPENEAR, *IS09, *HU]))
    return dict(zip(names, functionals(contours, names).reshape(len(names), -1)))


def sine(hz, seconds=1.0, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(16_000 * seconds)) / 16_000)).astype(np.float32)


def test_functionals_agree_with_numpy_and_scipy():
    x = RNG.normal(1, 2, (50, 3)) * (RNG.random((50, 3)) < 0.9)  # with zeros
    found, time = named(x), np.arange(50)
    for column in range(3):
        y = x[:, column]
        nonzero, relative = y[y != 0], time / 49
        peaks = argrelmax(y)[0]
        line, parabola = np.polyfit(time, y, 1), np.polyfit(time, y, 2)
        line_error, parabola_error = y - np.polyval(line, time), y - np.polyval(parabola, time)
        quartiles = np.quantile(y, [0.25, 0.5, 0.75])
        expected = {
            "max": y.max(), "min": y.min(), "range": np.ptp(y), "mean": y.mean(), "deviation": y.std(),
            "variance": y.var(), "skewness": stats.skew(y), "kurtosis": stats.kurtosis(y, fisher=False),
            "max_distance": y.max() - y.mean(), "min_distance": y.mean() - y.min(),
            "max_frame": y.argmax(), "min_position": y.argmin() / 49, "q1": np.quantile(y, 0.01),
            "q98": np.quantile(y, 0.98), "q25": quartiles[0], "q75-q25": quartiles[2] - quartiles[0],
            "q50-q25": quartiles[1] - quartiles[0], "quadratic_mean": np.sqrt((y**2).mean()),
            "nonzero": len(nonzero), "nonzero_geometric_mean": stats.gmean(abs(nonzero)),
            "nonzero_quadratic_mean": np.sqrt((nonzero**2).mean()), "absolute_mean": abs(y).mean(),
            "nonzero_absolute_mean": abs(nonzero).mean(), "centroid": (relative * abs(y)).sum() / abs(y).sum(),
            "crossings": sum(a * b < 0 for a, b in zip(y, y[1:])) / 50,
            "peaks": len(peaks), "peak_distance": np.diff(peaks).mean(), "peak_mean": y[peaks].mean(),
            "peak_mean_distance": y[peaks].mean() - y.mean(), "slope": line[0], "offset": line[1],
            "line_absolute_error": abs(line_error).mean(), "line_squared_error": (line_error**2).mean(),
            "quadratic_2": parabola[0], "quadratic_1": parabola[1], "quadratic_0": parabola[2],
            "quadratic_absolute_error": abs(parabola_error).mean(),
            "quadratic_squared_error": (parabola_error**2).mean(),
        }  # fmt: skip
        for name, value in expected.items():
            assert found[name][column] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_functionals_of_a_ramp_a_constant_and_a_single_frame():
    ramp = named(3 + 2 * np.arange(21.0)[:, None])
    assert ramp["slope"] == pytest.approx(2) and ramp["offset"] == pytest.approx(3)
    assert abs(ramp["quadratic_2"]) < 1e-6 and ramp["line_squared_error"] < 1e-9
    assert ramp["max_position"] == 1 and ramp["peaks"] == 0 and ramp["q50"] == 23
    for frames in (1, 2, 30):
        constant = named(np.full((frames, 1), 0.1))
        assert all(np.isfinite(value).all() for value in constant.values())
        for name in ("range", "deviation", "skewness", "kurtosis", "crossings", "peaks", "q75-q25", "max_frame"):
            assert constant[name] == 0, name
        assert constant["mean"] == constant["q50"] == constant["peak_mean_distance"] + np.float32(0.1)


def test_smoothing_and_differences_of_a_ramp():
    ramp = 5 * np.arange(10.0)[:, None]
    assert descriptors.smooth(ramp)[1:-1] == pytest.approx(ramp[1:-1])
    assert descriptors.delta(ramp)[2:-2] == pytest.approx(5)
    assert descriptors.delta(np.ones((1, 3))) == pytest.approx(0)


@pytest.mark.parametrize("hz", [160, 250, 400])
def test_a_sine_has_its_f0_and_is_voiced(hz):
    contours = descriptors.f0_contours(descriptors.analyse(sine(hz)).acf)  # (T, 3): F0, envelope, voicing
    f0, envelope, voicing = contours.T
    assert f0 == pytest.approx(hz, rel=0.03) and envelope == pytest.approx(hz, rel=0.03)
    assert voicing.min() > 0.55


def test_the_f0_envelope_holds_its_value_where_nothing_is_voiced():
    noise = RNG.normal(0, 0.1, 8000).astype(np.float32)
    f0, envelope, voicing = descriptors.f0_contours(descriptors.analyse(np.concatenate([sine(200), noise])).acf).T
    assert f0[-1] == 0 and voicing[-1] < 0.55 and envelope[-1] == pytest.approx(200, rel=0.1)


@pytest.mark.parametrize("hz", [150, 500, 2000])
def test_the_spectrum_of_a_sine_lies_at_its_frequency(hz):
    spectra = descriptors.analyse(sine(hz))
    shape = descriptors.spectral_shape(spectra.power, spectra.magnitude)[5]
    bands, roll_off, centroid, flux, maximum = shape[:4], shape[4:8], shape[8], shape[9], shape[10]
    inside = [low <= hz < high for low, high in descriptors.BANDS_HZ]
    assert np.array_equal(bands > 0.9 * spectra.power[5].sum(), inside)
    assert roll_off == pytest.approx(hz, abs=65) and (np.diff(roll_off) >= 0).all()
    assert centroid == pytest.approx(hz, rel=0.1) and maximum == pytest.approx(hz, abs=31.25)
    assert flux == pytest.approx(0, abs=1e-3)
    edges = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    band = descriptors.mel_bands(spectra.magnitude)[5].argmax()
    assert edges[band] < 2595 * np.log10(1 + hz / 700) < edges[band + 2]


def test_the_cepstrum_is_a_liftered_cosine_transform():
    log_bands = RNG.normal(0, 1, (5, 26))
    lifter = 1 + 11 * np.sin(np.pi * np.arange(13) / 22)  # HTK's, L = 22
    expected = dct(log_bands, axis=1)[:, :13] / np.sqrt(2 * 26) * lifter  # scipy's sum has a factor of 2
    assert descriptors.cepstrum(log_bands) == pytest.approx(expected)


def test_pre_emphasis_makes_no_step_at_the_start_of_a_frame():
    windowed = descriptors.analyse(np.ones(800, np.float32)).windowed
    assert windowed == pytest.approx(np.tile(0.03 * np.hamming(400), (3, 1)), abs=1e-6)


def test_loudness_moves_only_energy():
    wave = RNG.normal(0, 0.1, 8000).astype(np.float32)
    quiet, loud = descriptors.mfcc39(wave), descriptors.mfcc39(2 * wave)
    assert loud[:, 12] - quiet[:, 12] == pytest.approx(2 * np.log(2), abs=1e-4)
    assert np.delete(loud, 12, 1) == pytest.approx(np.delete(quiet, 12, 1), abs=1e-3)


def test_hu_moment_of_a_region():
    flat = descriptors.hu_spectrum(np.full((9, 26), 3.0))
    assert flat[4, 13] == pytest.approx(4 / 25)  # a variance of 2 on each axis over a mass of 25 cells
    point = np.zeros((9, 26))
    point[4, 13] = 3.0
    assert descriptors.hu_spectrum(point)[4, 13] < 1e-6  # all energy at the centre of gravity


def test_band_statistics_are_of_the_frames_of_the_recording_alone():
    wave = RNG.normal(0, 0.1, 320 + 99 * 160 + 7).astype(np.float32)  # 100 frames, in two segments of 80
    first, second = features.log_mel(wave, features.FrontEnd(frames=80, pre_emphasis=0.97))
    bands = np.concatenate([first, second[:, :20]], 1)  # (80, 100)
    expected = np.concatenate([bands.mean(1), bands.std(1), np.diff(bands).std(1)])
    assert DESCRIPTORS["band_statistics"](wave) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_sets_are_finite_and_of_their_size(name):
    silent_end = np.concatenate([RNG.normal(0, 0.1, 6000), np.zeros(2000)]).astype(np.float32)
    for wave in (silent_end, silent_end[:400], silent_end[:100]):
        numbers = DESCRIPTORS[name](wave)
        frames = 1 + max(0, len(wave) - 400) // 160
        assert numbers.shape == ((VECTORS[name],) if name in VECTORS else (frames, FRAMES[name]))
        assert numbers.dtype == np.float32 and np.isfinite(numbers).all()
