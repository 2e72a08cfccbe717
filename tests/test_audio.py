"""Recordings of other codecs and containers, headers that are wrong, parts of files, resampling, the same samples.

python -m pytest tests/test_audio.py
"""

import os
import struct
from math import inf

import numpy as np
import pytest
import scipy.signal
import soundfile

from common import audio, containers, duplicates, paths
from common.audio import AudioError, read_samples

RATE, N = 16_000, 9_000  # not a multiple of any block


def noise(samples=N, seed=0, channels=1):
    """White noise in 16 bits, float32 (samples, channels)."""
    wave = 0.1 * np.random.default_rng(seed).standard_normal((samples, channels))
    return (np.round(wave * 2**15) / 2**15).astype(np.float32)


def write(path, wave=None, **options):
    """Write a file, noise unless given; its path."""
    soundfile.write(path, noise() if wave is None else wave, options.pop("rate", RATE), **options)
    return path


def refusal(path, **part):
    """The line with which a recording is refused."""
    with pytest.raises(AudioError) as caught:
        read_samples(path, **part)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and len(line.splitlines()) == 1
    return line


def edited(path, start, data, name="edited.wav"):
    """A copy of a file with other bytes at a position."""
    content = path.read_bytes()
    copy = path.with_name(name)
    copy.write_bytes(content[:start] + data + content[start + len(data) :])
    return copy


# ---------------------------------------------------------------------------- codecs and containers

EXACT = {
    "PCM_16": 0,
    "PCM_24": 1e-6,
    "PCM_32": 1e-6,
    "FLOAT": 1e-6,
    "DOUBLE": 1e-6,
    "PCM_U8": 2**-7,
    "ULAW": 0.02,
    "ALAW": 0.02,
}


@pytest.mark.parametrize("container", ["WAV", "WAVEX", "RF64", "W64"])
@pytest.mark.parametrize("codec", EXACT)
def test_codecs_of_fixed_bytes_are_read_in_each_container(container, codec, tmp_path):
    path = write(tmp_path / "a.wav", format=container, subtype=codec)
    samples = read_samples(path)
    np.testing.assert_allclose(samples.wave, noise()[:, 0], rtol=0, atol=EXACT[codec])
    assert (samples.rate, samples.channels) == (RATE, 1)
    for cut in (1, 3000):
        path.write_bytes(path.read_bytes()[:-cut])
        assert "cut short" in refusal(path)


@pytest.mark.parametrize("codec", ["GSM610", "IMA_ADPCM", "MS_ADPCM", "G721_32", "NMS_ADPCM_16", "NMS_ADPCM_32"])
def test_codecs_of_fixed_blocks_are_read_without_their_padding_and_a_loss_is_noticed(codec, tmp_path):
    rate = 8_000
    tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(N) / rate)
    samples = read_samples(path := write(tmp_path / "a.wav", tone, rate=rate, subtype=codec))
    assert N <= len(samples.wave) < N + 1020 and abs(samples.wave[:N] - tone)[500:].max() < 0.2
    if codec in ("GSM610", "MS_ADPCM"):
        assert len(samples.wave) == N
    part = read_samples(path, 0.25, 0.75)
    np.testing.assert_array_equal(part.wave, samples.wave[2000:6000])
    path.write_bytes(path.read_bytes()[:-200])
    assert "cut short" in refusal(path)


def wrapped(content, tag, extensible=False):
    """A WAV file that holds other content, under a format tag."""
    fields = struct.pack("<HHIIHH", 0xFFFE if extensible else tag, 1, RATE, 4000, 1, 0)
    fields += (
        struct.pack("<HHIH", 22, 0, 4, tag) + bytes(14)
        if extensible
        else struct.pack("<HHIHHH", 12, 1, 2, 576, 1, 1105)
    )
    chunks = b"WAVEfmt " + struct.pack("<I", len(fields)) + fields + b"data" + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


@pytest.mark.parametrize("mode", ["VARIABLE", "CONSTANT"])
@pytest.mark.parametrize("extensible", [False, True])
def test_mp3_in_wav_is_refused(mode, extensible, tmp_path):
    write(tmp_path / "a.mp3", format="MP3", bitrate_mode=mode)
    path = tmp_path / "a.wav"
    path.write_bytes(wrapped((tmp_path / "a.mp3").read_bytes(), 0x55, extensible))
    assert "holds MP3 in WAV; convert it" in refusal(path)


@pytest.mark.parametrize("tag, name", [
    (0x50, "MPEG audio"), (0x28F, "G.722"), (0x64, "G.726 ADPCM"), (0xFF, "AAC"), (0xF1AC, "FLAC"), (0x704F, "Opus"),
    (0x1234, "codec 0x1234"),
])  # fmt: skip
def test_other_codecs_in_wav_are_refused_by_name(tag, name, tmp_path):
    (tmp_path / "a.wav").write_bytes(wrapped(bytes(range(256)) * 20, tag))
    assert f"holds {name} in WAV; convert it" in refusal(tmp_path / "a.wav")


@pytest.mark.parametrize("options, name", [
    (dict(format="MP3"), "MP3"), (dict(format="OGG", subtype="VORBIS"), "OGG"), (dict(format="OGG", subtype="OPUS"),
    "OGG"),
    (dict(format="AIFF"), "AIFF"), (dict(format="AU"), "AU"), (dict(format="CAF"), "CAF"), (dict(format="NIST"),
    "NIST"),
])  # fmt: skip
def test_other_formats_are_refused_whatever_their_ending(options, name, tmp_path):
    assert f"holds {name}, not WAV or FLAC; convert it" in refusal(write(tmp_path / "a.wav", **options))


@pytest.mark.parametrize("head, name", [
    (b"\0\0\0\x20ftypM4A ", "MP4"), (b"#!AMR\n", "AMR"), (b"0&\xb2u", "WMA"), (b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (b"BW64", "BW64"),
])  # fmt: skip
def test_formats_that_libsndfile_does_not_know_are_named(head, name, tmp_path):
    (tmp_path / "a.wav").write_bytes(head + bytes(range(256)) * 9)
    assert f"holds {name}, not WAV or FLAC; convert it" in refusal(tmp_path / "a.wav")


# ----------------------------------------------------------------------------------- wrong headers


@pytest.fixture
def wav(tmp_path):
    """A WAV file of 44 bytes and 2 N more."""
    return write(tmp_path / "a.wav")


def with_length(path, length, riff=None):
    """A copy that promises other bytes of samples, and of the file."""
    copy = edited(path, 40, struct.pack("<I", length))
    return copy if riff is None else edited(copy, 4, struct.pack("<I", riff), "riff.wav")


@pytest.mark.parametrize(
    "length, riff", [(2 * N + 44, None), (2 * N + 36, None), (2 * N + 44, 0), (2 * N + 8, None), (2 * N + 1, None)]
)
def test_a_header_some_bytes_too_long_loses_nothing(length, riff, wav):
    np.testing.assert_array_equal(read_samples(with_length(wav, length, riff)).wave, noise()[:, 0])


def test_a_file_that_is_cut_by_as_many_bytes_as_its_header_has_is_refused(wav):
    content = wav.read_bytes()
    for cut in (44, 36, 2, 1):
        wav.write_bytes(content[:-cut])
        assert f"promises {cut} bytes more" in refusal(wav)


@pytest.mark.parametrize("length, riff", [(2 * N + 400, None), (2 * N + 8, 2 * N + 44), (4 * N, 4 * N + 36)])
def test_a_header_that_promises_more_is_refused_with_both_reasons(length, riff, wav):
    line = refusal(with_length(wav, length, riff))
    assert (
        f"cut short, or its header is wrong: it promises {length - 2 * N} bytes more" in line
        and "-ignore_length 1" in line
    )


@pytest.mark.parametrize("length", [0, 2, N, 2 * N - 400])
@pytest.mark.parametrize("riff", [False, True])
def test_a_header_that_promises_less_is_refused(length, riff, wav):
    line = refusal(with_length(wav, length, length + 36 if riff else None))
    assert (
        f"promises {length} bytes of samples, and {2 * N - length} more follow" in line and "-ignore_length 1" in line
    )


@pytest.mark.parametrize(
    "start, data", [(22, b"\3\0"), (34, b"\x08\0"), (34, b"\x18\0"), (32, b"\4\0")]
)  # channels, bits, bytes
def test_a_header_that_contradicts_itself_is_refused(start, data, wav):
    assert "contradicts itself" in refusal(edited(wav, start, data))


def test_what_follows_the_samples_of_w64_is_not_read(tmp_path):
    path = write(tmp_path / "a.w64", format="W64")
    content = path.read_bytes()
    content += (
        bytes(-len(content) % 8)
        + b"levl\xf3\xac\xd3\x11\x8c\xd1\x00\xc0O\x8e\xdb\x8a"
        + struct.pack("<Q", 64)
        + bytes(40)
    )
    path.write_bytes(content)
    np.testing.assert_array_equal(read_samples(path).wave, noise()[:, 0])


def test_two_recordings_in_a_file_are_refused(wav):
    content = wav.read_bytes()
    for more in (content, content[36:]):  # a file behind the file, a second chunk of samples
        (wav.parent / "two.wav").write_bytes(content + more)
        assert f"{len(more)} more follow" in refusal(wav.parent / "two.wav")


@pytest.mark.parametrize("more", [
    b"LIST" + struct.pack("<I", 4) + b"INFO", b"LIST" + struct.pack("<I", 4000) + b"cut", b"TAG" + bytes(125),
    bytes(2000), b"\n",
    b"abcd" + struct.pack("<I", 2) + b"xy",
])  # fmt: skip
def test_what_follows_the_samples_and_is_none_does_not_matter(more, wav):
    wav.write_bytes(wav.read_bytes() + more)
    np.testing.assert_array_equal(read_samples(wav).wave, noise()[:, 0])


def test_rf64_and_w64_headers_are_compared_too(tmp_path):
    for container, marker, offset in (("RF64", b"ds64", 16), ("W64", b"data", 16)):
        path = write(tmp_path / "a.wav", format=container)
        at = path.read_bytes().index(marker) + offset
        (promised,) = struct.unpack("<Q", path.read_bytes()[at : at + 8])
        assert "more follow" in refusal(edited(path, at, struct.pack("<Q", promised - N)))
        assert "cut short" in refusal(edited(path, at, struct.pack("<Q", promised + N)))


def flac(tmp_path, samples=N):
    """A FLAC file and its content."""
    path = write(tmp_path / "a.flac", noise(samples))
    return path, bytearray(path.read_bytes())


def with_samples(content, number):
    """A FLAC whose header promises a number of samples; 0: unknown."""
    head = ((content[21] & 0xF0) << 32 | number).to_bytes(5)
    return bytes(content[:21] + head + content[26:])


def frames_of(content):
    """Positions of the frames of a FLAC."""
    ends = [i for i in range(len(content)) if containers._flac_frame(bytes(content[i : i + 16]), 4096)[1]]
    return [*ends, len(content)]


def test_a_flac_of_unknown_length_is_read_where_its_last_frame_shows_that_it_is_whole(tmp_path):
    path, content = flac(tmp_path)
    path.write_bytes(with_samples(content, 0))
    np.testing.assert_array_equal(read_samples(path).wave, noise()[:, 0])
    np.testing.assert_array_equal(read_samples(path, 0.1, 0.4).wave, noise()[1600:6400, 0])
    *starts, end = frames_of(content)
    for cut in (end - 1, end - 700, *starts[1:]):
        path.write_bytes(with_samples(content, 0)[:cut])
        line = refusal(path)
        assert "leaves the number of samples open" in line and "ffmpeg" in line
    path, content = flac(tmp_path, 2 * 4096)  # its last frame is full: another may have followed
    path.write_bytes(with_samples(content, 0))
    assert "leaves the number of samples open" in refusal(path)


def test_a_flac_whose_header_promises_others_than_its_frames_hold_is_refused(tmp_path):
    path, content = flac(tmp_path)
    path.write_bytes(with_samples(content, N // 2))
    assert f"promises {N // 2} of {N} samples" in refusal(path)
    path.write_bytes(with_samples(content, N + 1))
    assert f"promises {N + 1} samples and holds {N}" in refusal(path)
    path.write_bytes(content[: frames_of(content)[1]])
    assert f"promises {N} samples and holds 4096" in refusal(path)
    path.write_bytes(content + b"TAG" + bytes(125))  # of a music player
    assert len(read_samples(path).wave) == N


# -------------------------------------------------------------------------------- names and links


def test_names_in_any_encoding_are_opened(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"\xcd\xf5\xd5\xdc")
    os.mkdir(folder)
    write(tmp_path / "a.wav").rename(os.fsdecode(folder) + "/a.wav")
    assert len(read_samples(os.fsdecode(folder) + "/a.wav").wave) == N
    assert paths.printable(os.fsdecode(folder)) == f"{tmp_path}/\\xcd\\xf5\\xd5\\xdc"
    assert os.fsencode(paths.on_disk(tmp_path, "王哲/a.wav")) == b"\xcd\xf5\xd5\xdc/a.wav"
    assert "in an encoding that is not UTF-8" in refusal(tmp_path / "王哲/A.wav")


def test_a_missing_recording_is_explained(tmp_path):
    write(tmp_path / "Ua\u0308.wav")
    assert "with accents that are composed otherwise" in refusal(tmp_path / "U\u00e4.wav")
    assert "Ua\u0308.wav is there, spelt in other capitals" in refusal(tmp_path / "u\u00e4.WAV")
    (tmp_path / "link.wav").symlink_to("gone/a.wav")
    (tmp_path / "folder").symlink_to("gone")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    assert "is a link to gone/a.wav, where nothing is" in refusal(tmp_path / "link.wav")
    assert "is a link to loop.wav" in refusal(tmp_path / "loop.wav")
    with pytest.raises(AudioError, match=f"^{tmp_path}/folder: is a link to gone, where nothing is"):
        read_samples(tmp_path / "folder/a.wav")
    assert refusal(tmp_path / "b.wav").endswith("no such recording; restore it or take it off the list")


def test_links_of_all_kinds_are_followed(tmp_path):
    (tmp_path / "blobs").mkdir()
    write(tmp_path / "blobs/0815", format="WAV")
    (tmp_path / "a.wav").symlink_to("blobs/0815")
    (tmp_path / "again.wav").symlink_to(tmp_path / "a.wav")
    os.link(tmp_path / "blobs/0815", tmp_path / "hard.wav")
    (tmp_path / "folder").symlink_to("blobs")
    for name in ("a.wav", "again.wav", "hard.wav", "folder/0815"):
        assert len(read_samples(tmp_path / name).wave) == N


# ------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    "name, options",
    [("a.wav", {}), ("a.flac", {}), ("a.wav", dict(format="W64")), ("a.wav", dict(subtype="IMA_ADPCM"))],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_part_holds_the_samples_of_its_times(name, options, channels, tmp_path):
    path = write(tmp_path / name, noise(channels=channels), **options)
    whole = read_samples(path).wave
    for start, end in ((0, inf), (0.1, 0.3), (0, 0.25), (0.25, inf), (0.05, 0.07), (0.1, N / RATE + 0.04)):
        first, last = round(start * RATE), N if end == inf else round(end * RATE)
        np.testing.assert_array_equal(
            read_samples(path, start, end).wave, whole[first:last] if end < 0.5 else whole[first:]
        )


def test_parts_of_other_rates_are_cut_before_they_are_resampled(tmp_path):
    path = write(tmp_path / "a.wav", noise(48_000), rate=48_000)
    wave = audio.read_audio(path, RATE, 0.25, 0.5)
    assert len(wave) == 4_000
    np.testing.assert_allclose(wave[200:-200], audio.read_audio(path, RATE)[4_000:8_000][200:-200], atol=1e-4)


@pytest.mark.parametrize("start, end, words", [
    (0.6, inf, "0.60 s to its end"), (0.2, 0.7, "0.20 to 0.70 s is asked for, and it has 0.56 s"),
    (400, 1200, "400.00 to 1200.00 s"),
    (0.1, 0.119, "has 19 ms, less than a window"),
])  # fmt: skip
def test_a_part_out_of_the_recording_or_below_a_window_is_refused(start, end, words, tmp_path):
    assert words in refusal(write(tmp_path / "a.wav"), start=start, end=end)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_recording_shorter_than_a_window_is_refused(rate, tmp_path):
    for samples in (2, rate // 50 - 1):
        assert "less than a window of 20 ms" in refusal(write(tmp_path / "a.wav", noise(samples), rate=rate))
    assert len(audio.read_audio(write(tmp_path / "a.wav", noise(rate // 50), rate=rate), RATE)) == 320


# -------------------------------------------------------------------------------------- resampling


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000])
def test_resampling_is_flat_below_and_silent_above_the_new_nyquist_frequency(rate):
    common = np.gcd(rate, RATE)
    up, down = RATE // common, rate // common
    nyquist = min(rate, RATE) / 2
    hertz = np.array([*np.linspace(0, nyquist * 15 / 16, 150), *np.linspace(nyquist, rate * up / 2, 400)])
    _, response = scipy.signal.freqz(audio.low_pass(int(up), int(down)).astype(float), worN=hertz, fs=rate * up)
    level = 20 * np.log10(abs(response) + 1e-12)
    assert abs(level[:150]).max() < 0.1 and level[150:].max() < -60


@pytest.mark.parametrize(
    "rate, hertz, gain",
    [(48_000, 8_100, 0), (44_100, 8_010, 0), (48_000, 7_490, 1), (22_050, 7_400, 1), (8_000, 3_740, 1)],
)
def test_a_tone_passes_or_is_gone(rate, hertz, gain):
    tone = np.sin(2 * np.pi * hertz * np.arange(rate) / rate).astype(np.float32)
    wave = audio.resample(tone, rate, RATE)
    assert wave.dtype == np.float32 and len(wave) == RATE
    level = np.sqrt(2 * np.mean(wave[2_000:-2_000] ** 2))  # amplitude
    assert level < 1e-3 if gain == 0 else abs(20 * np.log10(level)) < 0.1


def test_the_rate_of_the_front_end_keeps_the_bits(tmp_path):
    wave = soundfile.read(write(tmp_path / "a.wav"), dtype="float32")[0]
    np.testing.assert_array_equal(audio.read_audio(tmp_path / "a.wav"), wave)


# --------------------------------------------------------------------------------- the same samples


def groups(recordings, speakers=None):
    """Index of the first recording with the same samples, of waveforms or files."""
    samples = [read_samples(path) for path in recordings]
    prints = np.array([duplicates.fingerprint(entry) for entry in samples], duplicates.FINGERPRINT)
    return duplicates.group(prints, lambda i: samples[i].wave, speakers).tolist()


COPIES = [dict(format="FLAC"), dict(format="W64"), dict(format="WAVEX"), dict(subtype="PCM_24"), dict(subtype="FLOAT"),
          dict(subtype="PCM_U8"), dict(format="FLAC", subtype="PCM_24"),
          dict(format="FLAC", subtype="PCM_S8")]  # fmt: skip


@pytest.mark.parametrize("copy", COPIES)
def test_copies_in_other_formats_and_bit_depths_are_found(copy, tmp_path):
    files = [write(tmp_path / f"{i}.wav", noise(seed=i)) for i in range(4)]
    assert groups([*files, write(tmp_path / "copy", noise(seed=2), **{"format": "WAV", **copy})]) == [0, 1, 2, 3, 2]


def test_truncated_rounded_dithered_and_rescaled_copies_are_found(tmp_path):
    wave, generator = 0.1 * np.random.default_rng(0).standard_normal(N), np.random.default_rng(1)
    dither = generator.random(N) - generator.random(N)
    copies = [np.floor(wave * 2**15) / 2**15, np.round(wave * 2**15) / 2**15, np.round(wave * 2**15 + dither) / 2**15,
              np.round(wave * 32767) / 2**15]  # fmt: skip
    files = [write(tmp_path / "0.wav", wave, subtype="PCM_24")]
    files += [write(tmp_path / f"{i}.wav", copy) for i, copy in enumerate(copies, 1)]
    eight = np.floor(wave * 2**7) / 2**7
    files.append(write(tmp_path / "8.wav", eight, subtype="PCM_U8"))
    assert groups(files) == [0] * 6
    assert groups(files, ["a"] * 6) == [0, 1, 2, 3, 4, 5]  # of a single speaker only exact copies are told


def test_another_header_stereo_of_the_same_and_links_are_found(tmp_path):
    path = write(tmp_path / "a.wav")
    content = path.read_bytes()
    (tmp_path / "b.wav").write_bytes(content + b"LIST" + struct.pack("<I", 4) + b"INFO")
    (tmp_path / "c.wav").symlink_to("a.wav")
    both = write(tmp_path / "d.wav", np.repeat(noise(), 2, 1))
    assert groups([path, tmp_path / "b.wav", tmp_path / "c.wav", both]) == [0, 0, 0, 0]


def test_other_recordings_are_never_called_the_same(tmp_path):
    time = np.arange(N) / RATE
    tones = [0.3 * np.sin(2 * np.pi * 200 * time) * (1 + 0.5 * np.sin(2 * np.pi * k * time)) for k in range(1, 6)]
    quiet = [0.004 * np.random.default_rng(i).standard_normal(N) for i in range(5)]  # below 8 bits
    files = [write(tmp_path / f"t{i}.wav", wave) for i, wave in enumerate(tones)]
    files += [write(tmp_path / f"q{i}.wav", wave, subtype="PCM_U8") for i, wave in enumerate(quiet)]
    files += [write(tmp_path / "rate.wav", tones[0], rate=22_050), write(tmp_path / "short.wav", tones[0][:-1])]
    files += [write(tmp_path / "moved.wav", np.roll(tones[0], 3)), write(tmp_path / "less.wav", tones[0] * 0.98)]
    assert groups(files) == list(range(len(files)))


def test_many_recordings_of_a_length_are_compared_without_reading_them():
    prints = np.zeros(20_000, duplicates.FINGERPRINT)
    generator = np.random.default_rng(0)
    prints["digest"], prints["rate"], prints["samples"] = [generator.bytes(32) for _ in prints], RATE, N
    prints["step"] = np.where(np.arange(20_000) % 2, 2**-15, 2**-7)
    prints["envelope"] = 0.3 * generator.random((20_000, 16)) * ([1] * 8 + [-1] * 8)
    prints[-1] = prints[0]

    def read(i):
        raise AssertionError(f"{i} is read")

    assert duplicates.group(prints, read).tolist() == [*range(19_999), 0]
