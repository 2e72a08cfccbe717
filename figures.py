"""Figures as the papers draw them, from saved results; the only file that knows matplotlib.

    pip install -r requirements-figures.txt
    python evaluate.py --figure confusion --db casia --model tft --out confusion.png
    python evaluate.py --figure attention --db casia --model tft --utterance wangzhe/sad/201 --out attention.svg
    python evaluate.py --figure curves --db casia --model tft --out curves.pdf

`evaluate.py` finds the runs and gives them to `draw_confusion` (TFT Fig. 2, ATFNN Fig. 5), `draw_attention` (TFT
Fig. 3, ATFNN Fig. 6) or `draw_curves`; `write` saves what they return. What a figure shows is made by functions
of its own (`rates`, `pooled_curve`, `explain`, `panel`), which need no matplotlib.
"""

import textwrap
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np

import features
import protocols
import results

ENDINGS = (".png", ".svg", ".pdf")
DPI = 200  # of PNG, and of the maps inside SVG and PDF
WHITE_BELOW = 47  # per cent; above, black numbers stand out more from the colour of their cell
COLOURS = "cividis"  # its lightness rises evenly: the same order in grey print and to colour-blind eyes
DARK, LIGHT = "#00306f", "#a8842c"  # lines, of unlike lightness; also told apart by dashes and marks
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.titlelocation": "left", "figure.titlesize": 10, "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a $
    "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "figures",  # text that can be edited; the same bytes
}  # fmt: skip
SPECTROGRAM = dict(origin="lower", aspect="auto", interpolation="nearest")
TICKS = (250, 500, 1000, 2000, 4000, 7000)  # Hz
BAND_MARKED = 50  # ATFNN Fig. 6: a dashed line parts high from middle and low frequencies; counted from 0
SAME_SCORES = 0.01  # a posterior computed again may differ by so much from the saved one, on another device
BATCH = 64  # segments heard at once


# ------------------------------------------------------------------------------------------ the file


def check_out(out):
    """UsageError, before any work, for a file that cannot be drawn: its ending, its place, no matplotlib."""
    if Path(out).suffix.lower() not in ENDINGS or Path(out).is_dir():
        raise protocols.UsageError(f"--out {out}: name a file that ends in {', '.join(ENDINGS)}")
    try:
        import matplotlib
    except ImportError:
        raise protocols.UsageError("--figure: needs matplotlib; pip install -r requirements-figures.txt") from None
    matplotlib.rcParams.update(STYLE)


def write(figure, out):
    """Save a figure in the format of its file's ending, whole or not at all."""
    ending = Path(out).suffix.lower()
    dated = {".svg": "Date", ".pdf": "CreationDate"}.get(ending)
    with results.replacing(out) as file:
        figure.savefig(file, format=ending[1:], dpi=DPI, metadata=dated and {dated: None})


def new_figure(width, height, title, notes):
    """An empty figure of so many inches; below its title the notes, such as that a run is incomplete."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    lines = [textwrap.fill(line, int(12 * width)) for line in (*title.splitlines(), *notes)]
    figure.suptitle("\n".join(lines))
    return figure


# ------------------------------------------------------------------------------------ confusion matrix


def rates(counts):
    """Row rates in per cent of confusion counts (K, K); a class without utterances has no rates but NaN."""
    counts = np.asarray(counts, float)
    rows = counts.sum(1, keepdims=True)
    return 100 * np.divide(counts, rows, out=np.full_like(counts, np.nan), where=rows > 0)


def draw_confusion(counts, classes, title, notes=(), with_counts=False):
    """Confusion matrix of counts (K, K) as in TFT Fig. 2 and ATFNN Fig. 5: rows the true class, per cent of it."""
    shown, size = rates(counts), 1.8 + 0.75 * len(classes)
    figure = new_figure(size + 1, size + 0.3, title, notes)
    axes = figure.subplots()
    image = axes.imshow(shown, COLOURS, vmin=0, vmax=100)
    for (row, column), rate in np.ndenumerate(shown):
        told = ("-" if np.isnan(rate) else f"{rate:.2f}") + (f"\n({counts[row][column]})" if with_counts else "")
        axes.text(column, row, told, ha="center", va="center", color="white" if rate < WHITE_BELOW else "black")
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="Predicted label", ylabel="True label")
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true label's utterances")
    return figure


# --------------------------------------------------------------------------------------------- curves


def pooled_curve(curves, name, metric):
    """Epochs that all folds share, and the metric in per cent, pooled over folds, mean over seeds: (E,), (E,)."""
    epochs = reduce(np.intersect1d, [curve.epochs for curve in curves])
    by_seed = {}
    for curve in curves:
        counts = getattr(curve, name)[np.isin(curve.epochs, epochs)]  # (E, K, K)
        by_seed[curve.seed] = by_seed.get(curve.seed, 0) + counts
    return epochs, 100 * np.mean([[metric(one) for one in counts] for counts in by_seed.values()], axis=0)


METRICS = dict(WAR=protocols.war, UAR=protocols.uar)
LINES = {
    "one fold, tested speaker": dict(color=DARK, alpha=0.35, linewidth=0.8),
    "tested speakers, pooled over folds": dict(color=DARK, marker="."),
    "held-out speakers, pooled over folds": dict(color=LIGHT, marker=".", linestyle="--"),
}
FOLD, TESTED, HELD = LINES.values()
MARKS = {  # track -> what it is, and its mark
    "last": ("last epoch, the result", dict(marker="s", color=DARK)),
    "validation": ("validation, chosen on held-out speakers", dict(marker="^", color=DARK)),
    "oracle": ("oracle, a diagnostic and not a result", dict(marker="D", color=DARK, markerfacecolor="white")),
}


def draw_curves(trained, reached, title, notes=()):
    """Training loss, WAR and UAR over the epochs, a mark wherever a track chose the epoch of a fold.

    `trained`: a key of results.TRAINED -> [results.FoldCurve], as far as run; `reached`: track -> its figures, as text.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(max(6.5, 1 + 3.6 * len(trained)), 8.4, title, notes)
    grid = figure.subplots(3, len(trained), sharex=True, sharey="row", squeeze=False)
    for panels, (training, curves) in zip(grid.T, trained.items()):
        for curve in curves:
            draw_fold(panels, curve)
        mean = np.mean([curve.loss for curve in curves], 0)
        panels[0].plot(np.arange(len(mean)) + 1, mean, color=DARK)
        for axes, metric in zip(panels[1:], METRICS.values()):
            axes.plot(*pooled_curve(curves, "test", metric), **TESTED)
            if training == "validation":
                axes.plot(*pooled_curve(curves, "held", metric), **HELD)
        panels[0].set_title(results.TRAINED[training])
        panels[2].set_xlabel("epoch")
        panels[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes, label in zip(grid[:, 0], ("training loss (mean over folds)", "WAR in %", "UAR in %")):
        axes.set_ylabel(label)
    told = [
        Line2D([], [], label=label, **how) for label, how in LINES.items() if how != HELD or "validation" in trained
    ]
    for track, figures in reached.items():
        meaning, mark = MARKS[track]
        told.append(Line2D([], [], linestyle="", label=f"{meaning}: {figures}", **mark))
    figure.legend(handles=told, loc="outside lower center", ncols=len(trained), fontsize=8)
    return figure


def draw_fold(panels, curve):
    """Thin lines of one fold in the three panels of its training, and a mark at each chosen epoch."""
    every = np.arange(len(curve.loss)) + 1
    lines = [(every, curve.loss)]
    lines += [(curve.epochs, np.array([100 * metric(one) for one in curve.test])) for metric in METRICS.values()]
    for axes, (epochs, values) in zip(panels, lines):
        axes.plot(epochs, values, **FOLD)
        for track, index in curve.chosen.items():
            there = epochs == curve.epochs[index]
            axes.plot(epochs[there], values[there], linestyle="", markersize=5, **MARKS[track][1])


# -------------------------------------------------------------------------------- checkpoint to attention


class Explained(NamedTuple):
    """One recording as a trained model hears it."""

    segments: np.ndarray  # (S, bands, frames) log-Mel, not normalised
    seconds: float  # length of the recording; the last segment is filled up with zeros
    scores: np.ndarray  # (K,) of the recording, from its segments' posteriors
    maps: dict  # name -> attention of each segment, (S, heads, queries, keys), or (S, 1, bands, frames) of a gate
    front_end: features.FrontEnd


def explain(folder, path):
    """Run the model of a fold over the recording `path`, keeping its attention."""
    import torch

    import engine
    import predict

    (model,) = predict.load_models([folder], "cpu")
    segments, seconds, _ = features.extract(path, model.front_end)
    data, own = predict.as_data(segments, [len(segments)], model.settings["normalization"], "cpu")
    scores, parts = [], []
    with torch.inference_mode():
        for some in torch.arange(len(segments)).split(BATCH):
            parts.append({})
            x = engine.gather(data, own or model.normalization, some)
            scores.append(model.network(x, parts[-1]).softmax(1))
    maps = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    counts, aggregation = np.array([len(segments)]), model.settings.get("aggregation", "mean")
    (scores,) = protocols.utterance_scores(torch.cat(scores).numpy(), counts, aggregation)
    return Explained(segments, seconds, scores, maps, model.front_end)


def panel(name, attention):
    """The picture of a model's attention maps, segments side by side: (rows, S * columns), mean over heads.

    T-Trans: rows are queries, columns keys, so that the frames attended to lie below those of the spectrogram.
    F-Trans and TF-Trans: rows are keys, columns queries, so that the bands attended to lie beside its bands; a
    key of TF-Trans stands for the row of v that it weighs. F-Attention and T-Attention: bands and frames.
    """
    blocks = attention.mean(1)  # (S, queries, keys) or (S, bands, frames)
    return np.hstack(list(blocks.transpose(0, 2, 1) if name in ("F-Trans", "TF-Trans") else blocks))


def band_of(hz, front_end):
    """Position of a frequency among the bands, whose centres lie at 0, 1, ..."""
    return np.interp(hz, features.band_edges(front_end)[1:-1], np.arange(front_end.bands))


def draw_attention(told, title, notes=()):
    """Log-Mel of the whole utterance and the attention of each segment, as in TFT Fig. 3 and ATFNN Fig. 6.

    Segments that overlap stand side by side too, each whole, so that the time axis counts what they share again.
    """
    front_end, count = told.front_end, len(told.segments)
    block, hop = (step / front_end.rate for step in (front_end.frames * front_end.shift, front_end.hop))  # seconds
    shown = told.seconds + (count - 1) * (block - hop)  # of the axis, up to the recording's end
    names = [name for name in ("T-Trans", "F-Trans", "TF-Trans", "F-Attention", "T-Attention") if name in told.maps]
    pictures = {"log-Mel": np.hstack(list(told.segments)), **{name: panel(name, told.maps[name]) for name in names}}
    filled = f"the recording ends at {told.seconds:.2f} s"
    filled += "; zeros fill the last segment" if shown < count * block else ""
    filled += f"; segments of {block:.2f} s, one every {hop:.2f} s, side by side" if hop < block else ""
    width = float(np.clip(2.2 + 1.9 * count, 7, 14))
    figure = new_figure(width, 0.8 + 2.1 * len(pictures), title, [filled, *notes])
    grid = figure.subplots(len(pictures), squeeze=False)[:, 0]
    for letter, axes, (name, picture) in zip("abcde", grid, pictures.items()):
        step = front_end.bands / len(picture)  # bands of a row
        low, high = (0, block) if name == "T-Trans" else (-step / 2, front_end.bands - step / 2)
        heard = picture[:, : max(1, round(picture.shape[1] * min(1, shown / (count * block))))]
        scale = {} if "Trans" in name else dict(vmin=heard.min(), vmax=heard.max())  # not that of the filling
        image = axes.imshow(picture, COLOURS, extent=(0, count * block, low, high), **SPECTROGRAM, **scale)
        kind = " spectrogram" if name == "log-Mel" else ""
        kind = f" attention, mean of {told.maps[name].shape[1]} heads" if "Trans" in name else kind
        axes.set_title(f"({letter}) {name}{kind}")
        figure.colorbar(image, ax=axes, pad=0.01, label="ln energy" if name == "log-Mel" else "weight")
        label_axes(axes, name, told, block)
    return figure


def label_axes(axes, name, told, block):
    """Axes in seconds and Hz, lines between segments, and in ATFNN's figure the dashed line at its band 50."""
    front_end, count = told.front_end, len(told.segments)
    for number in range(1, count):
        axes.axvline(number * block, color="white", linewidth=min(0.6, 20 / count))
    if name == "T-Trans":
        axes.set(xlabel="key frame, time in s", ylabel="query frame,\ntime in segment in s")
        return
    axes.set_yticks([band_of(hz, front_end) for hz in TICKS], TICKS)
    if name in ("F-Trans", "TF-Trans"):
        every, labelled = -(-count // 12), (500, 2000) if count <= 8 else (1000,)  # Hz
        ticks = [(i, hz) for i in range(0, count, every) for hz in labelled]
        lowest = axes.get_ylim()[0]
        places = [block * (i + (band_of(hz, front_end) - lowest) / front_end.bands) for i, hz in ticks]
        axes.set_xticks(places, [hz for _, hz in ticks])
        axes.set(xlabel="query band in Hz, for each segment", ylabel="key band in Hz")
        return
    axes.set(xlabel="time in s", ylabel="frequency in Hz")
    if not any("Trans" in other for other in told.maps):
        mark_band(axes, front_end)


def mark_band(axes, front_end):
    """The dashed line of ATFNN Fig. 6 and its frequency; white on black, to be seen on every colour."""
    from matplotlib.patheffects import withStroke

    hz = features.band_edges(front_end)[BAND_MARKED + 1]  # the centre
    outline = [withStroke(linewidth=2.5, foreground="black")]
    axes.axhline(BAND_MARKED, color="white", linestyle="--", linewidth=1.2, path_effects=outline)
    axes.text(
        0.99, BAND_MARKED + 3, f"Mel band {BAND_MARKED}: {hz:.0f} Hz", ha="right", va="bottom", fontsize=8,
        transform=axes.get_yaxis_transform(), bbox=dict(facecolor="white", edgecolor="none", pad=1.5),
    )  # fmt: skip
