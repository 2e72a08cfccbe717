"""Recordings with the same samples in files of other bytes: another format, header or bit depth.

    prints = np.array([fingerprint(samples) for samples in recordings], FINGERPRINT)
    same = group(prints, lambda i: recordings[i].wave)       # (N,) the first recording with the samples of each

Two files hold the same samples where these differ by rounding alone: by no more than TOLERANCE levels of the coarser
file. Candidates have equal rates and lengths and about the same envelope; then their samples decide.
"""

import hashlib

import numpy as np

BLOCKS = 8  # parts of a recording; the highest and the lowest sample of each are its envelope
TOLERANCE = 2  # levels of the coarser file: it was truncated, rounded, or rounded with dither
AUDIBLE = 8  # levels; a recording that stays below is compared by its exact samples alone
LIKENESS = 0.8  # correlation of the samples; those of different recordings are near 0
FINGERPRINT = np.dtype(
    [("digest", "V32"), ("rate", "<i4"), ("samples", "<i8"), ("step", "<f8"), ("envelope", "<f4", 2 * BLOCKS)]
)


def fingerprint(samples):
    """A FINGERPRINT, as a tuple, of Samples (common/audio.py)."""
    wave = samples.wave
    starts = np.arange(BLOCKS) * len(wave) // BLOCKS
    envelope = np.concatenate([np.maximum.reduceat(wave, starts), np.minimum.reduceat(wave, starts)])
    digest = hashlib.sha256(np.ascontiguousarray(wave)).digest()
    return digest, samples.rate, len(wave), samples.step, envelope


def group(prints, read, speakers=None):
    """Index (N,) of the first recording with the same samples as each, itself where there is none before it.

    prints: (N,) of FINGERPRINT; `read(i)` gives the samples of recording i, for the few that must be compared. With
    `speakers` (N,) only recordings of different speakers are compared by more than their exact samples.
    """
    first, exact = np.arange(len(prints)), {}
    for i, (digest, rate) in enumerate(zip(prints["digest"].tolist(), prints["rate"].tolist())):
        first[i] = exact.setdefault((digest, rate), i)
    for i, j in candidates(prints, np.unique(first)):
        if speakers is not None and speakers[i] == speakers[j]:
            continue
        if first[j] == j and same_samples(read(i), read(j), TOLERANCE * max(prints["step"][i], prints["step"][j])):
            first[first == j] = first[i]
    return first


def candidates(prints, indices):
    """Sorted pairs (i, j) of `indices`, i < j, whose envelopes differ by no more than rounding can do."""
    envelope, step = prints["envelope"], prints["step"]
    indices = indices[abs(envelope[indices]).max(1) >= AUDIBLE * step[indices]]
    order = indices[np.lexsort((prints["samples"][indices], prints["rate"][indices]))]
    shape = np.stack([prints["samples"][order], prints["rate"][order]], 1)
    pairs = []
    for alike in np.split(order, np.flatnonzero((shape[1:] != shape[:-1]).any(1)) + 1):
        if len(alike) > 1:
            from scipy.spatial import KDTree

            alike.sort()
            reach = TOLERANCE * step[alike].max()
            found = alike[KDTree(envelope[alike]).query_pairs(reach, p=np.inf, output_type="ndarray")]
            pairs += found.tolist()
    return sorted((min(pair), max(pair)) for pair in pairs)


def same_samples(first, second, tolerance):
    """True where two waveforms (samples,) are the same but for `tolerance`, and alike in more than being quiet."""
    if abs(first - second).max() > tolerance:
        return False
    first, second = (wave - wave.mean(dtype=np.float64) for wave in (first, second))  # float64
    return first @ second >= LIKENESS * np.sqrt((first @ first) * (second @ second))
