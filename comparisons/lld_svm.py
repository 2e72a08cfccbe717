"""LLDs+SVM: 6552 functionals of low-level descriptors and a linear support vector machine.

Schuller, Vlasenko, Eyben, Rigoll, Wendemuth, ASRU 2009, doi 10.1109/ASRU.2009.5372886: features, pairwise SVM with a
polynomial kernel and a balanced training set are the paper's. Degree, C and the means of balancing are not stated:
linear, 0.01, without effect from there up, and class weights here. Its printed results use speaker statistics, the
tested speaker's included: `--normalization speaker`.
"""

from comparisons import classifiers

DESCRIPTORS = "openear"
SETTINGS = dict(normalization="fold")
SEEDED = False
PUBLISHED = ("LLDs+SVM",)
EXTENT = "most"
NOTE = "the published figure uses statistics of the tested speaker, and a balanced training set"


def fit(x, labels, classes, seed):
    """Train on vectors x (n, 6552); the seed is not used."""
    return classifiers.fit_svm(x, labels, classes), classes


def scores(model, x):
    """Scores (n, classes) of vectors x (n, 6552)."""
    weights, classes = model
    return classifiers.svm_scores(weights, x, classes)
