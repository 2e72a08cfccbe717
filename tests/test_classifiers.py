"""Normalisation, classifiers and methods of comparisons/."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from comparisons import classifiers, normalize

TEXTS = {path.stem: path.read_text() for path in sorted(Path(classifiers.__file__).parent.glob("*.py"))}
METHODS = [name for name, text in TEXTS.items() if '\nDESCRIPTORS = "' in text]  # fitted at once, on vectors or frames
ON_VECTORS = [name for name in METHODS if '\nDESCRIPTORS = "mfcc' not in TEXTS[name]]
SIZES = {"openear": 40, "is09": 40, "hu": 40, "band_statistics": 40, "mfcc39": 39, "mfcc_pitch_hnr": 30}  # vectors are shortened


def three_classes(rng, n=60, size=40, frames=False):
    """Vectors (n, size), or n arrays of frames, and labels (n,); class k has the larger k-th number."""
    labels = np.arange(n) % 3
    x = rng.normal(0, 1, (n, 40, size) if frames else (n, 1, size)).astype(np.float32)
    x[..., :3] += 4 * np.eye(3)[labels][:, None]
    return (list(x) if frames else x[:, 0]), labels


# ------------------------------------------------------------------------------------------- normalize


def test_fold_statistics_are_those_of_the_training_utterances():
    rng = np.random.default_rng(0)
    x, train = rng.normal(3, 5, (20, 4)).astype(np.float32), np.arange(15)
    x[:, 2] = 7
    z = normalize.normalize(x, "fold", train, np.zeros(20))
    assert z[:15, [0, 1, 3]] == pytest.approx(stats.zscore(x[:15, [0, 1, 3]]), abs=1e-5)
    assert not z[:, 2].any() and z.dtype == np.float32
    frames = normalize.normalize([row[None] for row in x], "fold", train, np.zeros(20))
    assert np.array_equal(np.concatenate(frames), z)
    assert normalize.normalize(np.append(x, [[1e6] * 4], 0), "fold", train, np.zeros(21))[-1].max() == normalize.LIMIT


def test_only_speaker_statistics_see_the_other_recordings_of_a_tested_speaker():
    rng = np.random.default_rng(1)
    x, speakers = rng.normal(0, 1, (12, 3)), np.repeat(["a", "b", "c"], 4)
    changed = x.copy()
    changed[9:] += 100  # tested: 8 to 11
    moved = {
        kind: (normalize.normalize(x, kind, np.arange(8), speakers)[8]
               != normalize.normalize(changed, kind, np.arange(8), speakers)[8]).any()
        for kind in ("fold", "speaker", "none")
    }  # fmt: skip
    assert moved == {"fold": False, "speaker": True, "none": False}
    x, changed = ([row.reshape(3, 1) for row in rows] for rows in (x, changed))
    before, after = (normalize.normalize(rows, "utterance", np.arange(8), speakers) for rows in (x, changed))
    assert np.array_equal(before[8], after[8]) and before[8].mean() == pytest.approx(0, abs=1e-6)


def test_speaker_statistics_are_of_each_speaker():
    x, speakers = np.random.default_rng(2).normal(0, 1, (10, 3)), np.array([*"aabbbabbaa"])
    z = normalize.normalize(x, "speaker", np.arange(3), speakers)
    for speaker in "ab":
        assert z[speakers == speaker] == pytest.approx(stats.zscore(x[speakers == speaker]), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "speakers", "text"), [("speaker", "aab", "b has one"), ("utterance", "aaa", "vector"), ("x", "aaa", "use")]
)
def test_statistics_that_do_not_exist_are_refused(kind, speakers, text):
    with pytest.raises(ValueError, match=text):
        normalize.normalize(np.ones((3, 2), np.float32), kind, [0, 1], [*speakers])


# ----------------------------------------------------------------------------------------- classifiers


def test_svm_of_two_points_has_its_known_solution():
    gram, rng = np.array([[5.0, -3.0], [-3.0, 5.0]]), np.random.default_rng(0)  # points 2 and -2, constant 1
    # alpha minimises 4 (a + b)^2 / 2 + (a - b)^2 / 2 - a - b: a = b = 1/8, weight 2 (a + b) = 1/2, margins 1
    assert classifiers.solve_svm(gram, np.array([1.0, -1.0]), np.ones(2), rng) == pytest.approx(1 / 8, abs=1e-3)
    assert classifiers.solve_svm(gram, np.array([1.0, -1.0]), np.full(2, 0.1), rng) == pytest.approx(0.1)
    weights = classifiers.fit_svm(np.array([[2.0], [-2.0]]), np.array([0, 1]), 2, C=1)
    assert weights[0] == pytest.approx([0.5, 0], abs=2e-3)


def test_svm_weights_balance_the_classes():
    x, labels = np.array([[1.0], [-1.0], [-1.0], [-1.0]]), np.array([0, 1, 1, 1])
    repeated = classifiers.fit_svm(np.repeat(x, [3, 1, 1, 1], 0), np.repeat(labels, [3, 1, 1, 1]), 2)
    assert classifiers.fit_svm(x, labels, 2) * 6 / 4 == pytest.approx(repeated, rel=1e-2)  # boxes of C n / (K n_k)


def test_lda_of_two_gaussians_is_the_direction_between_them_in_units_of_a_class():
    rng = np.random.default_rng(0)
    root, labels = np.array([[2.0, 0.0], [1.5, 0.5]]), np.arange(4000) % 2
    x = rng.normal(size=(4000, 2)) @ root.T + np.outer(labels, [1.0, -1.0])
    projection = classifiers.fit_lda(x, labels, 2, ridge=0)
    expected = np.linalg.solve(root @ root.T, [1.0, -1.0])
    direction = projection.matrix[:, 0] * np.sign(projection.matrix[0, 0])
    assert direction / np.linalg.norm(direction) == pytest.approx(expected / np.linalg.norm(expected), abs=0.02)
    assert projection(x)[labels == 0].std() == pytest.approx(1, abs=0.03)
    assert projection(x).mean() == pytest.approx(0, abs=1e-9)


def test_pca_keeps_its_share_of_the_variance():
    x = np.random.default_rng(0).normal(size=(300, 6)) * [5, 4, 3, 0.5, 0.1, 0.1]
    reduced = classifiers.fit_pca(x, 0.95)(x)
    assert reduced.shape[1] == 3 and reduced.var(0).sum() >= 0.95 * x.var(0).sum()
    assert classifiers.fit_pca(x, 1.0)(x).shape[1] == 6


def test_mixture_density_is_that_of_scipy_and_em_raises_the_likelihood():
    rng = np.random.default_rng(0)
    frames = np.concatenate([rng.normal(m, s, (200, 2)) for m, s in ((0, 1), (4, 0.5), (-3, 2))])
    mixture, likelihoods = classifiers.fit_mixture(frames, seed=0, gaussians=4, steps=20)
    assert (np.diff(likelihoods) > -1e-9).all() and likelihoods[-1] > likelihoods[0]
    expected = sum(
        np.exp(weight) * stats.multivariate_normal(mean, np.diag(variance)).pdf(frames)
        for weight, mean, variance in zip(*mixture)
    )
    assert mixture.log_likelihood(frames) == pytest.approx(np.log(expected))
    assert np.exp(mixture.log_weights).sum() == pytest.approx(1)


def test_genetic_algorithm_comes_close_to_least_squares_and_repeats():
    rng = np.random.default_rng(0)
    s, labels = rng.random((200, 3)), rng.integers(0, 3, 200)
    s[:, 0] = (s[:, 0] + labels) / 3
    first, again, other = (classifiers.fit_ga_bel(s, labels, 3, seed) for seed in (5, 5, 6))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    inputs, target = classifiers.bel_inputs(s), np.eye(3)[labels]
    best = np.square(inputs @ np.linalg.lstsq(inputs, target)[0] - target).sum()
    assert best <= np.square(inputs @ first - target).sum() < 1.05 * best


def test_extreme_learning_machine_is_ridge_regression_on_its_hidden_layer():
    x, labels = three_classes(np.random.default_rng(0))
    elm = classifiers.fit_elm(x, labels, 3, seed=0, hidden=10)
    h, error = elm.activations(x), elm(x) - (2 * np.eye(3)[labels] - 1)
    assert h.T @ error + elm.output / classifiers.ELM_C == pytest.approx(0, abs=1e-6)  # the gradient


# --------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("name", METHODS)
def test_a_method_learns_repeats_and_gives_distributions(name):
    method, rng = importlib.import_module(f"comparisons.{name}"), np.random.default_rng(0)
    size, frames = SIZES[method.DESCRIPTORS], method.DESCRIPTORS.startswith("mfcc")
    x, labels = three_classes(rng, 60, size, frames)
    unseen, true = three_classes(rng, 30, size, frames)
    first, again = (method.scores(method.fit(x, labels, 3, seed=1), unseen) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (30, 3) and first.dtype == np.float64 and (first >= 0).all()
    assert first.sum(1) == pytest.approx(1)
    assert (first.argmax(1) == true).mean() > 0.8
    if not method.SEEDED:
        assert np.array_equal(first, method.scores(method.fit(x, labels, 3, seed=2), unseen))
    assert method.EXTENT in ("full", "most", "reading") or not method.PUBLISHED
    assert method.NOTE and "\n" not in method.NOTE
    assert method.SETTINGS["normalization"] in normalize.NORMALIZATIONS


def test_the_linear_reference_is_ridge_regression_with_a_free_constant():
    method = importlib.import_module("comparisons.linear")
    x, labels = three_classes(np.random.default_rng(0), size=5)
    rows = np.column_stack([x + 3, np.ones(60)]), np.sqrt(method.PENALTY) * np.eye(5, 6)  # a row for each weight
    targets = np.vstack([np.eye(3)[labels], np.zeros((5, 3))])
    expected = np.linalg.lstsq(np.vstack(rows), targets)[0]
    assert method.fit(x + 3, labels, 3, seed=0) == pytest.approx(expected, abs=1e-6)


def test_a_class_of_the_mixtures_counts_by_its_share():
    rng, method = np.random.default_rng(0), importlib.import_module("comparisons.lld_gmm")
    x = [rng.normal(0, 1, (50, 2)).astype(np.float32) for _ in range(5)]
    mixtures, log_priors = model = method.fit(x, np.array([0, 0, 0, 0, 1]), 2, seed=0)
    assert np.exp(log_priors) == pytest.approx([0.8, 0.2])
    joint = [mixture.log_likelihood(x[0][:3]).sum() + prior for mixture, prior in zip(mixtures, log_priors)]
    scores = np.exp(np.array(joint) / 3)
    assert method.scores(model, [x[0][:3]])[0] == pytest.approx(scores / scores.sum(), rel=1e-4)


def test_the_loudest_tenth_of_the_segments_is_used():
    method = importlib.import_module("comparisons.dnn_elm")
    rising = np.random.default_rng(0).normal(0, 1, (104, 30)).astype(np.float32)
    rising[:, method.LOG_ENERGY] = np.arange(104)
    windows, rows, counts = method.loudest_windows([rising, rising[:10]])
    assert counts.tolist() == [8, 1]
    for number, window in enumerate(windows[rows[:8]].numpy()):  # the last 8 of 80
        assert np.array_equal(window.T, rising[72 + number : 97 + number])


def test_virtual_coordinates_of_two_classes():
    method = importlib.import_module("comparisons.rgsr_lpda")
    x, labels = np.random.default_rng(0).normal(0, 1, (40, 3)), np.arange(40) // 30  # shares of 3/4 and 1/4
    first, second = method.virtual_coordinates(x, labels, 2)[:, 0]
    weight = 3 / 16 + 1  # the nearest of another class are all of the other
    # C C' = S^-1 L S^-1
    assert (first**2, second**2, first * second) == pytest.approx((weight * 16 / 9, weight * 16, -weight * 16 / 3))


@pytest.mark.parametrize("name", ON_VECTORS)
def test_labels_without_relation_to_the_vectors_give_chance(name):
    method, rng = importlib.import_module(f"comparisons.{name}"), np.random.default_rng(0)
    x, unseen = rng.normal(0, 1, (2, 600, 40)).astype(np.float32)
    labels, true = rng.permutation(np.arange(600) % 3), np.arange(600) % 3
    correct = method.scores(method.fit(x, labels, 3, seed=0), unseen).argmax(1) == true
    assert correct.mean() == pytest.approx(1 / 3, abs=0.08)  # 4 standard errors
