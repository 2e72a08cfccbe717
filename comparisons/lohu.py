"""HuWSF, or LoHu: functionals of a cepstrum that Hu moments weight, and a linear support vector machine.

Sun, Wen, Wang, Biomedical Signal Processing and Control (2015). Only the abstract could be read: "local regions of the
spectrogram" and "weighted spectral features" are its words; the region of 5 x 5 cells, the first moment, the 26 Mel
bands, the functionals and the classifier are ours.
"""

from comparisons import classifiers

DESCRIPTORS = "hu"
SETTINGS = dict(normalization="fold")
SEEDED = False
PUBLISHED = ("LoHu", "HuWSF")
EXTENT = "reading"
NOTE = "our reading of an abstract: region, moment, functionals and classifier are ours"


def fit(x, labels, classes, seed):
    """Train on vectors x (n, 416); the seed is not used."""
    return classifiers.fit_svm(x, labels, classes), classes


def scores(model, x):
    """Scores (n, classes) of vectors x (n, 416)."""
    weights, classes = model
    return classifiers.svm_scores(weights, x, classes)
