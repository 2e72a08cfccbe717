"""Learning curves of the page (reporting/page.py) as SVG: loss and rates over the epochs, and the epochs chosen."""

from collections import Counter
from itertools import product

import numpy as np

from common import runs
from reporting import drawings, figures, published, tables
from reporting.drawings import scale, tag, titled
from reporting.figures import METRICS

TRACKS_OF = dict(last=("last", "oracle"), validation=("validation",))  # of a training
TRACK_MARKS = dict(last="■ last", validation="▲ valid.", oracle="◆ oracle")
LOSS = "training loss"  # name of a panel
WIDTH, LEFT, RIGHT = 360, 30, 100  # of a drawing and its margins
POINTS, WORDS = 100, 8  # of a curve, at most: drawn, and in the text alternative


def curves(results):
    """Yield a figure for each training of each method that has epochs, all on the same scales, below their key."""
    trained, values = {}, {}  # values: panel -> those of all figures
    for model, training in product(results.names, runs.TRAINED_TRACKS):
        folds = results.folds(model, training)
        if folds and "epochs" in folds[0].config.settings:
            its = [published.fold_curve(fold) for fold in folds]
            trained[model, training] = panels_of(folds, its, results.metrics), its
            for panel, lines in trained[model, training][0].items():
                its = [value for _, points in lines.values() for _, value in points if np.isfinite(value)]
                values.setdefault(panel, [0] if panel == LOSS else []).extend(its)
    if not trained:
        return
    ticks = {panel: scale(its, 3 if panel == LOSS else 5) for panel, its in values.items()}
    held_out = any(training == "validation" for _, training in trained)
    chosen = f"epochs that the oracle{' or the held-out speakers' * held_out} chose"
    marks = dict(tested="tested speakers, pooled over folds", fold="one fold, mean over seeds")
    marks |= dict(held="held-out speakers, pooled over folds") if held_out else {}
    marks["chosen"] = (chosen, tag("rect", x=-2, y=-5, width=4, height=11, class_="chosen"))
    parts = [curves_figure(results, *names, *its, ticks) for names, its in trained.items()]
    yield from (tag("h3", "Learning curves"), drawings.key(**marks))
    yield tag("div", *parts, class_="grid two" if held_out else "grid")


def panels_of(folds, curves, metrics):
    """Lines of each panel of a training: {panel: {label: (class, [(epoch, value)])}}."""
    by_fold = {}
    for fold, curve in zip(folds, curves):
        by_fold.setdefault(f"fold {fold.config.settings['fold_name']}", []).append(curve)
    panels = {LOSS: {LOSS: ("tested", list(enumerate(np.mean([curve.loss for curve in curves], 0), 1)))}}
    for metric in metrics:
        lines = [(label, "fold", its, "test") for label, its in by_fold.items()]
        lines.append((f"{metric} of tested speakers", "tested", curves, "test"))
        if curves[0].held_out is not None:
            lines.append((f"{metric} of held-out speakers", "held", curves, "held_out"))
        panels[f"{metric} in per cent"] = {
            label: (kind, list(zip(*figures.pooled_curve(its, name, METRICS[metric]))))
            for label, kind, its, name in lines
        }
    return panels


def curves_figure(results, model, training, panels, curves, ticks):
    """Learning curves of a training, what its tracks reach and the epochs they choose."""
    summaries, chosen = {}, {}
    for track in TRACKS_OF[training]:
        if model in results.summaries[track]:
            summaries[track] = results.summaries[track][model]
            chosen[track] = Counter(int(curve.epochs[curve.chosen[track]]) for curve in curves if track in curve.chosen)
    chosen.pop("last", None)
    reached = {
        f"{metric} in per cent": {track: getattr(its, metric.lower()) for track, its in summaries.items()}
        for metric in results.metrics
    }
    name, epochs, seeds = results.names[model], len(curves[0].loss), sorted({curve.seed for curve in curves})
    title = f", {epochs} epochs, seed {tables.ranges(seeds)}, {runs.TRAINED_TRACKS[training]}"
    drawn = draw(name + title, panels, ticks, reached, chosen, epochs)
    caption = tag("figcaption", tag("b", name), title)
    return tag("figure", caption, drawn, results.figure_command("curves", model))


def some(points, count):
    """The points whose value is finite, at most `count` of them, from the first to the last."""
    points = [point for point in points if np.isfinite(point[1])]
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, count).astype(int))]


def draw(name, panels, ticks, reached, chosen, epochs):
    """Panels of lines over the epochs, below each other.

    panels, ticks: {panel: {label: (class, [(epoch, value)])}}, {panel: [tick]}; reached: {panel: {track: value}},
    written at the right; chosen: {track: {epoch: number of trainings that choose it}}, bars at the bottom.
    """
    parts, words, bottom = [], [], -10

    def x(epoch):
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / max(1, epochs - 1), 1)

    for panel, lines in panels.items():
        top, (low, *_, high) = bottom + 24, ticks[panel]
        bottom = top + (48 if panel == LOSS else 140)

        def y(value):
            return round(bottom - (bottom - top) * (value - low) / (high - low), 1)

        parts.append(tag("text", panel, x=LEFT, y=top - 5))
        for tick in ticks[panel]:
            parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y(tick), y2=y(tick), class_="gridline"))
            parts.append(tag("text", f"{tick:g}", x=LEFT - 5, y=y(tick) + 4, text_anchor="end"))
        for label, (kind, points) in lines.items():
            points = some(points, POINTS)
            path = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in (*points, points[-1]))  # a point is a line too
            parts.append(titled("polyline", label, points=path, class_=kind))
            for epoch, value in points if kind != "fold" else ():
                title = f"{label}: {value:.2f} at epoch {epoch}"
                parts.append(titled("circle", title, cx=x(epoch), cy=y(value), r=4, class_=f"hit {kind}-hit"))
            if kind != "fold":
                words.append(f"{label}: " + ", ".join(f"{v:.2f} at epoch {e}" for e, v in some(points, WORDS)))
        line = -np.inf
        for track, value in sorted(reached.get(panel, {}).items(), key=lambda item: -item[1]):
            line = max(line + 13, y(value) + 4)
            parts.append(
                tag(
                    "text", f"{TRACK_MARKS[track]} {tables.percent(value)}", x=WIDTH - RIGHT + 7, y=line, class_="track"
                )
            )
            words.append(f"{panel} of the track {track}: {tables.percent(value)}")
    for track, numbers in chosen.items():
        for epoch, number in sorted(numbers.items()):
            title = f"{track}: epoch {epoch} is chosen in {number} of {sum(numbers.values())} trainings"
            size = round(24 * number / max(numbers.values()), 1)
            parts.append(titled("rect", title, x=x(epoch) - 2, y=bottom - size, width=4, height=size, class_="chosen"))
    for tick in (tick for tick in scale([0, epochs], 6) if 1 <= tick <= epochs):
        parts.append(tag("text", f"{tick:g}", x=x(tick), y=bottom + 15, text_anchor="middle"))
    parts.append(tag("text", "epoch", x=WIDTH - RIGHT + 20, y=bottom + 15))
    label, box = f"{name}: {'; '.join(words)}", f"0 0 {WIDTH} {bottom + 20}"
    return tag("svg", *parts, viewBox=box, role="img", tabindex=0, aria_label=label)
