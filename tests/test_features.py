"""The front end against slow, obvious versions of itself and against scipy; recordings that are damaged; the cache.

python -m pytest tests/test_features.py
"""

import errno
import math
import os
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import scipy.fft
import scipy.signal
import soundfile

import features
from common import methods
from features import FRONT_ENDS, AudioError

TFT, ATFNN = FRONT_ENDS["tft"], FRONT_ENDS["atfnn"]


def noise(samples, seed=0):
    """White noise, float32 (samples,)."""
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def sine(hertz, rate, seconds=1.0):
    """Sine of amplitude 0.5, float32."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


# ---------------------------------------------------------------------------------------------- the front end


def slow_count(samples, front_end):
    """Segments that hold all whole frames, by counting."""
    whole = sum(start + 320 <= samples for start in range(0, samples, 160))
    segments = 1
    while (segments - 1) * front_end.frames * (1 - front_end.overlap) + front_end.frames < whole:
        segments += 1
    return segments


def slow_log_mel(wave, front_end):
    """Segments in float64, (S, 80, frames): sums of exponentials under explicit triangles of the HTK scale."""
    mel = np.linspace(0, 2595 * math.log10(1 + 8000 / 700), 82)  # 0 to 8 kHz
    edges, bins = 700 * (10 ** (mel / 2595) - 1), np.arange(257) * 16000 / 512  # Hz
    bank = np.stack([np.interp(bins, edges[band : band + 3], [0, 1, 0]) for band in range(80)])
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(320) / 319)
    exponentials = window * np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(320)) / 512)  # (bins, samples)
    whole = front_end.pre_emphasis_scope == "utterance"
    unfiltered, filtered = [1, 0], [1, -front_end.pre_emphasis]
    wave = scipy.signal.lfilter(filtered if whole else unfiltered, [1], wave.astype(float))
    wave, out = np.append(wave, np.zeros(30_000)), np.empty((slow_count(len(wave), front_end), 80, front_end.frames))
    for s in range(len(out)):
        start = s * round(front_end.frames * (1 - front_end.overlap)) * 160
        segment = wave[start : start + (front_end.frames - 1) * 160 + 320]
        segment = scipy.signal.lfilter(unfiltered if whole else filtered, [1], segment)
        for t in range(front_end.frames):
            out[s, :, t] = np.log(bank @ abs(exponentials @ segment[160 * t : 160 * t + 320]) ** 2 + 1e-6)
    return out


CASES = {"tft": TFT, "atfnn": ATFNN, "overlap": replace(TFT, overlap=0.5), "long overlap": replace(ATFNN, overlap=0.75),
         "utterance": replace(TFT, pre_emphasis_scope="utterance")}  # fmt: skip


@pytest.mark.parametrize("front_end", CASES.values(), ids=CASES)
def test_log_mel_equals_sums_of_exponentials_under_explicit_triangles(front_end):
    samples = features.BLOCK_SEGMENTS * front_end.segment_hop + 25_077  # more than a block, not a whole frame
    wave = noise(samples) + sine(700, 16000, 10)[:samples]
    before, slow, fast = wave.copy(), slow_log_mel(wave, front_end), features.log_mel(wave, front_end)
    assert fast.shape == slow.shape and len(fast) > features.BLOCK_SEGMENTS
    np.testing.assert_allclose(fast, slow, rtol=0, atol=3e-4)
    np.testing.assert_array_equal(wave, before)


def test_all_stages_are_float32(tmp_path, monkeypatch):
    seen, log = [], np.log
    monkeypatch.setattr(features.np, "log", lambda x: (seen.append(x), log(x))[1])
    soundfile.write(tmp_path / "a.wav", np.stack([noise(30000)] * 2, 1), 44100)
    seen.append(features.read_audio(tmp_path / "a.wav"))
    seen.append(features.split_segments(seen[-1], TFT))
    seen.append(features.pre_emphasize(seen[-1], TFT.pre_emphasis))
    seen.append(features.power_spectrum(features.split_frames(seen[-1], 320, 160), 512))
    seen += [features.hamming(320), features.mel_filter_bank(TFT), features.log_mel(seen[0], TFT)]
    assert len(seen) == 8 and {x.dtype for x in seen} == {np.dtype(np.float32)}


def test_the_mel_scale_is_htk():
    assert features.hz_to_mel(1000) == pytest.approx(1000, abs=0.1)
    assert features.mel_to_hz(features.hz_to_mel(1234.5)) == pytest.approx(1234.5)
    edges = features.band_edges(TFT)
    np.testing.assert_allclose(np.diff(features.hz_to_mel(edges)), features.hz_to_mel(8000) / 81)
    assert edges[1:-1][50] == pytest.approx(2721, abs=1)  # ATFNN section IV, Fig. 6: near 2700; Slaney's scale: 2528
    assert features.mel_filter_bank(TFT).max(1).min() > 0.1  # no band is empty


def test_a_sine_at_a_band_centre_is_loudest_in_that_band():
    for band in range(20, 80):  # below, two bands share a bin
        level = features.log_mel(sine(features.band_edges(TFT)[band + 1], 16000, 0.1), ATFNN)[0, :, 5]
        assert level.argmax() == band


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("front_end", (TFT, ATFNN), ids=features.PAPER_FRONT_ENDS)
def test_segments_hold_all_whole_frames(front_end, overlap):
    front_end = replace(front_end, overlap=overlap)
    first = (front_end.frames - 1) * 160 + 320  # samples of the first segment
    for boundary in (first, first + front_end.segment_hop, first + 2 * front_end.segment_hop):
        for samples in (1, 319, 320, 480, *range(boundary - 161, boundary + 322, 20), boundary + 159, boundary + 160):
            assert features.count_segments(samples, front_end) == slow_count(samples, front_end), samples
    numbers = [len(features.log_mel(noise(samples), front_end)) for samples in (1, first + 159, first + 160)]
    assert numbers == [1, 1, 2]


def test_segments_overlap_by_whole_frames_and_at_most_three_quarters():
    fitting = {80: (0.0, 0.75, 0.3, 0.1), 128: (0.0, 0.25)}
    others = {80: (0.76, -0.5, 0.501, math.nan, 1e-9), 128: (0.1,)}
    for frames in (80, 128):
        assert all(replace(TFT, frames=frames, overlap=overlap).overlap_fits() for overlap in fitting[frames])
        assert not any(replace(TFT, frames=frames, overlap=overlap).overlap_fits() for overlap in others[frames])


def test_settings_hold_what_differs_from_older_runs_and_give_the_front_end_back():
    other = replace(TFT, overlap=0.5, pre_emphasis_scope="utterance")
    assert other.as_settings().keys() - TFT.as_settings().keys() == {"overlap", "pre_emphasis_scope"}
    assert all(features.FrontEnd(**front_end.as_settings()) == front_end for front_end in (TFT, ATFNN, other))


def test_the_settings_of_the_papers_are_those_of_finished_runs():
    settings = dict(sample_rate=16_000, win_length=320, hop_length=160, n_fft=512, n_mels=80, fmin=0.0, fmax=8_000.0)
    settings["log_floor"] = 1e-6
    assert TFT.as_settings() == settings | dict(frames=80, pre_emphasis=0.97)
    assert ATFNN.as_settings() == settings | dict(frames=128, pre_emphasis=0.0)
    assert features.PAPER_FRONT_ENDS == ("tft", "atfnn")


# --------------------------------------------------------------------------- a linear scale, segments of equal length

SPECTRA = {name: FRONT_ENDS[name] for name in ("spectrum-10", "spectrum-20")}


def slow_log_spectrum(wave, front_end):
    """Segments in float64, (S, bins, 300): numpy's FFT of Hamming frames of 640 samples, up to 4 kHz."""
    wave = np.append(wave, np.zeros(max(0, 640 - len(wave)))).astype(float)
    total = (len(wave) - 640) // 160 + 1  # frames
    number = -(-total // 300)
    length, segments = -(-total // number), []
    for first in range(0, total, length):
        last = min(first + length, total) - 1  # frame
        end = last * 160 + 640 if last < total - 1 else len(wave)
        segment = np.zeros(299 * 160 + 640)
        part = wave[first * 160 : end][: len(segment)]
        segment[: len(part)] = part
        frames = np.stack([segment[t * 160 : t * 160 + 640] for t in range(300)]) * np.hamming(640)
        power = np.abs(np.fft.rfft(frames, front_end.n_fft)[:, : 4000 * front_end.n_fft // 16_000]) ** 2
        segments.append(np.log(power + 1e-6).T)
    return np.stack(segments)


@pytest.mark.parametrize("front_end", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("frames", [-3, 1, 2, 300, 301, 302, 600, 601])
def test_log_spectra_of_equal_parts_equal_those_of_numpy_in_float64(frames, front_end):
    for samples in (640 + 160 * (frames - 1), 640 + 160 * (frames - 1) + 159):
        wave = noise(samples) + sine(700, 16_000, samples / 16_000)
        before, slow, fast = wave.copy(), slow_log_spectrum(wave, front_end), features.log_mel(wave, front_end)
        assert fast.dtype == np.float32 and fast.shape[1:] == front_end.row_shape
        np.testing.assert_allclose(fast, slow, rtol=0, atol=5e-3)  # where float32 cancels to a bin of little power
        np.testing.assert_allclose(np.exp(fast), np.exp(slow), rtol=1e-4, atol=1e-7 * np.exp(slow.max()))
        np.testing.assert_array_equal(wave, before)


@pytest.mark.parametrize("name, bins, width", [("spectrum-10", 400, 10), ("spectrum-20", 200, 20)])
def test_a_sine_is_loudest_in_the_bin_of_its_frequency(name, bins, width):
    front_end = FRONT_ENDS[name]
    assert front_end.row_shape == (bins, 300)
    for number in (5, 50, bins - 5):
        level = features.log_mel(sine(number * width, 16_000, 0.5), front_end)[0, :, 5]
        assert level.argmax() == number
        assert features.band_edges(front_end)[number + 1] == number * width  # Hz, as figures mark it


def test_equal_parts_have_the_same_number_of_frames_but_for_the_last():
    front_end = replace(FRONT_ENDS["spectrum-20"], frames=7)
    for frames in range(1, 400):
        samples = 640 + 160 * (frames - 1)
        number, length = features.count_segments(samples, front_end), features.hop_of(samples, front_end) / 160
        assert number == -(-frames // 7) and length == -(-frames // number)
        assert 1 <= frames - (number - 1) * length <= length <= 7
    assert [features.count_segments(samples, front_end) for samples in (1, 639, 640, 1_759, 1_760)] == [1, 1, 1, 1, 2]


def test_equal_parts_hold_the_samples_of_their_frames_and_zeros():
    front_end, wave = FRONT_ENDS["spectrum-20"], np.arange(1, 640 + 160 * 300 + 100, dtype=np.float32)  # 301 frames
    first, second = features.split_segments(wave, front_end)
    end = 160 * 150 + 640  # of 151 frames
    np.testing.assert_array_equal(first[:end], wave[:end])
    np.testing.assert_array_equal(second[: len(wave) - 160 * 151], wave[160 * 151 :])
    assert len(first) == 160 * 299 + 640 and not first[end:].any() and not second[len(wave) - 160 * 151 :].any()


def test_equal_parts_that_fill_their_segments_are_those_of_the_fixed_cut():
    front_end = FRONT_ENDS["spectrum-20"]
    fixed = replace(front_end, cut="fixed")
    for frames in (-3, 1, 200, 300, 600):
        wave = noise(640 + 160 * (frames - 1))
        np.testing.assert_array_equal(features.log_mel(wave, front_end), features.log_mel(wave, fixed))
    wave = noise(640 + 160 * 400)
    assert not np.array_equal(features.log_mel(wave, front_end), features.log_mel(wave, fixed))


def test_silence_behind_a_recording_is_the_logarithm_of_the_floor():
    level = features.log_mel(noise(640 + 160 * 9), FRONT_ENDS["spectrum-20"])[0]
    np.testing.assert_allclose(level[:, 13:], np.log(1e-6), rtol=1e-6)  # frames 10 to 12 hold some of its end
    assert (level[:, :13] > np.log(1e-6) + 1).all()


def test_equal_parts_do_not_overlap():
    front_end = FRONT_ENDS["spectrum-10"]
    assert front_end.overlap_fits() and not replace(front_end, overlap=0.5).overlap_fits()


def test_front_ends_of_impossible_values_are_found():
    front_end = FRONT_ENDS["spectrum-10"]
    assert all(map(methods.is_possible_front_end, FRONT_ENDS.values()))
    possible = dict(n_mels=401), dict(n_mels=801, fmax=8_000.0), dict(cut="fixed", overlap=0.5)
    impossible = (dict(n_mels=402), dict(n_mels=802, fmax=8_000.0), dict(fmin=10.0), dict(scale="log"), dict(scale=1),
                  dict(cut="none"), dict(overlap=0.5), dict(n_fft=639))  # fmt: skip
    assert all(methods.is_possible_front_end(replace(front_end, **values)) for values in possible)
    assert not any(methods.is_possible_front_end(replace(front_end, **values)) for values in impossible)


# --------------------------------------------------------------------------------------------- reading audio


def write(path, *, samples=slice(0), value=0, cut=0, **options):
    """Write noise with some samples replaced, then remove the last bytes of the file."""
    wave = noise(5000)
    wave[samples] = value
    soundfile.write(path, wave, 16000, **options)
    path.write_bytes(path.read_bytes()[: -cut or None])


def edit(path, start, data):
    """Replace bytes of a file."""
    old = path.read_bytes()
    path.write_bytes(old[:start] + data + old[start + len(data) :])


def insert_chunk(path, name, data, before):
    """Insert a RIFF chunk before the chunk of that name, or after the last."""
    old = path.read_bytes()
    at = old.index(before) if before else len(old)
    new = old[:at] + name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) + old[at:]
    path.write_bytes(new[:4] + struct.pack("<I", len(new) - 8) + new[8:])


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_preserves_duration_frequency_and_level_and_folds_nothing_down(tmp_path, rate):
    high = 0.3 * sine(12_000, rate, 2) if rate > 24_000 else 0
    soundfile.write(tmp_path / "a.wav", sine(440, rate, 2) + high, rate)
    wave = features.read_audio(tmp_path / "a.wav")
    assert wave.shape == (32_000,)
    spectrum = np.abs(scipy.fft.rfft(wave[8_000:24_000] * np.hanning(16_000)))  # a second: bins of 1 Hz
    assert spectrum.argmax() == 440 and spectrum[440] == pytest.approx(0.5 * 16_000 / 4, rel=0.01)
    assert spectrum[3_990:4_010].max() < 1e-3 * spectrum[440]  # 12 kHz would fold to 4 kHz


@pytest.mark.parametrize(
    "name, subtype, step",
    [("a.wav", "PCM_U8", 2**-7), ("a.wav", "PCM_16", 2**-15), ("a.wav", "PCM_24", 2**-23), ("a.wav", "FLOAT", 1e-12),
     ("a.wav", "DOUBLE", 1e-12), ("a.flac", "PCM_16", 2**-15), ("Ä ö: ü 情感.flac", "PCM_24", 2**-23)],
)  # fmt: skip
def test_all_encodings_give_the_mean_of_the_channels_to_their_precision(tmp_path, name, subtype, step):
    channels = np.stack([noise(5000, 1), noise(5000, 2)], axis=1)
    for wave, path in ((channels[:, 0], tmp_path / name), (channels, str(tmp_path / name))):
        soundfile.write(path, wave, 16000, subtype=subtype)
        mean = wave.reshape(5000, -1).mean(axis=1)
        np.testing.assert_allclose(features.read_audio(path), mean, rtol=0, atol=max(1e-7, 1.01 * step))


def test_extra_chunks_and_lengths_that_a_streaming_writer_did_not_fill_in_change_nothing(tmp_path):
    write(path := tmp_path / "a.wav")
    plain, data = features.read_audio(path), path.read_bytes()
    for length in (0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000):
        for start in (4, 40):
            edit(path, start, struct.pack("<I", length))
        np.testing.assert_array_equal(features.read_audio(path), plain)
    for before in (b"fmt ", b"data", None):
        path.write_bytes(data)
        insert_chunk(path, b"junk", bytes(3001), before)
        np.testing.assert_array_equal(features.read_audio(path), plain)


NOTES = b"INFO" + 30 * (b"ICMT" + struct.pack("<I", 200) + 200 * b"c")  # fill the log that would note a cut
BROKEN = {
    "missing": (lambda path: None, "no such recording"),
    "a folder": (lambda path: path.mkdir(), "no such recording"),
    "no bytes": (lambda path: path.write_bytes(b""), "empty"),
    "no samples": (lambda path: soundfile.write(path, noise(0), 16000), "no samples"),
    "half a header": (lambda path: write(path, cut=10_020), "cannot be read"),
    "header alone": (lambda path: write(path, cut=10_000), ""),
    "cut by a byte": (lambda path: write(path, cut=1), "cut short"),
    "cut extensible": (lambda path: write(path, cut=4000, format="WAVEX"), "cut short"),
    "cut FLAC": (lambda path: write(path, cut=4000, format="FLAC"), ""),
    "cut after notes": (lambda path: (write(path, cut=4000), insert_chunk(path, b"LIST", NOTES, b"data")), "cut short"),
    "not a number": (lambda path: write(path, samples=100, value=np.nan, subtype="FLOAT"), "NaN"),
    "infinite": (lambda path: write(path, samples=100, value=np.inf, subtype="FLOAT"), "infinite"),
    "integers as float": (lambda path: write(path, samples=100, value=20_000, subtype="FLOAT"), "rescale"),
    "silent": (lambda path: write(path, samples=slice(None)), "silent"),
    "constant": (lambda path: write(path, samples=slice(None), value=0.25), "silent"),
    "rate of 1 Hz": (lambda path: (write(path), edit(path, 24, struct.pack("<I", 1))), "1 Hz"),
    "another format": (lambda path: write(path, format="AIFF"), "AIFF"),
    "text": (lambda path: path.write_text("this is no recording\n" * 100), "cannot be read"),
    "two samples": (lambda path: soundfile.write(path, noise(2), 16000), "window"),
    "start of W64": (
        lambda path: path.write_bytes(b"riff.\x91\xcf\x11\xa5\xd6(\xdb\x04\xc1\x00\x00"),
        "cannot be read",
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_recording_is_refused_in_a_line_that_names_it(tmp_path, kind):
    path, (make, word) = tmp_path / "odd: näme 1.wav", BROKEN[kind]
    make(path)
    with pytest.raises(AudioError) as refused:
        features.read_audio(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ") and message.count("näme 1.wav") == 1 and len(message.splitlines()) == 1
    assert word in message and refused.value.exit_code == 3


def test_a_recording_too_long_for_the_memory_is_refused_in_a_line(tmp_path, monkeypatch):
    write(path := tmp_path / "long.flac")
    data = path.read_bytes()
    edit(path, 21, bytes([data[21] | 0x0F]) + b"\xff" * 4)  # promises the most samples of a FLAC, 256 GiB
    for behind in (b"", b"tag"):  # with this, its last frame is not recognised
        path.write_bytes(path.read_bytes() + behind)
        with pytest.raises(AudioError, match="is too long for this" if behind else "promises 68719476735 samples"):
            features.extract(path, TFT)
    path.write_bytes(data)
    monkeypatch.setattr(features, "log_mel", Mock(side_effect=MemoryError))
    with pytest.raises(AudioError, match=f"^{path}: is too long for this machine's memory; cut it into parts$"):
        features.extract(path, TFT)


# ------------------------------------------------------------------------------------------------- the cache

NAMES = ["wav/mit Lücke ä.wav", "b.flac", "c.wav"]


@pytest.fixture
def root(tmp_path):
    """Folder of recordings of 3, 1 and 2 segments of 80 frames."""
    (tmp_path / "Töne hier" / "wav").mkdir(parents=True)
    for name, samples in zip(NAMES, (30_000, 500, 13_121)):
        soundfile.write(tmp_path / "Töne hier" / name, noise(samples, samples), 16000)
    return tmp_path / "Töne hier"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "a" / "cache"


def check(result, root, cached):
    """Assert that a result is right and that the cache holds no unfinished file."""
    expected = [features.extract(root / name, TFT)[0] for name in NAMES]
    digests = [sha256((root / name).read_bytes()).hexdigest() for name in NAMES]
    np.testing.assert_array_equal(result.segments, np.concatenate(expected))
    assert result.segments.dtype == np.float32 and result.counts.tolist() == [len(part) for part in expected]
    np.testing.assert_allclose(result.seconds, [soundfile.info(root / name).duration for name in NAMES])
    assert result.file_digests == digests and result.digest == sha256("".join(digests).encode()).hexdigest()
    assert result.cached is cached and result.load_time > 0
    assert list(Path(result.segments.filename).parent.glob("*.tmp")) == []


def test_a_second_load_reads_the_same_from_the_cache(root, cache, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(cache))
    first = features.load(root, NAMES, TFT, report=(report := Mock()))
    check(first, root, cached=False)
    assert [call.args for call in report.call_args_list] == [(1, 3), (2, 3), (3, 3)]
    first.segments[:] = 0  # does not reach the file
    monkeypatch.chdir(root)
    check(features.load(".", NAMES, TFT, cache), root, cached=True)


@pytest.mark.parametrize("samples, nanoseconds", [(13_121, 1_000_000), (13_121, 0), (13_120, 0)])
def test_a_recording_changed_in_time_content_or_size_is_read_again(samples, nanoseconds, root, cache):
    before, status = features.load(root, NAMES, TFT, cache), (root / "c.wav").stat()
    soundfile.write(root / "c.wav", noise(samples, 99), 16000)
    os.utime(root / "c.wav", ns=(status.st_atime_ns, status.st_mtime_ns + nanoseconds))
    after = features.load(root, NAMES, TFT, cache)
    check(after, root, cached=False)
    assert after.digest != before.digest


@pytest.mark.parametrize("read_again", [True, False])
def test_a_time_of_whole_seconds_is_not_trusted(read_again, root, cache, monkeypatch):
    """Images such as squashfs hold no time of change but the seconds that their maker chose."""
    before, stat = features.load(root, NAMES, TFT, cache), Path.stat
    seconds = 0 if read_again else 1  # ns behind the whole second

    class Status:
        st_size, st_mtime_ns, st_ctime_ns, st_mode = 26_286, 10**9, 10**9 + seconds, (root / "c.wav").stat().st_mode

    monkeypatch.setattr(Path, "stat", lambda path, **more: Status() if path.name == "c.wav" else stat(path, **more))
    features.load(root, NAMES, TFT, cache)
    soundfile.write(root / "c.wav", noise(13_121, 99), 16000)
    after = features.load(root, NAMES, TFT, cache)
    assert after.cached is not read_again and (after.digest != before.digest) is read_again


def test_parts_of_recordings_have_segments_and_a_cache_file_of_their_own(root, cache):
    whole = features.load(root, NAMES, TFT, cache)
    parts = [("c.wav", 0.25, 0.5), "b.flac", ("c.wav", 0.25, 0.6), ("wav/mit Lücke ä.wav", 0, math.inf)]
    loaded = features.load(root, parts, TFT, cache)
    wave = features.read_audio(root / "c.wav")
    expected = [features.log_mel(wave[4_000:8_000], TFT), features.extract(root / "b.flac", TFT)[0],
                features.extract(root / "c.wav", TFT, 0.25, 0.6)[0], whole.segments[:3]]  # fmt: skip
    np.testing.assert_array_equal(loaded.segments, np.concatenate(expected))
    assert loaded.seconds.tolist() == [0.25, 500 / 16_000, 0.35, 30_000 / 16_000]
    assert loaded.file_digests[0] == loaded.file_digests[2] == whole.file_digests[2]
    assert features.load(root, parts, TFT, cache).cached
    for other in (0.4, math.inf):
        changed = features.load(root, [("c.wav", 0.25, other), *parts[1:]], TFT, cache)
        assert not changed.cached and changed.digest != loaded.digest
    with pytest.raises(AudioError, match=r"c\.wav: 0\.00 to 2\.00 s is asked for, and it has 0\.82 s"):
        features.load(root, [("c.wav", 0, 2)], TFT, cache)


def test_recordings_with_the_same_samples_are_found_in_what_was_loaded(root, cache):
    soundfile.write(root / "copy.flac", soundfile.read(root / "c.wav")[0], 16000, subtype="PCM_24")
    names = [*NAMES, "copy.flac", ("c.wav", 0.25, 0.5), ("copy.flac", 0.25, 0.5)]
    for _ in range(2):  # from the recordings, from the cache
        loaded = features.load(root, names, TFT, cache)
        assert features.same_samples(root, names, loaded).tolist() == [0, 1, 2, 2, 4, 4]


CHANGES = dict(frames=128, pre_emphasis=0.0, sample_rate=16_001, win_length=400, hop_length=80, n_fft=1024, n_mels=40,
               fmin=50.0, fmax=7_000.0, log_floor=1e-3, overlap=0.5, pre_emphasis_scope="utterance", scale="linear",
               cut="equal")  # fmt: skip


def test_each_setting_order_folder_and_version_of_the_code_has_its_own_cache_file(root, cache, tmp_path, monkeypatch):
    assert set(CHANGES) == set(asdict(TFT))
    first = features.load(root, NAMES, TFT, cache)
    for name, value in CHANGES.items():
        front_end = replace(TFT, **{name: value})
        other = features.load(root, NAMES, front_end, cache)
        assert not other.cached and not np.array_equal(other.segments, first.segments), name
        np.testing.assert_array_equal(other.segments[-1], features.extract(root / NAMES[2], front_end)[0][-1])
    turned = features.load(root, NAMES[::-1], TFT, cache)
    assert not turned.cached and turned.counts.tolist() == [2, 1, 3]
    np.testing.assert_array_equal(turned.segments[3:], first.segments[:3])
    (tmp_path / "changed.py").write_text(Path(features.__file__).read_text() + "\n# changed\n")
    with monkeypatch.context() as patch:
        patch.setattr(features, "__file__", str(tmp_path / "changed.py"))
        assert not features.load(root, NAMES, TFT, cache).cached
    moved = features.load(root.rename(root.with_name("other")), NAMES, TFT, cache)
    assert not moved.cached and moved.digest == first.digest


def test_a_damaged_cache_file_is_made_again(root, cache):
    features.load(root, NAMES, TFT, cache)
    path = next(cache.iterdir())
    data = path.read_bytes()
    flipped = [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in (5_000, len(data) - 40, len(data) - 2)]
    for damaged in (*flipped, data[:-4], data[4:], data[:4], b"", data + b"0000"):
        path.write_bytes(damaged)
        check(features.load(root, NAMES, TFT, cache), root, cached=False)
        check(features.load(root, NAMES, TFT, cache), root, cached=True)


def test_a_cache_file_appears_complete_and_two_writers_at_once_do_not_disturb_each_other(root, cache):
    barrier = threading.Barrier(2)

    def report(done, total):
        assert list(cache.glob("*.segments")) == []
        if done == total:
            barrier.wait(30)  # until the other has written as much

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(features.load, root, NAMES, TFT, cache, report) for _ in range(2)]
    for future in both:
        check(future.result(), root, cached=False)


def test_temporary_files_of_killed_processes_are_removed_after_a_day(root, cache):
    cache.mkdir(parents=True)
    (cache / "killed.tmp").touch()
    (cache / "at work.tmp").touch()
    os.utime(cache / "killed.tmp", (0, 0))
    features.load(root, NAMES, TFT, cache)
    assert {path.name for path in cache.glob("*.tmp")} == {"at work.tmp"}


def test_load_works_from_standard_input(root, cache):
    script = f"import features as f; print(f.load({str(root)!r}, {NAMES}, f.FRONT_ENDS['tft'], {str(cache)!r}).counts)"
    folder = Path(features.__file__).parent
    run = subprocess.run([sys.executable, "-"], input=script, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("[3 1 2]\n", "")
    check(features.load(root, NAMES, TFT, cache), root, cached=True)


def test_errors_reach_the_caller_and_no_unfinished_file_stays(root, cache):
    with pytest.raises(KeyboardInterrupt):
        features.load(root, NAMES, TFT, cache, report=Mock(side_effect=KeyboardInterrupt))
    assert list(cache.iterdir()) == []
    features.load(root, NAMES, TFT, cache)
    write(root / "c.wav", cut=1)
    with pytest.raises(AudioError, match=r"c\.wav: was cut short"):
        features.load(root, NAMES, TFT, cache)
    (root / "c.wav").unlink()
    with pytest.raises(AudioError, match=r"c\.wav: no such recording"):
        features.load(root, NAMES, TFT, cache)
    assert len(list(cache.iterdir())) == 1


def test_a_cache_that_cannot_be_made_or_is_full_is_named(root, cache, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=str(tmp_path / "file")):
        features.load(root, NAMES, TFT, tmp_path / "file")
    monkeypatch.setattr(features.os, "replace", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=f"No space left on device: '{cache}"):
        features.load(root, NAMES, TFT, cache)
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write to read-only folders")
def test_a_read_only_cache_is_read_and_refuses_new_files(root, cache):
    features.load(root, NAMES, TFT, cache)
    cache.chmod(0o500)
    try:
        check(features.load(root, NAMES, TFT, cache), root, cached=True)
        with pytest.raises(OSError, match=str(cache)):
            features.load(root, NAMES, ATFNN, cache)
    finally:
        cache.chmod(0o700)
