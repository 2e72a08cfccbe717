"""What each branch of TFT contributes to its decisions, after training and before: finished runs heard again.

    python benchmarks/branches.py --db casia --root path/to/casia --runs runs

T-Trans gives the queries q of TFT's last encoder, F-Trans its keys k, a convolution its values v (TFT eqs. 7 and 8).
`trained` is the accuracy on the recordings that the model was trained on, `tested` that on those that it tests, in per
cent of the segments. Behind each stands what is left when each segment's q and k together, or its v alone, are those
of one other segment of the same group, drawn at random (seed 0; it may be of the same class). What costs nothing tells
the decision nothing of its segment; what an attention that is alike for all segments is worth is not seen by this.
`logits` is how far the exchange of q, k or v moves the logits, in per cent of their spread (root mean squares),
`entropy` that of TF-Trans's attention in per cent of the largest: at 100 each token attends to all alike; both are of
the segments trained on. All is computed in float32. The line of epoch 0 is of untrained weights, seed 0.
"""

import platform
import sys
from pathlib import Path

import numpy as np
import torch

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT))

import engine
import evaluate
import models
import predict
import protocols
import results
import tables
import train

MODEL = "tft"
HEADER = ["seed, fold", "epoch", "trained", "q+k", "v", "tested", "q+k", "v", "logits: q", "k", "v", "entropy"]


def encode(network, data, normalization):
    """q, k and v of all segments, (S, f/4, d/4) each."""
    parts = []
    for some in torch.arange(len(data.segments)).split(engine.EVAL_BATCH):
        x = engine.gather(data, normalization, some)
        parts.append((network.encode_time(x, None), network.encode_frequency(x, None), network.conv_joint(x)))
    return [torch.cat(part) for part in zip(*parts)]


def decide(network, q, k, v, maps=None):
    """Logits (S, classes)."""
    return network.classifier(models.pool_rows(network.joint_encoder(q, k, v, maps, "TF-Trans")))


def exchanged(network, q, k, v, labels):
    """Of (S,) segments: accuracies as they are, with q and k of others, with v; shifts by q, k, v; entropy."""
    other = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    maps = {}
    usual = decide(network, q, k, v, maps)
    both, value = decide(network, q[other], k[other], v), decide(network, q, k, v[other])
    query, key = decide(network, q[other], k, v), decide(network, q, k[other], v)
    spread = (usual - usual.mean(0)).square().mean().sqrt()
    shifts = [float((one - usual).square().mean().sqrt() / spread) for one in (query, key, value)]
    weights = maps["TF-Trans"]
    entropy = -(weights * weights.clamp_min(1e-12).log()).sum(-1).mean() / np.log(weights.shape[-1])
    accuracies = [float((one.argmax(1) == labels).float().mean()) for one in (usual, both, value)]
    return accuracies, shifts, float(entropy)


def examine(network, data, normalization, trained, tested):
    """A line's numbers, in per cent; `trained` and `tested` are utterances."""
    network.eval()
    with torch.inference_mode():
        parts = [*encode(network, data, normalization), data.labels]
        groups = [[part[data.segments_of(utterances)] for part in parts] for utterances in (trained, tested)]
        (of_trained, shifts, entropy), (of_tested, *_) = (exchanged(network, *group) for group in groups)
    return [100 * value for value in (*of_trained, *of_tested, *shifts, entropy)]


def finished_folds(options, database):
    """The finished folds of TFT that have their models, of one experiment."""
    found, _ = evaluate.collect(options.runs, options.protocol, None, options.track, database.name, MODEL)
    folds = [fold for of_seed in found.get((database.name, MODEL), {}).values() for fold in of_seed if fold.folder]
    evaluate.check_alike(folds)
    for fold in folds:
        if fold.config["settings"]["utterances"] != database.digest[:16]:
            raise protocols.UsageError(
                f"{fold.folder}: is of another database than {database.root}; set --root to its own"
            )
    return folds


def main(arguments=None):
    parser = results.OneLineParser(__doc__)
    parser.add_argument("--db", required=True, help="database, or the path of a manifest .csv")
    parser.add_argument("--root", help="folder of the recordings (default: $SER_DATA/<db>, else data/<db>)")
    parser.add_argument("--protocol", default="speaker", choices=protocols.PROTOCOLS, help="what a fold leaves out")
    parser.add_argument("--track", default="last", choices=results.TRAINED, help="which training (default: last)")
    parser.add_argument("--runs", default="runs", help="folder that train.py wrote (default: runs)")
    options = parser.parse_args(arguments)
    # whether it is the database of the runs is told by its digest
    database = protocols.open_database(options.db, options.root, partial=True)
    folds = finished_folds(options, database)
    if not folds:
        raise protocols.UsageError(f"{options.runs}: has no finished fold of {database.name}, {MODEL}; train one first")
    cells, data = [], None
    for fold in folds:
        model, marker = predict.load_model(fold.folder, "cpu"), results.read_marker(fold.folder)
        if data is None:
            data = engine.to_device(database, train.load_features(database, model.front_end), "cpu")
        normalization = model.normalization or engine.fit_normalization(data, model.settings["normalization"], None)
        trained = np.flatnonzero(np.isin(database.speakers, marker["trained_on"]))
        tested = np.flatnonzero(np.isin(database.ids, fold.ids))
        if not cells:
            fresh = engine.make_model(MODEL, len(database.classes), 0, model.front_end, "cpu")
            cells.append(["untrained", 0, *examine(fresh, data, normalization, trained, tested)])
        name = f"{model.settings['seed']}, {model.settings['fold']}"
        cells.append([name, marker["epoch"], *examine(model.network, data, normalization, trained, tested)])
    means = np.mean([row[2:] for row in cells[1:]], axis=0)
    cells = [[row[0], str(row[1]), *(f"{value:.1f}" for value in row[2:])] for row in cells]
    cells.append(["mean", "", *(f"{value:.1f}" for value in means)])
    note = f"{results.processor()}, Python {platform.python_version()}, torch {torch.__version__}"
    print(tables.as_text(f"{database.name}: what the branches of TFT decide", HEADER, cells, [note]))


if __name__ == "__main__":
    with results.plain_errors("branches.py", "nothing is lost"):
        main()
