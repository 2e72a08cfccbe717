"""The front end against slow, obvious versions of itself and against scipy; the cache against damage and crowds.

python -m pytest tests/test_features.py
"""

import importlib.util
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import soundfile

import features
from features import FRONT_ENDS, AudioError

TFT, ATFNN = FRONT_ENDS["tft"], FRONT_ENDS["atfnn"]
CASIA = Path(__file__).parents[2] / "shared" / "data" / "casia"
BOTH = pytest.mark.parametrize("front_end", FRONT_ENDS.values(), ids=FRONT_ENDS)


def noise(samples, seed=0):
    """White noise, float32 (samples,)."""
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def sine(hertz, rate, seconds=1.0):
    """Sine of amplitude 0.5, float32."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


# ---------------------------------------------------------------------- the slow, obvious front end, in float64


def slow_count(samples, front_end):
    """Segments that hold every whole frame, by counting."""
    whole = sum(start + front_end.window <= samples for start in range(0, samples, front_end.shift))
    segments = 1
    while (segments - 1) * front_end.frames * (1 - front_end.overlap) + front_end.frames < whole:
        segments += 1
    return segments


N, K = np.arange(320), np.arange(257)[:, None]
EXPONENTIALS = np.exp(-2j * np.pi * K * N / 512)  # (257, 320)


def slow_power(frame):
    """Power of a Hamming-windowed frame, one sum of exponentials for each bin."""
    windowed = frame * (0.54 - 0.46 * np.cos(2 * np.pi * N / 319))
    return abs(np.sum(windowed * EXPONENTIALS, axis=1)) ** 2


def slow_triangle(hertz, left, centre, right):
    if left < hertz <= centre:
        return (hertz - left) / (centre - left)
    if centre < hertz < right:
        return (right - hertz) / (right - centre)
    return 0.0


def slow_bank():
    """80 triangles from 0 to 8 kHz on the HTK scale, (80, 257)."""
    top = 2595 * math.log10(1 + 8000 / 700)
    edges = [700 * (10 ** (top * i / 81 / 2595) - 1) for i in range(82)]
    return np.array([[slow_triangle(k * 16000 / 512, *edges[b : b + 3]) for k in range(257)] for b in range(80)])


def slow_log_mel(wave, frames, coefficient):
    """Segments of `frames` frames, (S, 80, frames)."""
    front_end, bank = replace(TFT, frames=frames), slow_bank()
    out = np.empty((slow_count(len(wave), front_end), 80, frames))
    padded = np.append(wave.astype(float), np.zeros(out.shape[0] * frames * 160 + 320))
    for s in range(len(out)):
        segment = padded[s * frames * 160 : s * frames * 160 + (frames - 1) * 160 + 320]
        segment = [x - coefficient * (segment[n - 1] if n else 0) for n, x in enumerate(segment)]
        for t in range(frames):
            out[s, :, t] = np.log(bank @ slow_power(segment[t * 160 : t * 160 + 320]) + 1e-6)
    return out


# ---------------------------------------------------------------------------------------- frames and spectra


@BOTH
def test_log_mel_equals_sums_of_exponentials_under_explicit_triangles(front_end):
    wave = noise(front_end.hop + 9000) + sine(700, 16000, 3)[: front_end.hop + 9000]
    slow = slow_log_mel(wave, front_end.frames, front_end.pre_emphasis)
    fast = features.log_mel(wave, front_end)
    assert fast.shape == slow.shape == (2, 80, front_end.frames)
    np.testing.assert_allclose(fast, slow, rtol=0, atol=2e-4)


def test_power_spectrum_equals_short_time_fft_of_scipy():
    wave = noise(8000)
    power = features.power_spectrum(features.split_frames(wave[None], 320, 160), 512)[0]  # (frames, bins)
    transform = scipy.signal.ShortTimeFFT(scipy.signal.windows.hamming(320, sym=True), 160, 16000, mfft=512)
    reference = transform.spectrogram(wave.astype(float), p0=1, p1=1 + len(power)).T  # slice p is centred on 160 p
    np.testing.assert_allclose(power, reference, rtol=0, atol=1e-6 * reference.max())


def test_power_spectrum_keeps_energy():
    frames = features.split_frames(noise(8000)[None], 320, 160)
    power = features.power_spectrum(frames, 512).astype(float)
    both_sides = power.sum(-1) + power[..., 1:-1].sum(-1)  # Parseval: bins 1 to 255 stand for two
    windowed = frames * scipy.signal.windows.hamming(320, sym=True)
    np.testing.assert_allclose(both_sides / 512, (windowed**2).sum(-1), rtol=1e-5)


def test_frames_start_every_shift_without_centring_and_without_copy():
    segments = np.arange(2 * 1000, dtype=np.float32).reshape(2, 1000)
    frames = features.split_frames(segments, 320, 160)
    assert frames.shape == (2, 5, 320) and np.shares_memory(frames, segments)
    for s in range(2):
        for t in range(5):
            np.testing.assert_array_equal(frames[s, t], segments[s, 160 * t : 160 * t + 320])


@BOTH
def test_every_stage_is_float32(front_end, tmp_path, monkeypatch):
    seen = []
    log = np.log
    monkeypatch.setattr(features.np, "log", lambda x: (seen.append(x), log(x))[1])
    soundfile.write(tmp_path / "a.wav", np.stack([noise(30000)] * 2, 1), 44100)
    seen.append(features.read_audio(tmp_path / "a.wav"))
    seen.append(features.split_segments(seen[-1], front_end))
    seen.append(features.pre_emphasize(seen[-1], front_end.pre_emphasis))
    seen.append(features.split_frames(seen[-1], 320, 160))
    seen.append(features.power_spectrum(seen[-1], 512))
    seen += [features.hamming(320), features.mel_filter_bank(front_end), features.log_mel(seen[0], front_end)]
    assert len(seen) == 9 and {x.dtype for x in seen} == {np.dtype(np.float32)}


# ------------------------------------------------------------------------------------------------- Mel bands


def test_mel_scale_is_htk():
    assert features.hz_to_mel(1000) == pytest.approx(1000, abs=0.1)
    hertz = np.linspace(0, 8000, 101)
    np.testing.assert_allclose(features.mel_to_hz(features.hz_to_mel(hertz)), hertz, atol=1e-9)
    steps = np.diff(features.hz_to_mel(features.band_edges(TFT)))
    np.testing.assert_allclose(steps, steps[0])


def test_band_50_lies_near_2700_hz():
    centres = features.band_edges(TFT)[1:-1]
    assert centres[50] == pytest.approx(2721, abs=1)  # ATFNN section IV, Fig. 6; Slaney's scale: 2528


def test_a_sine_at_a_band_centre_is_loudest_in_that_band():
    for band in range(20, 80):  # below, two bands share a bin
        level = features.log_mel(sine(features.band_edges(TFT)[band + 1], 16000), ATFNN)[0, :, 10]
        assert level.argmax() == band


def test_no_band_is_empty():
    assert (features.mel_filter_bank(TFT).max(1) > 0.1).all()


def test_triangles_sum_to_one_between_first_and_last_centre():
    bank, edges = features.mel_filter_bank(TFT).astype(float), features.band_edges(TFT)
    bins = np.arange(257) * 31.25
    inside = (bins >= edges[1]) & (bins <= edges[-2])
    assert inside.sum() > 240
    np.testing.assert_allclose(bank.sum(0)[inside], 1, atol=1e-6)  # one falls as the next one rises
    assert (bank.sum(0)[~inside] < 1).all() and bank.min() == 0 and bank.max() <= 1


# -------------------------------------------------------------------------------------------------- segments


@pytest.mark.parametrize(
    "name, samples, segments",
    [
        *(("tft", n, 1) for n in (1, 319, 320, 479, 480, 12_959, 12_960, 12_960 + 159)),
        *(("tft", n, 2) for n in (12_960 + 160, 25_759, 25_760, 25_760 + 159)),
        ("tft", 25_760 + 160, 3),
        *(("atfnn", n, 1) for n in (1, 319, 320, 479, 480, 12_960 + 160, 20_639, 20_640, 20_640 + 159)),
        *(("atfnn", n, 2) for n in (20_640 + 160, 41_119, 41_120, 41_120 + 159)),
        ("atfnn", 41_120 + 160, 3),
    ],
)
def test_segments_hold_every_whole_frame(name, samples, segments):
    front_end = FRONT_ENDS[name]
    assert features.count_segments(samples, front_end) == slow_count(samples, front_end) == segments
    assert features.log_mel(noise(samples), front_end).shape == (segments, 80, front_end.frames)


@BOTH
def test_count_agrees_with_counting_at_every_length_around_the_boundaries(front_end):
    for boundary in (1, 320, front_end.samples, front_end.samples + front_end.hop):
        for samples in range(max(1, boundary - 170), boundary + 330):
            assert features.count_segments(samples, front_end) == slow_count(samples, front_end), samples


@BOTH
@pytest.mark.parametrize("samples", [1, 319, 5_000, 21_000, 30_001])
def test_zeros_appended_up_to_the_segments_end_change_nothing(front_end, samples):
    wave = noise(samples)
    end = (features.count_segments(samples, front_end) - 1) * front_end.hop + front_end.samples
    padded = np.pad(wave, (0, end - samples))
    np.testing.assert_array_equal(features.log_mel(wave, front_end), features.log_mel(padded, front_end))


@BOTH
def test_a_segment_depends_on_its_own_samples_alone(front_end):
    number = features.BLOCK_SEGMENTS + 2  # more than one block
    wave = noise((number - 1) * front_end.hop + front_end.samples)
    together = features.log_mel(wave, front_end)
    for s in range(number):
        alone = features.log_mel(wave[s * front_end.hop :][: front_end.samples], front_end)
        np.testing.assert_allclose(together[s], alone[0], rtol=0, atol=1e-4)


@BOTH
def test_every_sample_below_the_last_whole_frame_counts(front_end):
    samples = front_end.hop + front_end.samples + 100  # two full segments, 100 samples of no whole frame
    wave, last = noise(samples), front_end.hop + front_end.samples - 1
    before = features.log_mel(wave, front_end)
    places = [0, 159, 160, 319, 320, front_end.hop - 1, front_end.hop, front_end.samples - 1, front_end.samples, last]
    for place in places + list(np.random.default_rng(0).integers(0, last, 20)):
        changed = wave.copy()
        changed[place] += 0.5
        assert np.abs(features.log_mel(changed, front_end) - before).max() > 0.01, place
    changed = wave.copy()
    changed[last + 1 :] = 0
    np.testing.assert_array_equal(features.log_mel(changed, front_end), before)


def test_pre_emphasis_equals_a_filter_started_anew_in_each_segment():
    segments = features.split_segments(noise(30_000), TFT)
    emphasized = features.pre_emphasize(segments, 0.97)
    assert len(segments) == 3
    for segment, result in zip(segments, emphasized):
        reference = scipy.signal.lfilter([1, -0.97], [1], segment.astype(float))
        np.testing.assert_allclose(result, reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "frames, starts",
    [(1, [0]), (80, [0]), (81, [0, 40]), (120, [0, 40]), (121, [0, 40, 80]), (200, [0, 40, 80, 120]),
     (201, [0, 40, 80, 120, 160])],
)  # fmt: skip
def test_overlapping_segments_start_every_half_segment_and_hold_every_frame(frames, starts):
    wave = 1 + np.arange((frames - 1) * 160 + 320, dtype=np.float32)  # its own place, from 1
    segments = features.split_segments(wave, replace(TFT, overlap=0.5))
    expected = np.array([np.arange(start * 160, start * 160 + 12_960) for start in starts])
    np.testing.assert_array_equal(segments, np.where(expected < len(wave), expected + 1, 0))


@BOTH
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
def test_overlapping_segments_are_those_of_the_samples_alone(front_end, overlap):
    shared, hop = replace(front_end, overlap=overlap), round(front_end.frames * (1 - overlap)) * 160
    for samples in (1, 319, 12_960, 20_640, 41_120, 41_121, 80_000):
        assert features.count_segments(samples, shared) == slow_count(samples, shared)
    wave = noise(80_000)
    together = features.log_mel(wave, shared)
    assert len(together) > features.BLOCK_SEGMENTS  # more than one block
    padded = np.append(wave, np.zeros(40_000, np.float32))
    for s, segment in enumerate(together):
        alone = features.log_mel(padded[s * hop :][: front_end.samples], front_end)
        np.testing.assert_allclose(segment, alone[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "frames, overlap, fits",
    [(80, 0.0, True), (80, 0.75, True), (80, 0.3, True), (80, 0.1, True), (128, 0.1, False), (80, 0.76, False),
     (80, -0.5, False), (80, 0.501, False), (80, math.nan, False), (80, 1e-9, False)],
)  # fmt: skip
def test_segments_overlap_by_whole_frames(frames, overlap, fits):
    assert replace(TFT, frames=frames, overlap=overlap).overlap_fits() is fits


def test_pre_emphasis_of_the_utterance_runs_across_the_cuts():
    wave = noise(30_000)
    emphasized = np.array([x - 0.97 * (wave[n - 1] if n else 0) for n, x in enumerate(wave.astype(float))], np.float32)
    whole = features.log_mel(wave, replace(TFT, emphasized="utterance"))
    np.testing.assert_allclose(whole, features.log_mel(emphasized, replace(TFT, pre_emphasis=0.0)), rtol=0, atol=1e-3)
    within = features.log_mel(wave, TFT)
    np.testing.assert_array_equal(whole[0], within[0])  # differs where a segment's first sample has one before it
    assert abs(whole[1:] - within[1:])[:, :, 0].max(1).min() > 0.01
    np.testing.assert_array_equal(wave, noise(30_000))


def test_runs_tell_of_a_front_end_what_earlier_runs_told_and_what_is_new():
    before = {"frames", "pre_emphasis", "rate", "window", "shift", "fft", "bands", "low", "high", "floor"}
    assert set(TFT.as_settings()) == before and features.FrontEnd(**TFT.as_settings()) == TFT
    other = replace(TFT, overlap=0.5, emphasized="utterance")
    told = other.as_settings()
    assert set(told) == before | {"overlap", "emphasized"} and features.FrontEnd(**told) == other


def test_pre_emphasis_leaves_its_input_as_it_was():
    wave = noise(30_000)
    features.pre_emphasize(features.split_segments(wave, TFT), 0.97)
    features.log_mel(wave, TFT)
    np.testing.assert_array_equal(wave, noise(30_000))


@pytest.mark.skipif(not CASIA.is_dir(), reason=f"the recordings of CASIA are not at {CASIA}")
@pytest.mark.parametrize("name, segments", [("tft", 3381), ("atfnn", 2512)])
def test_casia_holds_as_many_segments_as_the_published_figures_need(name, segments):
    lengths = [soundfile.info(path).frames for path in CASIA.rglob("*.wav")]
    assert len(lengths) == 1200
    assert sum(features.count_segments(n, FRONT_ENDS[name]) for n in lengths) == segments


# --------------------------------------------------------------------------------------------- reading audio


def insert_chunk(path, name, data, at):
    """Insert a RIFF chunk before the one called `at`, or after the last."""
    old = path.read_bytes()
    place = old.index(at) if at else len(old)
    new = old[:place] + name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) + old[place:]
    path.write_bytes(new[:4] + struct.pack("<I", len(new) - 8) + new[8:])


def cut(path, bytes_off):
    path.write_bytes(path.read_bytes()[:-bytes_off])


def test_channels_are_averaged(tmp_path):
    left, right = noise(5000, 1), noise(5000, 2)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(features.read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_duration_frequency_and_level(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", sine(440, rate, 2), rate)
    wave = features.read_audio(tmp_path / "a.wav")
    assert wave.shape == (32_000,)
    middle = wave[8_000:24_000]  # one second: bins of 1 Hz
    spectrum = np.abs(scipy.fft.rfft(middle * np.hanning(16_000)))
    assert spectrum.argmax() == 440
    assert np.abs(middle).max() == pytest.approx(0.5, rel=0.01)


def test_resampling_does_not_fold_high_frequencies_down(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(440, 48_000) + 0.8 * sine(12_000, 48_000), 48_000)
    wave = features.read_audio(tmp_path / "a.wav")[2_000:-2_000]
    spectrum = np.abs(scipy.fft.rfft(wave * np.hanning(len(wave))))
    folded = spectrum[round(4_000 * len(wave) / 16_000)]
    assert folded < 1e-3 * spectrum.max()


@pytest.mark.parametrize(
    "name, subtype, step",
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "FLOAT", 1e-12),
        ("a.wav", "DOUBLE", 1e-12),
        ("a.flac", "PCM_16", 2**-15),
        ("a.flac", "PCM_24", 2**-23),
    ],
)
def test_every_encoding_gives_the_samples_to_its_precision(tmp_path, name, subtype, step):
    soundfile.write(tmp_path / name, noise(5000), 16000, subtype=subtype)
    np.testing.assert_allclose(features.read_audio(tmp_path / name), noise(5000), rtol=0, atol=1.01 * step)


@pytest.mark.parametrize("at", [b"fmt ", b"data", None], ids=["first", "middle", "last"])
def test_extra_chunks_are_passed_over(tmp_path, at):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(5000), 16000)
    plain = features.read_audio(path)
    insert_chunk(path, b"LIST", b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0", at)
    insert_chunk(path, b"junk", bytes(3001), at)
    np.testing.assert_array_equal(features.read_audio(path), plain)


@pytest.mark.parametrize("length", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000])
def test_a_length_left_open_by_a_streaming_writer_is_accepted(tmp_path, length):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(5000), 16000)
    plain, data = features.read_audio(path), path.read_bytes()
    size = struct.pack("<I", length)
    path.write_bytes(data[:4] + size + data[8:40] + size + data[44:])
    np.testing.assert_array_equal(features.read_audio(path), plain)


def test_names_may_hold_spaces_umlauts_and_colons(tmp_path):
    path = tmp_path / "Ä ö: ü" / "groß 情感.wav"
    path.parent.mkdir()
    soundfile.write(path, noise(5000), 16000)
    assert len(features.read_audio(path)) == len(features.read_audio(str(path))) == 5000


def write_cut_with_long_notes(path):
    soundfile.write(path, noise(5000), 16000)
    notes = b"".join(b"ICMT" + struct.pack("<I", 200) + b"c" * 200 for _ in range(30))
    insert_chunk(path, b"junk", bytes(3001), b"data")
    insert_chunk(path, b"LIST", b"INFO" + notes, b"data")  # fills the log in which libsndfile would note the cut
    cut(path, 4000)


def write_cut(path, bytes_off=4000, **options):
    soundfile.write(path, noise(5000), 16000, **options)
    cut(path, bytes_off)


def write_with(path, value, place=slice(100, 101)):
    wave = noise(5000)
    wave[place] = value
    soundfile.write(path, wave, 16000, subtype="FLOAT")


def write_endless(path):
    """Its header promises all the samples that a FLAC can have, 256 GiB of them."""
    soundfile.write(path, noise(5000), 16000, format="FLAC")
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)


BROKEN = {
    "missing": lambda path: None,
    "no bytes": lambda path: path.write_bytes(b""),
    "no samples": lambda path: soundfile.write(path, noise(0), 16000),
    "half a header": lambda path: write_cut(path, 10_000 + 20),
    "header alone": lambda path: write_cut(path, 10_000),
    "cut in the data": write_cut,
    "cut by one byte": lambda path: write_cut(path, 1),
    "cut by one sample": lambda path: write_cut(path, 2),
    "cut 24 bit": lambda path: write_cut(path, subtype="PCM_24"),
    "cut stereo": lambda path: (soundfile.write(path, np.stack([noise(5000)] * 2, 1), 16000), cut(path, 4000)),
    "cut extensible": lambda path: write_cut(path, format="WAVEX"),
    "cut FLAC": lambda path: write_cut(path, format="FLAC"),
    "cut after long notes": write_cut_with_long_notes,
    "not a number": lambda path: write_with(path, np.nan),
    "infinite": lambda path: write_with(path, np.inf),
    "silent": lambda path: write_with(path, 0, slice(None)),
    "constant": lambda path: write_with(path, 0.25, slice(None)),
    "text": lambda path: path.write_text("this is no recording\n" * 100),
    "a folder": lambda path: path.mkdir(),
    "not seekable": lambda path: soundfile.write(path, noise(8000), 8000, subtype="GSM610"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_recording_is_refused_in_one_line_that_names_it(tmp_path, kind):
    path = tmp_path / "odd: näme 1.wav"
    BROKEN[kind](path)
    with pytest.raises(AudioError) as refused:
        features.read_audio(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and message.count("näme 1.wav") == 1 and len(message.splitlines()) == 1


@pytest.mark.parametrize("too_much", ["samples", "segments"])
def test_a_recording_too_long_for_the_memory_is_refused_in_one_line(too_much, tmp_path, monkeypatch):
    def log_mel(wave, front_end):
        raise MemoryError

    path = tmp_path / "long.flac"
    if too_much == "samples":
        write_endless(path)
    else:
        soundfile.write(path, noise(5000), 16000)
        monkeypatch.setattr(features, "log_mel", log_mel)
    with pytest.raises(AudioError, match=f"^{path}: is too long for this machine's memory; cut it into parts$"):
        features.extract(path, TFT)


# ------------------------------------------------------------------------------------------------- the cache

NAMES = ["wav/a.wav", "wav/mit Lücke ä.wav", "b.flac", "c.wav", "wav/d.wav"]
LENGTHS = [12_960, 30_000, 500, 26_000, 13_121]  # samples; 1, 3, 1, 3 and 2 segments of 80 frames


@pytest.fixture
def root(tmp_path):
    """Folder of the recordings NAMES."""
    (tmp_path / "Töne hier" / "wav").mkdir(parents=True)
    for seed, (name, length) in enumerate(zip(NAMES, LENGTHS)):
        soundfile.write(tmp_path / "Töne hier" / name, noise(length, seed), 16000)
    return tmp_path / "Töne hier"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def expected(root, names=NAMES, front_end=TFT):
    """Segments of the recordings, one after the other."""
    return np.concatenate([features.extract(root / name, front_end)[0] for name in names])


def digest_of_recordings(root):
    """What Features.digest tells: SHA-256 over the SHA-256 of each file."""
    return sha256("".join(sha256((root / name).read_bytes()).hexdigest() for name in NAMES).encode()).hexdigest()


def check(result, root, cache, cached):
    """A result is right and sound, and the cache holds whole entries only."""
    np.testing.assert_array_equal(result.segments, expected(root))
    assert result.segments.dtype == np.float32
    assert result.counts.tolist() == [1, 3, 1, 3, 2]
    np.testing.assert_allclose(result.seconds, np.array(LENGTHS) / 16000)
    assert result.digest == digest_of_recordings(root)
    assert result.cached is cached
    for entry in cache.iterdir():
        assert sorted(path.name for path in entry.iterdir()) == ["index.json", "segments.f32"]
        assert not entry.name.startswith(".")


def test_a_second_load_reads_the_same_from_the_cache(root, cache):
    check(features.load(root, NAMES, TFT, cache), root, cache, cached=False)
    check(features.load(root, NAMES, TFT, cache), root, cache, cached=True)
    assert len(list(cache.iterdir())) == 1


def test_segments_follow_the_order_of_the_list(root, cache):
    features.load(root, NAMES, TFT, cache)
    turned = features.load(root, NAMES[::-1], TFT, cache)
    assert not turned.cached and turned.counts.tolist() == [2, 3, 1, 3, 1]
    np.testing.assert_array_equal(turned.segments, expected(root, NAMES[::-1]))


def test_an_entry_appears_in_one_step(root, cache):
    seen = []

    def look(done, total):
        assert [path for path in cache.iterdir() if not path.name.startswith(".")] == []
        seen.append(next(cache.rglob("segments.f32")).stat().st_ino)

    features.load(root, NAMES, TFT, cache, report=look)
    entry = next(cache.iterdir())
    assert set(seen) == {(entry / "segments.f32").stat().st_ino}  # renamed into its place, not copied


def test_progress_is_told_for_every_recording(root, cache):
    told = []
    features.load(root, NAMES, TFT, cache, report=lambda *progress: told.append(progress))
    assert told == [(done, 5) for done in range(1, 6)]


def test_the_cache_is_where_the_environment_says(root, cache, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(cache))
    features.load(root, NAMES, TFT)
    check(features.load(root, NAMES, TFT, cache), root, cache, cached=True)


def test_writing_to_the_segments_does_not_reach_the_cache(root, cache):
    features.load(root, NAMES, TFT, cache).segments[:] = 0
    check(features.load(root, NAMES, TFT, cache), root, cache, cached=True)


def test_the_digest_tells_what_was_heard_whatever_the_files_are_called(root, cache):
    first = features.load(root, NAMES, TFT, cache)
    moved = root.rename(root.with_name("elsewhere"))
    second = features.load(moved, NAMES, TFT, cache)
    soundfile.write(moved / "c.wav", noise(26_000, 99), 16000)
    third = features.load(moved, NAMES, TFT, cache)
    assert first.digest == second.digest != third.digest


def test_a_recording_with_a_new_time_stamp_is_read_again(root, cache):
    features.load(root, NAMES, TFT, cache)
    status = (root / "c.wav").stat()
    soundfile.write(root / "c.wav", noise(26_000, 99), 16000)  # as long as before
    os.utime(root / "c.wav", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    check(features.load(root, NAMES, TFT, cache), root, cache, cached=False)


def test_a_recording_of_another_size_is_read_again(root, cache):
    features.load(root, NAMES, TFT, cache)
    status = (root / "c.wav").stat()
    soundfile.write(root / "c.wav", noise(26_001, 99), 16000)
    os.utime(root / "c.wav", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert not features.load(root, NAMES, TFT, cache).cached


@pytest.mark.parametrize(
    "change",
    [
        dict(frames=128),
        dict(pre_emphasis=0.0),
        dict(rate=8_000, high=4_000.0),
        dict(window=400),
        dict(shift=80),
        dict(fft=1024),
        dict(bands=40),
        dict(low=50.0),
        dict(high=7_000.0),
        dict(floor=1e-3),
        dict(overlap=0.5),
        dict(emphasized="utterance"),
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_setting_has_its_own_entry(root, cache, change):
    front_end = replace(TFT, **change)
    features.load(root, NAMES[:2], TFT, cache)
    other = features.load(root, NAMES[:2], front_end, cache)
    assert not other.cached
    np.testing.assert_array_equal(other.segments, expected(root, NAMES[:2], front_end))


def test_an_entry_made_by_other_code_is_not_used(root, cache, tmp_path):
    features.load(root, NAMES, TFT, cache)
    (tmp_path / "changed.py").write_text(Path(features.__file__).read_text() + "\n# changed\n")
    spec = importlib.util.spec_from_file_location("changed", tmp_path / "changed.py")
    changed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(changed)
    assert not changed.load(root, NAMES, changed.FRONT_ENDS["tft"], cache).cached


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_index(path, **changes):
    """Change entries of an index, or take out those that are None: it stays well-formed."""
    index = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in index.items() if value is not None}))


DAMAGE = {
    "a bit": lambda entry: flip_a_bit(entry / "segments.f32"),
    "cut": lambda entry: cut(entry / "segments.f32", 4),
    "emptied": lambda entry: (entry / "segments.f32").write_bytes(b""),
    "lengthened": lambda entry: (entry / "segments.f32").write_bytes((entry / "segments.f32").read_bytes() + b"0000"),
    "gone": lambda entry: (entry / "segments.f32").unlink(),
    "index gone": lambda entry: (entry / "index.json").unlink(),
    "index emptied": lambda entry: (entry / "index.json").write_text(""),
    "index cut": lambda entry: cut(entry / "index.json", 9),
    "index not text": lambda entry: (entry / "index.json").write_bytes(b"\xff\xfe\x00"),
    "index a list": lambda entry: (entry / "index.json").write_text("[]"),
    "index a number": lambda entry: (entry / "index.json").write_text("1"),
    "index without counts": lambda entry: edit_index(entry / "index.json", counts=None),
    "other counts": lambda entry: edit_index(entry / "index.json", counts=[3, 1, 1, 3, 2]),
    "other seconds": lambda entry: edit_index(entry / "index.json", seconds=[9.0] * 5),
    "shape too small": lambda entry: edit_index(entry / "index.json", shape=[9, 80, 80]),
    "shape too large": lambda entry: edit_index(entry / "index.json", shape=[11, 80, 80]),
    "emptied folder": lambda entry: [path.unlink() for path in entry.iterdir()],
    "a file in its place": lambda entry: (shutil.rmtree(entry), entry.write_text("")),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_made_again(root, cache, kind):
    features.load(root, NAMES, TFT, cache)
    DAMAGE[kind](next(cache.iterdir()))
    check(features.load(root, NAMES, TFT, cache), root, cache, cached=False)
    check(features.load(root, NAMES, TFT, cache), root, cache, cached=True)


BUILDER = """
import json, os, signal, sys, time
from pathlib import Path
import features
from features import FRONT_ENDS, load

root, names, cache, task, mine, other = json.loads(sys.argv[1])

def wait():
    end = time.monotonic() + 60
    while not Path(other).exists():
        time.sleep(0.01)
        assert time.monotonic() < end, "the other process did not come"

def report(done, total):
    if task == "die in a pool":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "die":
        os._exit(9)                                             # nothing is cleaned up, as under SIGKILL
    Path(mine).touch()
    wait()

if task == "second":
    wait()                                                      # until the first is at work
if task == "die in a pool":
    features.POOL_BYTES, features.CHUNK_FILES = 0, 1
result = load(root, names, FRONT_ENDS["tft"], cache, workers=2, report=report)
print(json.dumps([result.digest, result.counts.tolist(), result.cached]))
"""


def start_builder(root, cache, task, mine=None, other=None):
    """Start a process that loads NAMES; `mine` marks that it is at work, `other` that the other one is."""
    told = json.dumps([str(root), NAMES, str(cache), task, str(mine), str(other)])
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, told], cwd=Path(features.__file__).parent, stdout=subprocess.PIPE, text=True
    )


def test_two_processes_at_once_both_get_sound_results(root, cache, tmp_path):
    marks = tmp_path / "one", tmp_path / "two"
    builders = start_builder(root, cache, "first", *marks), start_builder(root, cache, "second", *marks[::-1])
    results = [json.loads(builder.communicate(timeout=60)[0]) for builder in builders]
    digest = digest_of_recordings(root)
    assert results == [[digest, [1, 3, 1, 3, 2], False]] * 2  # neither found the other's work ready
    check(features.load(root, NAMES, TFT, cache), root, cache, cached=True)
    assert len(list(cache.iterdir())) == 1


def test_what_a_killed_builder_left_is_removed_by_the_next(root, cache):
    assert start_builder(root, cache, "die").wait(60) == 9
    assert len(list(cache.glob(".*.tmp"))) == 1
    check(features.load(root, NAMES, TFT, cache), root, cache, cached=False)
    assert len(list(cache.iterdir())) == 1


def test_the_workers_of_a_killed_builder_end(root, cache):
    builder = start_builder(root, cache, "die in a pool")
    builder.communicate(timeout=60)  # the pipe is closed when its workers have ended too
    assert builder.returncode == -signal.SIGKILL


def test_recordings_are_read_by_several_processes_as_by_one(root, cache, tmp_path, monkeypatch):
    alone = features.load(root, NAMES, TFT, tmp_path / "one", workers=1)
    environment = dict(os.environ)
    monkeypatch.setattr(features, "POOL_BYTES", 0)
    monkeypatch.setattr(features, "CHUNK_FILES", 1)
    with monkeypatch.context() as patch:
        patch.setattr(features, "read_audio", None)  # not by this process
        pooled = features.load(root, NAMES, TFT, cache, workers=2)
    check(pooled, root, cache, cached=False)
    assert pooled.digest == alone.digest
    assert dict(os.environ) == environment


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_recording_reaches_the_caller_and_leaves_no_entry(root, cache, monkeypatch, workers):
    monkeypatch.setattr(features, "POOL_BYTES", 0)
    monkeypatch.setattr(features, "CHUNK_FILES", 2)
    write_cut(root / "c.wav")
    with pytest.raises(AudioError, match=r"c\.wav: was cut short"):
        features.load(root, NAMES, TFT, cache, workers=workers)
    assert list(cache.iterdir()) == []


def test_a_missing_recording_is_refused_even_when_its_entry_is_there(root, cache):
    features.load(root, NAMES, TFT, cache)
    (root / "c.wav").unlink()
    with pytest.raises(AudioError, match=r"c\.wav: no such recording"):
        features.load(root, NAMES, TFT, cache)


def test_a_cache_that_cannot_be_made_is_an_operating_system_error(root, cache):
    cache.write_text("")
    with pytest.raises(OSError):
        features.load(root, NAMES, TFT, cache)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_cache_is_read_and_refuses_new_entries(root, cache):
    features.load(root, NAMES, TFT, cache)
    cache.chmod(0o500)
    try:
        check(features.load(root, NAMES, TFT, cache), root, cache, cached=True)
        with pytest.raises(OSError):
            features.load(root, NAMES, ATFNN, cache)
    finally:
        cache.chmod(0o700)
