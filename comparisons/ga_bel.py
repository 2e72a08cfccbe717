"""LLD+DR, or GA-BEL: IS09 features, PCA and LDA, brain emotional learning tuned by a genetic algorithm.

Liu, Xie, Wu, Cao, Mei, Mao, Neurocomputing (2018), doi 10.1016/j.neucom.2018.05.005. Only the abstract could be read:
the 384 numbers, PCA+LDA as a reduction, the amygdala-orbitofrontal model and the genetic algorithm are its own; the
equations, all sizes of the algorithm and the scaling of the stimuli are ours. The abstract's highest figure for CASIA
is 38.55.
"""

import numpy as np

from comparisons import classifiers

DESCRIPTORS = "is09"
SETTINGS = dict(normalization="fold")
SEEDED = True
PUBLISHED = ("GA-BEL", "LLD+DR")
EXTENT = "reading"
NOTE = "our reading of an abstract that has 38.55 as its highest speaker-independent figure of CASIA"


def fit(x, labels, classes, seed):
    """Train on vectors x (n, 384)."""
    projection = classifiers.fit_pca_lda(x, labels, classes)
    reduced = projection(x)
    low, width = reduced.min(0), np.maximum(np.ptp(reduced, 0), 1e-12)
    return projection, low, width, classifiers.fit_ga_bel((reduced - low) / width, labels, classes, seed)


def scores(model, x):
    """Scores (n, classes) of vectors x (n, 384)."""
    projection, low, width, weights = model
    stimuli = ((projection(x) - low) / width).clip(0, 1)
    return classifiers.bel_scores(weights, stimuli)
