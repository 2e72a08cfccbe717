"""Normalisation of utterance vectors or frames before a comparison method: z-scores by statistics of four kinds.

    fold         of the training utterances: strict, nothing of a tested utterance but itself is used
    utterance    of the utterance's own frames: strict as well; for frames only
    speaker      of all recordings of the utterance's speaker, the tested speaker's too: transductive
    none         as it is

z = (x - mean) / standard deviation, clipped to -10..10.
"""

import numpy as np

NORMALIZATIONS = ("fold", "utterance", "speaker", "none")
LIMIT = 10  # standard deviations; what lies further out is clipped
CONSTANT = 1e-6  # of a number's magnitude: a deviation up to it is float32's rounding


def normalize(x, kind, train, speakers):
    """Normalise utterance vectors x (n, D), or a list of n arrays of frames (T_i, D); returns the same form, float32.

    `train` are indices of the training utterances, `speakers` (n,) the speaker of each utterance. A number without
    variation becomes 0. Raises ValueError for statistics that do not exist: of a speaker with one recording, or of
    the frames of a vector.
    """
    if kind not in NORMALIZATIONS:
        raise ValueError(f"normalization {kind}: unknown; use {', '.join(NORMALIZATIONS)}")
    if kind == "none":
        return x
    rows = [np.atleast_2d(utterance) for utterance in x]  # n of (1, D) or (T_i, D)
    if kind == "fold":
        mean, deviation = _statistics(rows, train)
        rows = [_z_score(row, mean, deviation) for row in rows]
    elif kind == "utterance":
        if not isinstance(x, list):
            raise ValueError("normalization utterance: a vector has no statistics of its own; use fold or speaker")
        rows = [_z_score(row, *_statistics(rows, [i])) for i, row in enumerate(rows)]
    else:
        speakers = np.asarray(speakers)
        for speaker in np.unique(speakers):
            own = np.flatnonzero(speakers == speaker)
            if len(own) < 2:
                raise ValueError(f"normalization speaker: {speaker} has one recording, so no statistics; use fold")
            mean, deviation = _statistics(rows, own)
            for i in own:
                rows[i] = _z_score(rows[i], mean, deviation)
    return rows if isinstance(x, list) else np.concatenate(rows)


def _statistics(rows, utterances):
    """Mean and standard deviation (D,) over the rows of some utterances; infinite deviation for a constant number."""
    values = np.concatenate([rows[i] for i in utterances]).astype(np.float64)
    mean, deviation = values.mean(0), values.std(0)
    return mean, np.where(deviation > CONSTANT * np.abs(mean), deviation, np.inf)


def _z_score(rows, mean, deviation):
    return ((rows - mean) / deviation).clip(-LIMIT, LIMIT).astype(np.float32)
