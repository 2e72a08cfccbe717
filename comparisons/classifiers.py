"""Classifiers of the comparison methods, with numpy and scipy: each a `fit_...` and a `..._scores`.

x (n, D) are normalised utterance vectors, labels (n,) class numbers; scores are (n, classes), not negative, rows sum
to 1, the largest is the predicted class. All settings are constants: none was chosen on results.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh
from scipy.special import expit, logsumexp, softmax


def indicators(labels, classes):
    """Class indicators (n, classes) of labels (n,)."""
    return np.eye(classes)[labels]


# ------------------------------------------------------------------------------- support vector machine


SVM_C = 0.01
SVM_PASSES = 200  # over all utterances of a pair, at most
SVM_TOLERANCE = 1e-3  # largest violation of the optimality conditions in a pass


def solve_svm(gram, signs, box, rng):
    """Dual variables (m,) of a linear SVM with hinge loss: Gram matrix (m, m), signs +-1 (m,), upper bounds (m,).

    Dual coordinate descent: Hsieh et al., ICML 2008, algorithm 1, on the Gram matrix.
    """
    quadratic = gram * np.outer(signs, signs)
    alpha, gradient = np.zeros(len(signs)), -np.ones(len(signs))
    for _ in range(SVM_PASSES):
        violation = 0.0
        for i in rng.permutation(len(signs)):
            updated = min(max(alpha[i] - gradient[i] / quadratic[i, i], 0.0), box[i])
            change = updated - alpha[i]
            if change:
                violation = max(violation, abs(change) * quadratic[i, i])
                gradient += change * quadratic[i]
                alpha[i] = updated
        if violation < SVM_TOLERANCE:
            break
    return alpha


def fit_svm(x, labels, classes, C=SVM_C):
    """Linear SVM, one against one: weights (pairs, D + 1), the last of a constant input of 1, penalised like the rest.

    The upper bound of an utterance of class k is C n / (classes n_k), to balance the training set without a seed.
    """
    counts = np.bincount(labels, minlength=classes)
    x = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    gram, rng = x @ x.T, np.random.default_rng(0)  # a fixed permutation: no seed
    weights = []
    for first, second in combinations(range(classes), 2):
        rows = np.flatnonzero((labels == first) | (labels == second))
        signs = np.where(labels[rows] == first, 1.0, -1.0)
        alpha = solve_svm(gram[np.ix_(rows, rows)], signs, C * len(x) / (classes * counts[labels[rows]]), rng)
        weights.append((alpha * signs) @ x[rows])
    return np.array(weights)


def svm_scores(weights, x, classes):
    """Scores (n, classes) of x (n, D): votes of the pairs; tanh of the margins, a thousandth of a vote, breaks ties."""
    margins = x @ weights[:, :-1].T + weights[:, -1]  # (n, pairs)
    votes = np.zeros((len(x), classes))
    for margin, (first, second) in zip(margins.T, combinations(range(classes), 2)):
        votes[:, first] += (margin > 0) + (1 + np.tanh(margin)) / 2000
        votes[:, second] += (margin <= 0) + (1 - np.tanh(margin)) / 2000
    return votes / votes.sum(1, keepdims=True)


# --------------------------------------------------------- principal components, discriminants, class means


PCA_SHARE = 0.95  # of the variance
LDA_RIDGE = 0.001  # of the mean within-class variance


class Projection(NamedTuple):
    """Linear map of vectors: (n, D) -> (n, d)."""

    mean: np.ndarray  # (D,)
    matrix: np.ndarray  # (D, d)

    def __call__(self, x):
        return (x - self.mean) @ self.matrix


def fit_pca(x, share=PCA_SHARE):
    """Projection onto the fewest principal components with `share` of the variance."""
    mean = x.mean(0, dtype=np.float64)
    _, singular, components = np.linalg.svd(x - mean, full_matrices=False)
    number = 1 + np.searchsorted(np.cumsum(singular**2) / np.sum(singular**2), share)
    return Projection(mean, components[:number].T)


def fit_lda(x, labels, classes, ridge=LDA_RIDGE):
    """Projection onto the classes - 1 directions of the largest between-class to within-class scatter.

    Within a class the projected training vectors have unit covariance.
    """
    target = indicators(labels, classes)
    counts = target.sum(0)
    means = (target.T @ x) / counts[:, None]  # (classes, D)
    mean = x.mean(0, dtype=np.float64)
    residual, offset = x - means[labels], (means - mean) * np.sqrt(counts / len(x))[:, None]
    within = residual.T @ residual / len(x)
    within += (ridge * within.trace() / len(within) + 1e-12) * np.eye(len(within))
    _, vectors = eigh(offset.T @ offset, within)  # ascending
    return Projection(mean, vectors[:, ::-1][:, : classes - 1])


def fit_pca_lda(x, labels, classes):
    """PCA, then LDA, as a single Projection."""
    pca = fit_pca(x)
    lda = fit_lda(pca(x), labels, classes)  # the components of the training vectors have mean 0
    return Projection(pca.mean, pca.matrix @ lda.matrix)


def square_distances(a, b):
    """Squared Euclidean distances of vectors (n, D) and (m, D) -> float64 (n, m)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (np.square(a).sum(1)[:, None] - 2 * a @ b.T + np.square(b).sum(1)).clip(0)


def class_means(x, labels, classes):
    """Mean vector of each class (classes, D)."""
    target = indicators(labels, classes)
    return target.T @ x / target.sum(0)[:, None]


def nearest_mean_scores(means, x):
    """Posteriors of Gaussians of unit covariance around the class means (classes, D)."""
    return softmax(-square_distances(x, means) / 2, axis=1)


# ------------------------------------------------------------- brain emotional learning, genetic algorithm


POPULATION, GENERATIONS = 60, 200
CROSSOVER, BLEND = 0.8, 0.25  # probability; share of the parents' distance by which a child may exceed them
MUTATION, MUTATION_WIDTH = 0.05, 0.5  # share of the genes; first standard deviation, falls to 0


def bel_inputs(s):
    """Inputs of brain emotional learning: stimuli (n, d) in 0..1, their maximum (the thalamus), 1 -> (n, d + 2)."""
    return np.column_stack([s, s.max(1), np.ones(len(s))])


def fit_ga_bel(s, labels, classes, seed):
    """Brain emotional learning tuned by a genetic algorithm: weights (d + 2, classes) of `bel_inputs`.

    Class k has the output sum_i (v_ki - w_ki) s_i + v_k,th max_i s_i + b_k: amygdala minus orbitofrontal cortex. Its
    genes are v, w, v_th and b, its fitness the squared error to the class indicator, computed from second moments. No
    gene acts on two classes, so each class has a population of its own.
    """
    inputs, d = bel_inputs(s), s.shape[1]
    square, cross = inputs.T @ inputs / len(s), indicators(labels, classes).T @ inputs / len(s)
    rng = np.random.default_rng(seed)

    def weights_of(genes):  # (classes, P, 2 d + 2) -> (classes, P, d + 2)
        return np.concatenate([genes[..., :d] - genes[..., d : 2 * d], genes[..., 2 * d :]], -1)

    def error_of(genes):  # (classes, P), without the constant term
        weights = weights_of(genes)
        return (weights * (weights @ square - 2 * cross[:, None])).sum(-1)

    class_index = np.arange(classes)[:, None]
    genes = rng.uniform(-1, 1, (classes, POPULATION, 2 * d + 2))
    for generation in range(GENERATIONS):
        error = error_of(genes)
        best = genes[class_index[:, 0], error.argmin(1)]
        rivals = rng.integers(POPULATION, size=(2, 2, classes, POPULATION))  # (parent, rival, classes, P)
        first, second = rivals[:, 0], rivals[:, 1]
        winners = np.where(error[class_index, first] < error[class_index, second], first, second)
        mother, father = genes[class_index, winners]
        share = rng.uniform(-BLEND, 1 + BLEND, genes.shape)
        crossed = rng.random((classes, POPULATION, 1)) < CROSSOVER
        genes = np.where(crossed, mother + share * (father - mother), mother)
        width = MUTATION_WIDTH * (1 - generation / GENERATIONS)
        genes += (rng.random(genes.shape) < MUTATION) * rng.normal(0, width, genes.shape)
        genes[:, 0] = best
    return weights_of(genes[class_index[:, 0], error_of(genes).argmin(1)][:, None])[:, 0].T


def bel_scores(weights, s):
    """Softmax of the outputs of brain emotional learning: weights (d + 2, classes), stimuli (n, d)."""
    return softmax(bel_inputs(s) @ weights, axis=1)


# ------------------------------------------------------------------------------- Gaussian mixture


GAUSSIANS, EM_STEPS, KMEANS_STEPS = 64, 15, 10
VARIANCE_FLOOR = 0.01  # of unit variance


class Mixture(NamedTuple):
    """Mixture of Gaussians with diagonal covariances."""

    log_weights: np.ndarray  # (G,)
    means: np.ndarray  # (G, D)
    variances: np.ndarray  # (G, D)

    def log_densities(self, frames):
        """Log of weight times density of each Gaussian at frames (T, D) -> (T, G), by two matrix products."""
        precision = 1 / self.variances
        constant = self.log_weights - (np.log(2 * np.pi * self.variances) + self.means**2 * precision).sum(1) / 2
        return frames @ (self.means * precision).T - np.square(frames) @ (precision.T / 2) + constant

    def log_likelihood(self, frames):
        """Log-likelihood of each frame (T, D) -> (T,)."""
        return logsumexp(self.log_densities(frames), axis=1)


def fit_mixture(frames, seed, gaussians=GAUSSIANS, steps=EM_STEPS):
    """Mixture of frames (T, D) by expectation maximisation, started by k-means.

    Also returns the mean log-likelihood of a frame before each step (it rises).
    """
    rng = np.random.default_rng(seed)
    means = frames[rng.choice(len(frames), min(gaussians, len(frames)), replace=False)]
    for _ in range(KMEANS_STEPS):
        nearest = (np.square(means).sum(1) - 2 * frames @ means.T).argmin(1)
        members = np.eye(len(means), dtype=frames.dtype)[nearest]  # (T, G)
        mixture = mixture_of(frames, members, means)
        means = mixture.means
    likelihoods = []
    for _ in range(steps):
        joint = mixture.log_densities(frames)
        total = logsumexp(joint, axis=1, keepdims=True)
        likelihoods.append(total.mean(dtype=np.float64))
        mixture = mixture_of(frames, np.exp(joint - total), mixture.means)
    return mixture, likelihoods


def mixture_of(frames, shares, means):
    """Mixture that the shares (T, G) of the frames describe; a Gaussian without frames stays at its mean."""
    counts = shares.sum(0)[:, None]
    safe = np.maximum(counts, 1e-3)
    means = np.where(counts > 1e-3, shares.T @ frames / safe, means)
    variances = shares.T @ np.square(frames) / safe - means**2
    log_weights = np.log(safe[:, 0] / safe.sum())
    return Mixture(log_weights, means, np.maximum(variances, VARIANCE_FLOOR))


# ------------------------------------------------------------------------------- extreme learning machine


ELM_HIDDEN, ELM_C = 120, 1.0


class ExtremeLearningMachine(NamedTuple):
    """A random hidden layer of sigmoids and linear outputs: (n, D) -> (n, classes), about -1 to 1."""

    hidden: np.ndarray  # (D, hidden) random weights
    bias: np.ndarray  # (hidden,) random
    output: np.ndarray  # (hidden, classes)

    def activations(self, x):
        """Outputs of the hidden layer: (n, D) -> (n, hidden)."""
        return expit(x @ self.hidden + self.bias)

    def __call__(self, x):
        return self.activations(x) @ self.output


def fit_elm(x, labels, classes, seed, hidden=ELM_HIDDEN):
    """Extreme learning machine on z-scored x: the output weights by ridge regression on class indicators of +-1.

    Huang, Zhou, Ding, Zhang, IEEE Trans. Systems, Man, and Cybernetics B 42 (2012).
    """
    rng, limit = np.random.default_rng(seed), np.sqrt(3 / x.shape[1])  # x @ weights has variance 1
    elm = ExtremeLearningMachine(rng.uniform(-limit, limit, (x.shape[1], hidden)), rng.uniform(-1, 1, hidden), None)
    h = elm.activations(x)
    output = np.linalg.solve(h.T @ h + np.eye(hidden) / ELM_C, h.T @ (2 * indicators(labels, classes) - 1))
    return elm._replace(output=output)
