"""RGSR-LPDA: spectral regression of a kernel map onto the virtual coordinates of a graph of classes.

The letters stand in ATFNN's Table II without a source; most likely Xu, Deng, Coutinho, Wu, Zhao, Schuller, IEEE Trans.
Multimedia (2018), doi 10.1109/TMM.2018.2865834. Its abstract has the three stages: a data mapping, a graph that gives
virtual coordinates, regression from the mapping to the coordinates. All settings of the three, features and classifier
are ours.
"""

import numpy as np
from scipy.linalg import eigh

from comparisons import classifiers

DESCRIPTORS = "openear"
SETTINGS = dict(normalization="fold")
SEEDED = True
PUBLISHED = ("RGSR-LPDA",)
EXTENT = "reading"
NOTE = "our reading of an abstract; published on 4 training and 2 test speakers, not leave-one-speaker-out"

ANCHORS = 300  # random training utterances
NEIGHBOURS = 10  # nearest utterances of other classes
RIDGE = 0.01  # of the mean variance of the mapped numbers


def fit(x, labels, classes, seed):
    """Train on vectors x (n, D)."""
    rng = np.random.default_rng(seed)
    anchors = x[rng.choice(len(x), min(ANCHORS, len(x)), replace=False)]
    mapped = kernel_map(x, anchors)  # (n, anchors)
    mean = mapped.mean(0)
    centred = mapped - mean
    square = centred.T @ centred / len(x)
    square += RIDGE * square.trace() / len(square) * np.eye(len(square))
    target = virtual_coordinates(x, labels, classes)[labels]  # (n, classes - 1)
    projection = classifiers.Projection(mean, np.linalg.solve(square, centred.T @ target / len(x)))
    return anchors, projection, classifiers.class_means(projection(mapped), labels, classes)


def scores(model, x):
    """Scores (n, classes) of vectors x (n, D)."""
    anchors, projection, means = model
    return classifiers.nearest_mean_scores(means, projection(kernel_map(x, anchors)))


def kernel_map(x, anchors):
    """Gaussian kernel of vectors (n, D) and anchors (m, D) -> (n, m); width D, the spread of z-scores."""
    return np.exp(-classifiers.square_distances(x, anchors) / x.shape[1])


def virtual_coordinates(x, labels, classes):
    """Coordinates of the classes (classes, classes - 1): generalised eigenvectors of their graph's Laplacian.

    The weight between two classes is the product of their shares of the utterances, plus the share of the second
    among the nearest utterances of other classes of the first, averaged over both directions. A large weight puts the
    classes far from each other. With the Laplacian L of the weights and the shares S the coordinates C fulfil
    C C' = S^-1 L S^-1.
    """
    target = classifiers.indicators(labels, classes)
    share = target.mean(0)  # (classes,)
    distances = classifiers.square_distances(x, x)
    distances[labels[:, None] == labels] = np.inf
    nearest = distances.argsort(1)[:, :NEIGHBOURS]
    local = target.T @ target[nearest].mean(1) / target.sum(0)[:, None]  # (classes, classes), rows sum to 1
    weights = np.outer(share, share) + (local + local.T) / 2
    np.fill_diagonal(weights, 0)
    values, vectors = eigh(np.diag(weights.sum(1)) - weights, np.diag(share))  # ascending, the first is 0
    return vectors[:, 1:] * np.sqrt(values[1:])
