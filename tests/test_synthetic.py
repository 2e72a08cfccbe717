"""The synthetic corpora: reproducible, complete, laid out like the real ones, and worth learning from.

python -m pytest tests/test_synthetic.py
"""

import csv
import re
import subprocess
import sys
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import synthetic


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    """Each small corpus, written once: {layout: (root, count)}."""
    top = tmp_path_factory.mktemp("corpora")
    return {layout: (top / layout, synthetic.write_corpus(layout, top / layout)) for layout in synthetic.LAYOUTS}


def wavs(root):
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.wav") if not path.name.startswith("._"))


def median_pitch(samples, rate=16000):
    """Median over voiced 40 ms frames of the strongest autocorrelation peak in 60-500 Hz (Hz)."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 640)[::320] * np.hanning(640)
    power = np.abs(np.fft.rfft(frames, 2048)) ** 2
    window = np.abs(np.fft.rfft(np.hanning(640), 2048)) ** 2
    lags = np.fft.irfft(power)[:, :640] / np.fft.irfft(window)[:640]  # corrected for the taper
    low, high = rate // 500, rate // 60
    best = lags[:, low:high].argmax(1)
    voiced = lags[np.arange(len(lags)), low + best] > 0.6 * lags[:, 0]
    loud = power.sum(1) > 0.05 * power.sum(1).max()
    return rate / np.median(low + best[voiced & loud])


def centroid(samples):
    """Centre of gravity of the spectrum below 4 kHz (Hz)."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / 16000)
    return np.average(hertz[hertz < 4000], weights=power[hertz < 4000])


def several(measure, speaker, emotion, count=8):
    """Median of a measure over some texts."""
    return np.median([measure(synthetic.synthesize(speaker, emotion, text, 1.5)) for text in range(count)])


# ---------------------------------------------------------------------------- signal


@pytest.mark.parametrize(
    "seconds, rate", [(0.01, 16000), (0.5, 16000), (1.23456, 16000), (0.7, 48000), (0.3, 22050), (0.4, 8000)]
)
def test_exact_length_and_range(seconds, rate):
    samples = synthetic.synthesize("S1", "angry", 3, seconds, rate)
    assert samples.dtype == np.float32 and samples.shape == (round(seconds * rate),)
    assert np.isfinite(samples).all() and np.abs(samples).max() <= 1


def test_every_emotion_has_a_plausible_level():
    for emotion in (*synthetic.EMOTIONS, *synthetic.ALIASES):
        samples = synthetic.synthesize("S2", emotion, 5, 1.0)
        assert -35 < 10 * np.log10(np.mean(samples**2)) < -12, emotion
        assert np.abs(samples).max() < 0.99, emotion


def test_same_arguments_same_samples_in_any_order():
    keys = [("S1", "sad", 1), ("S2", "angry", 2), ("S1", "happy", 3)]
    first = [synthetic.synthesize(*key, 0.6) for key in keys]
    again = [synthetic.synthesize(*key, 0.6) for key in reversed(keys)][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(first, again))


def test_every_argument_matters():
    base = dict(speaker="S1", emotion="sad", text=1, seconds=0.6, seed=0, take=0)
    plain = synthetic.synthesize(**base)
    for change in (dict(speaker="S3"), dict(emotion="happy"), dict(text=2), dict(seed=1), dict(take=1)):
        assert not np.array_equal(plain, synthetic.synthesize(**base | change)), change


def test_same_text_same_phones_for_everyone():
    def phones(seed, rate):
        names, _, _ = synthetic.phones_of(207, 2.0, rate, np.random.default_rng(seed))
        return "".join(names).replace("q", "")

    slow, fast, other = phones(0, 3.5), phones(1, 6.0), phones(2, 6.0)
    assert fast.startswith(slow[:8]) and other.startswith(slow[:8]) and len(fast) > len(slow)


def test_pitch_of_a_steady_source():
    rng = np.random.default_rng(0)
    pulses, _ = synthetic.glottal_source(np.full(16000, 123.0), 1400, 0.0, rng)
    assert median_pitch(pulses) == pytest.approx(123, rel=0.01)


def test_resonators_peak_at_their_formants():
    noise = np.random.default_rng(0).standard_normal(64000)
    formants = np.tile([[700.0, 1800, 2600, 3600, 4600]], (200, 1))
    power = np.abs(np.fft.rfft(synthetic.vocal_tract(noise, formants))) ** 2
    smooth = np.convolve(power, np.ones(161), "same")  # 40 Hz
    hertz = np.fft.rfftfreq(64000, 1 / 16000)
    for formant in (700, 1800, 2600):
        near = np.abs(hertz - formant) < 300
        assert abs(hertz[near][smooth[near].argmax()] - formant) < 60


def test_moving_formants_against_the_difference_equation():
    rng = np.random.default_rng(0)
    source, formants = rng.standard_normal(1000), rng.uniform(300, 4000, (4, 5))
    slow = source
    for k in range(5):
        section = synthetic.resonators(formants[:, k], 50 + 0.045 * formants[:, k])
        past, y = [0.0, 0.0], []
        for n, x in enumerate(slow):
            b0, _, _, _, a1, a2 = section[n // synthetic.BLOCK]
            past = [b0 * x - a1 * past[0] - a2 * past[1], past[0]]
            y.append(past[0])
        slow = np.array(y)
    fast = synthetic.vocal_tract(source, formants)
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-9 * np.abs(slow).max())


def test_nothing_clicks():
    for text in range(12):
        samples = synthetic.synthesize("S2", "neutral", text, 2.0)
        assert 20 * np.log10(np.abs(samples).max() / samples.std()) < 24  # crest of speech, dB


def test_emotion_moves_pitch_level_and_tilt():
    for speaker in ("S1", "S2"):
        assert several(median_pitch, speaker, "angry") > 1.15 * several(median_pitch, speaker, "sad")
        assert several(np.std, speaker, "angry") > 1.5 * several(np.std, speaker, "sad")
        assert several(centroid, speaker, "angry") > several(centroid, speaker, "sad")


def test_speaker_moves_pitch_and_formants():
    assert several(median_pitch, "S2", "neutral") > 1.3 * several(median_pitch, "S1", "neutral")
    voices = {synthetic.voice_of(speaker, 0) for speaker in synthetic.EMODB_SPEAKERS}
    assert len(voices) == 10
    assert synthetic.voice_of("1F", 0)[0] > synthetic.voice_of("1M", 0)[0]


@pytest.mark.parametrize(
    "change",
    [
        dict(emotion="glad"),
        dict(seconds=0.0),
        dict(seconds=float("nan")),
        dict(seconds=float("inf")),
        dict(text=-1),
        dict(seed=-1),
        dict(rate=0),
    ],
)
def test_impossible_arguments_are_refused(change):
    with pytest.raises(ValueError):
        synthetic.synthesize(**dict(speaker="S1", emotion="sad", text=1, seconds=0.5) | change)


# ---------------------------------------------------------------------------- plans


def test_count_segments_against_framing_by_hand():
    for samples in (320, 479, 480, 12960, 12961, 13119, 13120, 40000):
        frames = len(range(0, samples - 320 + 1, 160))
        assert synthetic.count_segments(samples) == len(range(0, frames, 80)), samples


@pytest.mark.parametrize("layout, segments", [("iemocap", 13547), ("casia", 3381)])
@pytest.mark.parametrize("seed", [0, 1])
def test_full_segment_totals_are_the_published_ones(layout, segments, seed):
    plan = [u for u in synthetic.plan_corpus(layout, "full", seed) if u.usable]
    assert synthetic.count_segments([u.samples for u in plan]).sum() == segments
    assert min(u.samples for u in plan) > 0.5 * 16000


SPEAKERS = dict(iemocap=10, casia=4, abc=8, emodb=10, ravdess=24, manifest=4)


@pytest.mark.parametrize("layout", SPEAKERS)
@pytest.mark.parametrize("size", ["small", "full"])
def test_every_speaker_speaks_every_class(layout, size):
    plan = [u for u in synthetic.plan_corpus(layout, size) if u.usable]
    pairs = {(u.speaker, u.emotion) for u in plan}
    assert len(pairs) == len({s for s, _ in pairs}) * len({e for _, e in pairs})
    assert len({s for s, _ in pairs}) == SPEAKERS[layout]


def test_contingency_keeps_both_totals():
    rows, columns = dict(a=7, b=11, c=2), dict(x=5, y=15)
    table = synthetic.contingency(rows, columns)
    assert all(sum(table[r, c] for c in columns) == rows[r] for r in rows)
    assert all(sum(table[r, c] for r in rows) == columns[c] for c in columns)
    assert min(table.values()) >= 0


# ---------------------------------------------------------------------------- corpora


@pytest.mark.parametrize("layout", SPEAKERS)
def test_what_was_planned_is_there_and_readable(corpora, layout):
    root, count = corpora[layout]
    plan = synthetic.plan_corpus(layout)
    assert wavs(root) == sorted(u.path for u in plan)
    assert count == sum(u.usable for u in plan)
    for utterance in plan:
        about = soundfile.info(root / utterance.path)
        assert (about.frames, about.samplerate, about.channels, about.subtype) == (
            utterance.samples,
            utterance.rate,
            utterance.channels,
            "PCM_16",
        )
    assert not [path for path in root.parent.iterdir() if path.name.startswith(".")]


def test_bytes_do_not_depend_on_order_or_company(corpora, tmp_path):
    root, _ = corpora["iemocap"]
    for utterance in synthetic.plan_corpus("iemocap")[10::-5]:
        (tmp_path / utterance.path).parent.mkdir(parents=True, exist_ok=True)
        synthetic.write_utterance(utterance, tmp_path, 0)
        assert (tmp_path / utterance.path).read_bytes() == (root / utterance.path).read_bytes()


def test_same_corpus_twice_and_another_with_another_seed(corpora, tmp_path):
    root, _ = corpora["casia"]
    for seed, same in ((0, True), (1, False)):
        synthetic.write_corpus("casia", tmp_path / str(seed), seed=seed)
        assert wavs(tmp_path / str(seed)) == wavs(root)
        for path in wavs(root):
            assert ((tmp_path / str(seed) / path).read_bytes() == (root / path).read_bytes()) == same


def test_processes_write_the_same_bytes(monkeypatch, tmp_path):
    plan = synthetic.plan_casia(False, np.random.default_rng(0))[:3]
    monkeypatch.setitem(synthetic.LAYOUTS, "casia", lambda full, rng: plan)
    for size in ("small", "full"):  # one process, all cores
        assert synthetic.write_corpus("casia", tmp_path / size, size) == 3
    for utterance in plan:
        small, full = ((tmp_path / size / utterance.path).read_bytes() for size in ("small", "full"))
        assert small == full


HEAD = re.compile(
    r"\[(\d+\.\d{4}) - (\d+\.\d{4})\]\t(Ses\d\d[FM]_(?:impro|script)\w+)\t(\w{3})"
    r"\t\[\d\.\d{4}, \d\.\d{4}, \d\.\d{4}\]"
)


def test_iemocap_annotations(corpora):
    root, count = corpora["iemocap"]
    kept, ignored, letters = [], set(), {}
    for path in root.glob("Session?/dialog/EmoEvaluation/Ses*.txt"):
        lines = path.read_text().splitlines()
        assert lines[:2] == ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for line in lines[2:]:
            head = HEAD.fullmatch(line)
            if not head:
                assert not line or re.fullmatch(r"[CA]-[EFM]\d:\t.*;\t\(\)", line), line
                continue
            start, end, name, label = head.groups()
            assert name.startswith(path.stem + "_") and path.parts[-4] == f"Session{name[4]}"
            about = soundfile.info(root / f"Session{name[4]}/sentences/wav/{path.stem}/{name}.wav")
            assert float(end) - float(start) == pytest.approx(about.duration, abs=2e-4)
            if "impro" in name and label in synthetic.IEMOCAP:
                kept.append((name, label))
                letters.setdefault(path.stem, set()).add(name.split("_")[-1][0])
            else:
                ignored.add(("script" in name, label))
    assert len(kept) == len(set(kept)) == count
    assert all(letter == {"F", "M"} for letter in letters.values())  # whatever Ses01F says
    assert {"Ses03M_impro05a", "Ses03M_impro05b"} <= letters.keys()
    assert {(True, "neu"), (True, "ang"), (False, "xxx"), (False, "exc"), (False, "fru")} <= ignored


def test_iemocap_has_what_must_not_be_read(corpora):
    folder = corpora["iemocap"][0] / "Session1/dialog/EmoEvaluation"
    for path in (
        folder / "._Ses01F_impro01.txt",
        folder.parents[1] / "sentences/wav/Ses01F_impro01/._Ses01F_impro01_F000.wav",
    ):
        assert path.read_bytes().startswith(b"\x00\x05\x16\x07")
    for name in ("Attribute", "Categorical", "Self-evaluation"):
        texts = list((folder / name).glob("*.txt"))
        assert texts and not any(HEAD.search(path.read_text()) for path in texts)


def test_casia_names(corpora):
    root, count = corpora["casia"]
    assert count == 4 * 6 * 2
    speakers = {"ZhaoZuoxiang", "liuchanhg", "wangzhe", "zhaoquanyin"}
    assert {path.split("/")[0] for path in wavs(root)} == speakers
    assert {path.split("/")[1] for path in wavs(root)} == set(synthetic.CASIA)
    assert {path.split("/")[2] for path in wavs(root)} == {"201.wav", "202.wav"}


def test_emodb_names():
    for size in ("small", "full"):
        for utterance in synthetic.plan_corpus("emodb", size):
            assert re.fullmatch(r"wav/(03|08|09|1[0-6])(a0[12457]|b0[1239]|b10)[WLEAFTN][a-f]\.wav", utterance.path)


def test_ravdess_is_48_khz_with_stereo_and_extra_chunks(corpora):
    root, count = corpora["ravdess"]
    assert count == 192
    stereo, extra = 0, 0
    for path in wavs(root):
        assert re.fullmatch(r"Actor_(\d\d)/03-01-0[1-8]-0[12]-0[12]-0[12]-\1\.wav", path)
        with wave.open(str(root / path)) as file:  # a second reader agrees
            assert file.getframerate() == 48000 and file.getsampwidth() == 2
            raw = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        samples, _ = soundfile.read(root / path, dtype="int16")
        assert np.array_equal(raw, samples.ravel())
        stereo += samples.ndim == 2
        header = (root / path).read_bytes()[:44]
        extra += header[36:40] == b"LIST"
    assert 0 < stereo < 10 and 0 < extra < 10


def test_ravdess_full_has_no_strong_neutral():
    names = [Path(u.path).stem.split("-") for u in synthetic.plan_corpus("ravdess", "full")]
    assert not [name for name in names if name[2:4] == ["01", "02"]]
    assert set(Counter(name[6] for name in names).values()) == {60}


@pytest.mark.parametrize("layout", ["abc", "manifest"])
def test_manifests_name_every_file(corpora, layout):
    root, count = corpora[layout]
    with open(root / f"{layout}.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "emotion", "speaker"] and len(rows) == count
    assert sorted(row["path"] for row in rows) == wavs(root)
    assert all(row["path"].split("/")[1] == row["speaker"] for row in rows)
    if layout == "abc":
        assert {"aggressiv", "aggressive", "intoxicate", "intoxicated"} < {row["emotion"] for row in rows}
    else:
        seconds = [soundfile.info(root / row["path"]).duration for row in rows]
        assert 0.5 <= min(seconds) < 0.8 and max(seconds) <= 2.4


# ---------------------------------------------------------------------------- refusals


def test_an_existing_root_is_refused_and_an_empty_one_is_not(tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    synthetic.write_corpus("casia", root)
    kept = (root / "wangzhe/sad/201.wav").read_bytes()
    with pytest.raises(FileExistsError, match="corpus") as refusal:
        synthetic.write_corpus("manifest", root)
    assert "\n" not in str(refusal.value)
    assert (root / "wangzhe/sad/201.wav").read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_the_slower_of_two_writers_gives_way(monkeypatch, tmp_path):
    def write(utterance, root, seed):
        (tmp_path / "corpus").mkdir(exist_ok=True)
        (tmp_path / "corpus" / "first").write_text("here")

    monkeypatch.setattr(synthetic, "write_utterance", write)
    assert synthetic.write_corpus("casia", tmp_path / "corpus") == 48
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert [path.name for path in (tmp_path / "corpus").iterdir()] == ["first"]


def test_a_failure_leaves_nothing(monkeypatch, tmp_path):
    def write(utterance, root, seed):
        raise OSError("disk full")

    monkeypatch.setattr(synthetic, "write_utterance", write)
    with pytest.raises(OSError, match="disk full"):
        synthetic.write_corpus("casia", tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("timit", "small", 0), ("casia", "huge", 0), ("casia", "small", -1)])
def test_impossible_plans_are_refused(arguments):
    with pytest.raises(ValueError):
        synthetic.plan_corpus(*arguments)


def test_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, synthetic.__file__, "--layout", "casia", "--seed", "3", "--out", tmp_path / "corpus"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "48 usable utterances" in done.stdout.splitlines()[-1]
    assert len(wavs(tmp_path / "corpus")) == 48


@pytest.mark.parametrize(
    "arguments", ["--layout timit --out x", "--out x --seed -1", "--layout casia", "--out x --size huge", "--out ."]
)
def test_bad_arguments_end_with_one_line(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    with pytest.raises(SystemExit) as end:
        synthetic.main(arguments.split())
    printed = capsys.readouterr()
    assert end.value.code == 2 and not printed.out and len(printed.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
