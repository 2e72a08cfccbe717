"""A database on the device: its segments, their normalisation, and the scores of its utterances."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import features
import protocols
from common import config, vectors
from common.cli import Progress

EVAL_BATCH = 256  # segments scored at once
VARIANCE_FLOOR = 1e-8  # of a band's log energy, for recordings with digital silence


def load_all(options, database, chosen):
    """Features of a database for each of the chosen methods: {name: Features}, each made once."""
    made, features_of = {}, {}
    for method in chosen:
        source = source_of(options, method)
        if source not in made:
            made[source] = load_features(database, source)
        features_of[method.name] = made[source]
    return features_of


def source_of(options, method):
    """What gives the features of a method: a FrontEnd, a Descriptor, or a file of vectors made elsewhere."""
    if not method.is_fitted:
        return config.front_end_of(method, config.settings_of(options, method))
    if method.vectors:
        return Path(method.vectors)
    from comparisons.descriptors import DESCRIPTORS

    return DESCRIPTORS[method.module.DESCRIPTORS]


def load_features(database, source):
    """Features of a database from a source, from the cache or the recordings, with a line of progress."""
    progress = Progress(f"{database.name}: reading {len(database.ids)} recordings")

    def report(done, total):
        progress.update(f"{100 * done // total} %")

    if isinstance(source, Path):
        loaded, same = vectors.load(database, source), ()
    else:
        loaded = features.load(database.root, database.recordings, source, report=report)
        same = features.same_samples(database.root, database.recordings, loaded, database.speakers)
    protocols.refuse_shared_recordings(database, loaded.file_digests, same)
    if overlaps := list(protocols.overlapping_parts(database, loaded.file_digests)):
        progress.line(f"note: {overlaps[0]}" + (f"; and {len(overlaps) - 1} more" if len(overlaps) > 1 else ""))
    shape = loaded.segments.shape
    unit = f"segments of {shape[2]} frames" if len(shape) == 3 else f"rows of {shape[1]} numbers"
    origin = source if isinstance(source, Path) else "the cache" if loaded.cached else "the recordings"
    progress.line(f"{len(loaded.segments)} {unit} from {origin} in {loaded.load_time:.1f} s")
    return loaded


# --------------------------------------------------------------------------------------- on the device


def choose_device(requested, number=0):
    """Device `cpu` or `cuda`; `auto` takes a GPU if there is one, `number` distributes processes over several.

    Raises UsageError for `cuda` where there is no GPU.
    """
    if requested == "cuda" and not torch.cuda.is_available():
        raise protocols.UsageError("--device cuda: there is no GPU that torch can use; use --device cpu")
    if requested == "cpu" or not torch.cuda.is_available():
        return "cpu"
    torch.cuda.set_device(number % torch.cuda.device_count())
    torch.backends.mha.set_fastpath_enabled(False)  # scoring: not known to be right for heads of few numbers on GPUs
    return "cuda"


class Data(NamedTuple):
    """A database through one front end, on the device."""

    database: protocols.Database
    features: features.Features
    segments: torch.Tensor  # (S, n_mels, frames) float32
    labels: torch.Tensor  # (S,) int64
    utterance_of: torch.Tensor  # (S,) int64, the utterance of each segment

    def segments_of(self, utterances):
        """Indices of the segments of some utterances, in their order."""
        ends = np.cumsum(self.features.counts)
        ranges = [np.arange(ends[i] - self.features.counts[i], ends[i]) for i in utterances]
        return torch.from_numpy(np.concatenate(ranges)).to(self.segments.device)

    def speakers_of(self, utterances):
        """Number (S,) of each segment's speaker among those of some utterances, from 0; -1 for another speaker."""
        names = sorted(set(self.database.speakers[utterances].tolist()))
        number_of = {name: number for number, name in enumerate(names)}
        numbers = np.array([number_of.get(name, -1) for name in self.database.speakers.tolist()])
        return torch.from_numpy(numbers).to(self.segments.device)[self.utterance_of]


def to_device(database, loaded, device):
    """Data of a database and its Features."""
    utterance_of = np.repeat(np.arange(len(loaded.counts)), loaded.counts)
    labels = torch.from_numpy(database.labels[utterance_of]).to(device)
    segments = torch.from_numpy(loaded.segments).to(device)
    return Data(database, loaded, segments, labels, torch.from_numpy(utterance_of).to(device))


# --------------------------------------------------------------------------------------- normalisation


class Normalization(NamedTuple):
    """Z-score per band: x -> (x - offset) * scale."""

    offset: torch.Tensor  # (1 or S, n_mels, 1)
    scale: torch.Tensor  # (1 or S, n_mels, 1)
    learned_from: torch.Tensor  # utterances whose statistics normalise others


def fit_normalization(data, kind, train):
    """Normalization of all segments of a database.

    `fold` takes mean and standard deviation over the segments `train` alone; `segment`, `utterance` and `speaker`
    take each segment's, utterance's or speaker's own, of a tested speaker too, without labels; `none` changes nothing.
    Sums run in float64, over (S, n_mels) numbers.
    """
    if kind == "none":
        zero = data.segments.new_zeros(1, data.segments.shape[1], 1)
        return Normalization(zero, zero + 1, data.utterance_of[:0])
    variance, mean = (part.double() for part in torch.var_mean(data.segments, 2, correction=0))  # (S, n_mels)
    group = group_of_segments(data, kind)
    used = train if kind == "fold" else slice(None)
    group_used, groups = group[used], int(group.max()) + 1
    size = torch.bincount(group_used, minlength=groups)[:, None]
    sums = torch.zeros(2, groups, mean.shape[1], dtype=mean.dtype, device=mean.device)
    sums[0].index_add_(0, group_used, mean[used])
    sums[1].index_add_(0, group_used, (variance + mean.square())[used])
    first, second = sums / size
    scale = (second - first.square()).clamp_min(0).add(VARIANCE_FLOOR).rsqrt()
    if kind == "fold":
        return Normalization(first.float()[:, :, None], scale.float()[:, :, None], data.utterance_of[used].unique())
    return Normalization(first.float()[group, :, None], scale.float()[group, :, None], data.utterance_of[:0])


def group_of_segments(data, kind):
    """Number (S,) of the group whose statistics normalise each segment."""
    if kind == "fold":
        return torch.zeros_like(data.utterance_of)
    if kind == "segment":
        return torch.arange(len(data.utterance_of), device=data.utterance_of.device)
    if kind == "speaker":
        refuse_single_recordings(data.database)
        speaker_of = np.unique(data.database.speakers, return_inverse=True)[1]  # (utterances,)
        return torch.from_numpy(speaker_of).to(data.utterance_of.device)[data.utterance_of]
    return data.utterance_of


def refuse_single_recordings(database):
    """Raise UsageError where a speaker has one recording, which has no statistics of a speaker."""
    names, counts = np.unique(database.speakers, return_counts=True)
    if counts.min() < 2:
        raise protocols.UsageError(
            f"--normalization speaker: {names[counts.argmin()]} has one recording, so no statistics of its own; "
            "use --normalization fold"
        )


def gather(data, normalization, index):
    """Normalised input of the segments `index`: (b, 1, n_mels, frames). Offset and scale come first."""
    offset, scale = (part if len(part) == 1 else part[index] for part in normalization[:2])
    return ((data.segments[index] - offset) * scale).unsqueeze(1)  # (b, n_mels, frames) -> (b, 1, n_mels, frames)


# --------------------------------------------------------------------------------------------- scores


def score(model, data, normalization, utterances, aggregation="mean"):
    """Scores of utterances from their segments' posteriors, float32 (n, K), in evaluation mode and float32."""
    if not len(utterances):  # --fold none tests nobody
        return np.empty((0, len(data.database.classes)), np.float32)
    model.eval()
    with torch.inference_mode():
        index = data.segments_of(utterances)
        parts = [model(gather(data, normalization, part)).softmax(1) for part in index.split(EVAL_BATCH)]
    model.train()
    return protocols.utterance_scores(torch.cat(parts).cpu().numpy(), data.features.counts[utterances], aggregation)


def embed(model, data, normalization, utterances):
    """Embeddings of utterances, a list of n arrays (S_i, D) float32 with a row for each segment, in evaluation mode."""
    model.eval()
    with torch.inference_mode():
        index = data.segments_of(utterances)
        parts = [model.embed(gather(data, normalization, part)).float() for part in index.split(EVAL_BATCH)]
    model.train()
    return np.split(torch.cat(parts).cpu().numpy(), np.cumsum(data.features.counts[utterances])[:-1])
