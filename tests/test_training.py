"""What the training of a fold computes, and what it may and may not depend on.

The reference is a loop that can be read at a glance. Many folds and processes: tests/test_scheduler.py.
"""

import math
import shutil

import numpy as np
import pytest
import soundfile
import torch
from helpers import folder_of, log_of, outcome, run_train
from torch.nn.functional import cross_entropy

import features
import protocols
from common import config, runs
from training import checkpoints, data, trainer

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture(scope="module")
def manifest(corpus):
    return corpus / "small.csv"


@pytest.fixture
def copy(corpus, tmp_path):
    """A corpus that the test may change."""
    return shutil.copytree(corpus, tmp_path / "copied corpus ä")


def front_end_of(model):
    return features.FRONT_ENDS[config.PAPER_SETTINGS[model].front_end]


def load(root, model="tft"):
    """Data of a corpus on the CPU, through the front end of a model."""
    database = protocols.open_database(str(root / "small.csv"))
    return data.to_device(database, data.load_features(database, front_end_of(model)), "cpu")


def fold_trainer(loaded, model="tft-t+f", form="plain", **settings):
    """FoldTrainer of the second fold of a corpus."""
    train = protocols.make_folds(loaded.database)[1].train
    defaults = dict(model=model, seed=0, fold=2, lr=2e-3, batch_size=16, normalization="fold", precision="float32")
    settings = dict(defaults, front_end=front_end_of(model).as_settings(), **settings)
    return trainer.FoldTrainer(loaded, settings, train, form)


# ------------------------------------------------------------------------------------------ arithmetic


# Adam turns rounding into whole steps where a gradient is nothing but rounding: TFT's biases before batch norm
@pytest.mark.parametrize("model, lr, tolerance", [("atnn", 0.003, 1e-4), ("tft-t+f", 0.002, 2e-3)])
def test_training_follows_a_plain_loop(model, lr, tolerance, manifest, tmp_path):
    more = ["--model", model, "--epochs", 3, "--lr", lr, "--eval-every", 2, "--seed", 7]
    assert run_train(manifest, tmp_path, *more) == 0

    database = protocols.open_database(str(manifest))
    fold = protocols.make_folds(database)[1]
    front_end = front_end_of(model)
    clips = [features.extract(database.root / path, front_end)[0] for path in database.paths]
    x = torch.from_numpy(np.concatenate([clips[i] for i in fold.train]))[:, None]  # (n, 1, n_mels, frames)
    y = torch.tensor([database.labels[i] for i in fold.train for _ in clips[i]])
    mean, deviation = x.mean((0, 1, 3))[:, None], x.var((0, 1, 3), correction=0)[:, None].sqrt()
    network = trainer.make_model(dict(model=model, front_end=front_end.as_settings(), seed=7), 3, "cpu")
    network = network.to(memory_format=torch.contiguous_format)
    optimizer = torch.optim.Adam(network.parameters(), lr)
    losses = []
    for epoch in (1, 2, 3):
        parts = []
        generator = torch.Generator().manual_seed(7 * trainer.SEED_STRIDE + epoch)
        for index in torch.randperm(len(x), generator=generator).split(16):
            loss = cross_entropy(network((x[index] - mean) / deviation), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            parts.append(loss.item() * len(index))
        losses.append(sum(parts) / len(x))
    network.eval()
    with torch.no_grad():
        scores = [
            network((torch.from_numpy(clips[i])[:, None] - mean) / deviation).softmax(1).mean(0).numpy()
            for i in fold.test
        ]
    folder = folder_of(tmp_path, model, seed=7)
    log, result, evaluated = log_of(folder), runs.read_fold(folder), runs.read_epochs(folder)
    assert log[:, 0].tolist() == [1, 2, 3] and losses[2] < losses[0]
    np.testing.assert_allclose(log[:, 1], losses, atol=tolerance)
    np.testing.assert_allclose(result.scores, scores, atol=10 * tolerance)
    np.testing.assert_allclose(result.scores.sum(1), 1, atol=1e-5)
    assert evaluated["epochs"].tolist() == [2, 3]  # every second, and the last
    assert np.array_equal(evaluated["scores"][1], result.scores)
    assert not np.array_equal(evaluated["scores"][0], result.scores)


@pytest.mark.parametrize("model", ["tft", "atfnn"])
def test_the_same_command_gives_the_same_bits(model, manifest, tmp_path):
    for number in (1, 2):
        assert run_train(manifest, tmp_path / str(number), "--model", model) == 0
        torch.rand(7)  # random numbers that others draw do not matter
    assert outcome(folder_of(tmp_path / "1", model)) == outcome(folder_of(tmp_path / "2", model))


@pytest.mark.parametrize("model", ["tft", "atnn"])
def test_evaluation_on_the_test_speaker_changes_nothing(model, manifest, tmp_path):
    for eval_every in (0, 1):
        assert run_train(manifest, tmp_path / str(eval_every), "--model", model, "--eval-every", eval_every) == 0
    never, always = (outcome(folder_of(tmp_path / name, model)) for name in ("0", "1"))
    assert never[0] == always[0] and never[3] == always[3]  # predictions and weights


def test_a_seed_determines_the_weights_and_another_seed_gives_others(manifest, tmp_path):
    assert run_train(manifest, tmp_path, "--seed", "0-1") == 0
    scores = [runs.read_fold(folder_of(tmp_path, seed=seed)).scores for seed in (0, 1)]
    assert not np.array_equal(*scores)
    settings = dict(model="tft", front_end=features.FRONT_ENDS["tft"].as_settings())
    first, second, again = (
        next(trainer.make_model(dict(settings, seed=seed), 4, "cpu").parameters()) for seed in (0, 1, 0)
    )
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_the_double_softmax_by_hand():
    model = torch.nn.Linear(2, 2, bias=False)
    model.weight.data = torch.eye(2)
    x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    first, second = math.exp(2) / (math.exp(2) + 1), 1 / (1 + math.e)  # softmax of the true class
    by_hand = -sum(math.log(math.exp(p) / (math.exp(p) + math.exp(1 - p))) for p in (first, second)) / 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    assert trainer.train_step(model, optimizer, x, y, double_softmax=True).item() == pytest.approx(by_hand, rel=1e-6)
    assert trainer.train_step(model, optimizer, x, y) == cross_entropy(x, y)


@pytest.mark.parametrize("model", ["tft", "atfnn"])
def test_bfloat16_trains_in_bfloat16_and_scores_in_float32(model, corpus):
    loaded = load(corpus, model)
    precise, fast = (
        fold_trainer(loaded, model, form="cpu", precision=precision) for precision in ("float32", "bfloat16")
    )
    index = precise.segments[:16]
    losses = [part.step(index).item() for part in (precise, fast)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)
    test = protocols.make_folds(loaded.database)[1].test
    scores = fast.score(test)
    x = data.gather(loaded, fast.normalization, loaded.segments_of(test))
    fast.model.eval()
    for precision, is_same in (("float32", True), ("bfloat16", False)):
        with torch.inference_mode(), trainer.in_precision(x.device, precision):
            posteriors = fast.model(x).float().softmax(1).numpy()
        other = protocols.utterance_scores(posteriors, loaded.features.counts[test])
        assert (abs(scores - other).max() < 1e-6) == is_same


@pytest.mark.parametrize("model", ["tft", "atfnn"])
def test_a_checkpoint_gives_the_saved_scores_again(model, manifest, tmp_path):
    assert run_train(manifest, tmp_path, "--model", model) == 0
    folder = folder_of(tmp_path, model)
    used = checkpoints.load_model(folder, "cpu")
    loaded = load(manifest.parent, model)
    test = protocols.make_folds(loaded.database)[1].test
    again = data.score(used.network, loaded, used.normalization, test)
    assert np.array_equal(again, runs.read_fold(folder).scores)
    assert used.classes == ["angry", "happy", "sad"] and used.front_end == front_end_of(model)


# ------------------------------------------------------------------------------- order of segments


def test_the_order_of_segments_depends_on_seed_and_epoch_alone(corpus):
    loaded = load(corpus)

    def order(seed, epoch):
        fold = fold_trainer(loaded, seed=seed)
        fold.epoch = epoch
        return fold.next_order()

    torch.manual_seed(99)
    first = order(1, 2)
    assert (first.diff().abs() == 1).sum() < len(first) / 4  # neighbours in a recording are none in training
    torch.manual_seed(98)
    assert torch.equal(first, order(1, 2))
    assert not any(torch.equal(first, order(*other)) for other in ((1, 3), (2, 2), (0, 2)))


def test_each_training_segment_is_used_once_an_epoch_and_no_other(corpus, monkeypatch):
    loaded = load(corpus)
    fold, used, gather = fold_trainer(loaded), [], data.gather
    monkeypatch.setattr(trainer, "gather", lambda *arguments: used.append(arguments[2]) or gather(*arguments))
    losses = trainer.EagerRunner().run_epoch([fold])[fold]
    expected = loaded.segments_of(protocols.make_folds(loaded.database)[1].train)
    assert [len(part) for part in used] == fold.step_sizes and len(losses) == len(used) and fold.epoch == 1
    assert torch.cat(used).sort().values.equal(expected.sort().values)


# -------------------------------------------------------------------- independence of other speakers


@pytest.mark.parametrize("model, track", [("tft", "last"), ("tft", "validation"), ("atfnn", "last")])
def test_recordings_of_speakers_not_trained_on_change_no_weight(model, track, copy, tmp_path):
    def train(name):
        more = ["--model", model, "--track", track, "--fold", "S1", "--epochs", 1]
        assert run_train(copy / "small.csv", tmp_path / name, *more) == 0
        folder = folder_of(tmp_path / name, model, 1, track=track)
        return torch.load(folder / "checkpoint.pt", weights_only=True), runs.read_fold(folder).scores

    before, scores_before = train("before")
    others = {"S1", *before["settings"].get("held_out", ())}
    assert len(others) == (2 if track == "validation" else 1)
    generator = np.random.default_rng(0)
    for path in (path for name in others for path in (copy / "wav" / name).glob("*.wav")):
        soundfile.write(path, generator.uniform(-0.9, 0.9, soundfile.info(path).frames), 16_000)
    after, scores_after = train("after")
    assert not np.array_equal(scores_before, scores_after)
    for part, other in zip(before["normalization"], after["normalization"]):
        assert torch.equal(part, other)
    for name, value in before["model"].items():
        assert torch.equal(value, after["model"][name]), name


def test_statistics_from_a_tested_speaker_are_recorded(manifest, tmp_path, monkeypatch):
    """done.json lists the speakers by what was used, not by what was meant, so that an audit finds the fault."""
    honest = data.fit_normalization
    assert run_train(manifest, tmp_path / "honest") == 0
    monkeypatch.setattr(trainer, "fit_normalization", lambda loaded, kind, _: honest(loaded, kind, slice(None)))
    assert run_train(manifest, tmp_path / "wrong") == 0
    speakers = [runs.read_done(folder_of(tmp_path / name))["trained_on"] for name in ("honest", "wrong")]
    assert speakers == [["S1", "S3", "S4"], ["S1", "S2", "S3", "S4"]]


# ------------------------------------------------------------------------------------- normalisation


@pytest.mark.parametrize("kind", config.NORMALIZATIONS)
def test_normalization_matches_numpy(kind, corpus):
    loaded = load(corpus)
    train = protocols.make_folds(loaded.database)[0].train
    index = torch.arange(len(loaded.segments))
    normalization = data.fit_normalization(loaded, kind, loaded.segments_of(train))
    x = data.gather(loaded, normalization, index)[:, 0].numpy()  # (S, n_mels, frames)
    raw, owner = loaded.segments.numpy().astype(np.float64), loaded.utterance_of.numpy()
    speakers = loaded.database.speakers
    for segment in range(0, len(raw), 5):
        group = {
            "fold": np.isin(owner, train),
            "none": None,
            "segment": np.arange(len(raw)) == segment,
            "utterance": owner == owner[segment],
            "speaker": speakers[owner] == speakers[owner[segment]],
        }[kind]
        expected = raw[segment]
        if group is not None:
            values = raw[group].transpose(1, 0, 2).reshape(raw.shape[1], -1)  # (n_mels, frames of the group)
            expected = (expected - values.mean(1)[:, None]) / np.sqrt(values.var(1) + 1e-8)[:, None]
        np.testing.assert_allclose(x[segment], expected, atol=2e-3)  # float32 of values around -14 to 10
    trained = set(normalization.learned_from.tolist())
    assert trained == (set(train.tolist()) if kind == "fold" else set())


def test_a_speakers_statistics_depend_on_its_own_recordings_and_on_no_label(copy):
    def fit():
        loaded = load(copy)
        offset, scale, _ = data.fit_normalization(loaded, "speaker", None)
        return loaded.database.speakers[loaded.utterance_of.numpy()], offset, scale

    speaker_of, *before = fit()
    soundfile.write(copy / "wav/S1/sad_01.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000)
    speaker_now, *after = fit()
    for old, new in zip(before, after):
        for speaker in ("S1", "S2", "S3", "S4"):
            rows = new[speaker_now == speaker]
            assert torch.equal(old[speaker_of == speaker][0], rows[0]) == (speaker != "S1")
            assert torch.equal(rows, rows[:1].expand_as(rows))  # the same for all recordings of a speaker
    manifest = copy / "small.csv"
    text = manifest.read_text()
    manifest.write_text(text.replace(",sad,", ",x,").replace(",happy,", ",sad,").replace(",x,", ",happy,"))
    assert manifest.read_text() != text
    for old, new in zip(after, fit()[1:]):
        assert torch.equal(old, new)


# ------------------------------------------------------------------------------------------- dropout


def test_dropout_masks_depend_on_seed_fold_and_epoch_and_leave_the_generator_alone(corpus):
    loaded = load(corpus, "atnn")

    def draw(seed, fold, epoch):
        part = fold_trainer(loaded, "atnn", seed=seed, fold=fold, dropout=0.5)
        part.epoch = epoch
        with part.seeded_epoch():
            return tuple(torch.rand(4).tolist())

    torch.manual_seed(5)
    state = torch.get_rng_state()
    cases = [(0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1)]
    masks = [draw(*case) for case in cases]
    assert torch.equal(torch.get_rng_state(), state)
    assert len(set(masks)) == 4 and masks == [draw(*case) for case in cases]
