"""Nearest class mean after PCA and LDA of the 384 numbers of INTERSPEECH 2009: LLD+DR with the simplest classifier.

Features and reduction are those of `ga_bel.py`; the classifier is ours, as a reference for what GA-BEL adds to them.
"""

from comparisons import classifiers

DESCRIPTORS = "is09"
SETTINGS = dict(normalization="fold")
SEEDED = False
PUBLISHED = ()
EXTENT = "reading"
NOTE = "features and reduction of LLD+DR with a nearest class mean, a reference of ours"


def fit(x, labels, classes, seed):
    """Train on vectors x (n, 384); the seed is not used."""
    projection = classifiers.fit_pca_lda(x, labels, classes)
    return projection, classifiers.class_means(projection(x), labels, classes)


def scores(model, x):
    """Scores (n, classes) of vectors x (n, 384)."""
    projection, means = model
    return classifiers.nearest_mean_scores(means, projection(x))
