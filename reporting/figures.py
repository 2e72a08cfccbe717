"""Figures of saved results; the only file that imports matplotlib, inside its functions.

    pip install -r requirements-figures.txt
    python evaluate.py --figure confusion --db casia --model tft --out confusion.png      # TFT Fig. 2, ATFNN Fig. 5
    python evaluate.py --figure confusion --db casia --model tft --published --out both.png
    python evaluate.py --figure attention --db casia --model tft --utterance wangzhe/sad/201 --out attention.svg
    python evaluate.py --figure curves --db casia --model tft --out curves.pdf
    python evaluate.py --figure speakers --db casia --out speakers.png
    python evaluate.py --figure methods --db casia --transductive runs-speaker --out methods.png

`make_figure` takes the options of evaluate.py; an option that the figure does not need is ignored. What a figure shows
is computed by functions of its own (`rates`, `speaker_war`, `pooled_curve`, `explain`, `side_by_side`), without
matplotlib, and drawn by `draw_confusion`, `draw_speakers`, `draw_methods`, `draw_curves` and `draw_attention`.
"""

import csv
import io
import sys
import textwrap
import warnings
from functools import reduce
from math import inf
from pathlib import Path
from typing import NamedTuple

import numpy as np

import features
import protocols
from common import config, runs
from reporting import published, summary, tables

FIGURES = dict(  # name -> tracks that it can show
    confusion=(runs.RESULT, *runs.TRACKS),
    attention=(runs.RESULT, "last", "validation"),  # the weights of the oracle's epoch are not saved
    curves=(runs.RESULT, *runs.TRACKS, "all"),  # shows all of them
    speakers=(runs.RESULT, *runs.TRACKS),
    methods=(runs.RESULT, *runs.TRACKS),
)
OF_ALL_MODELS = ("speakers", "methods")
ENDINGS = (".png", ".svg", ".pdf")
PNG_DPI = dict(confusion=150, attention=110, curves=110, speakers=150, methods=150)  # with PNG_COLOURS: below 100 KB for documents
PNG_COLOURS = 128
MAP_DPI = 200  # of the maps in SVG and PDF
WHITE_BELOW = 47  # per cent; above, black numbers stand out more from the colour of their cell
COLOURS = "cividis"  # its lightness rises evenly: the same order in grey print and to colour-blind eyes
DARK, LIGHT = "#00306f", "#a8842c"  # lines, of unlike lightness; dashes and marks distinguish them too
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.titlelocation": "left", "figure.titlesize": 10, "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a $
    "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "figures",  # text that can be edited; the same bytes
}  # fmt: skip
SPECTROGRAM = dict(origin="lower", aspect="auto", interpolation="nearest")
TICKS = (250, 500, 1000, 2000, 4000, 7000)  # Hz
BAND_MARKED = 50  # ATFNN Fig. 6: a dashed line separates high from middle and low frequencies; counted from 0
SAME_SCORES = 0.01  # between a saved posterior and the same computed again, perhaps on another device
BATCH = 64  # segments computed at once


# ------------------------------------------------------------------------------------------ the options


def make_figure(options):
    """Draw the figure that the options of evaluate.py ask for, write it to --out and print a line.

    Raises UsageError, RunError or AudioError.
    """
    check_options(options)
    database, models = choose_runs(options)
    figure, damaged = MAKERS[options.figure](options, database, models)
    boxes = write(figure, options.out, PNG_DPI[options.figure])
    print(f"{options.out}: {options.figure} of {', '.join(models)} on {database}")
    if boxes:
        remedy = "install one, such as the package fonts-noto-cjk, and repeat the command"
        damaged = [*damaged, f"no installed font has {' '.join(sorted(boxes))}, drawn as boxes; {remedy}"]
    for note in damaged:
        print(f"evaluate.py: {note}", file=sys.stderr)


def check_options(options):
    """Raise UsageError, before any work, for what cannot be drawn or written."""
    figure, out = options.figure, options.out
    if not out:
        raise protocols.UsageError(f"--figure {figure}: needs --out, a file that ends in {', '.join(ENDINGS)}")
    if Path(out).suffix.lower() not in ENDINGS or Path(out).is_dir():
        raise protocols.UsageError(f"--out {out}: name a file that ends in {', '.join(ENDINGS)}")
    if figure == "attention" and not options.utterance:
        raise protocols.UsageError("--figure attention: needs --utterance, a name as in predictions.csv")
    if options.track not in FIGURES[figure]:
        possible = " or ".join(FIGURES[figure][1:])
        raise protocols.UsageError(f"--track {options.track}: --figure {figure} takes {possible}")
    try:
        import matplotlib
    except ImportError:
        raise protocols.UsageError("--figure: needs matplotlib; pip install -r requirements-figures.txt") from None
    matplotlib.rcParams.update(STYLE)


def choose_runs(options):
    """Database and models of a figure: those that the options name, or the only ones that there are.

    Of OF_ALL_MODELS all models of the database, of the other figures one.
    """
    found = [(database, model) for database, model, its in summary.all_runs(options.runs) if its == options.protocol]
    name = options.db
    if name and name not in dict(found):
        name = protocols.database_name(name)
    found = [(db, model) for db, model in found if name in (None, db) and options.model in (None, model)]
    if not found:
        asked = " ".join(filter(None, (name, options.model, options.protocol)))
        raise protocols.UsageError(f"{options.runs}: holds no tested fold of {asked}; run train.py, or set --runs")
    databases = list(dict(found))
    if len(found) > 1 and (options.figure not in OF_ALL_MODELS or len(databases) > 1):
        several = ", ".join(map(" ".join, found))
        raise protocols.UsageError(f"{options.runs}: holds {several}; choose with --db and --model")
    order = list(config.PAPER_SETTINGS)  # the papers' models first, as in their tables
    return databases[0], sorted(dict(map(reversed, found)), key=lambda model: (*order, model).index(model))


def load(options, database, model, tracks):
    """Finished folds of a model on some tracks: {track: (Summary, [FoldResult])}, and notes on damaged folds."""
    seeds, found, damaged = config.parse_seeds(options.seed) if options.seed else None, {}, []
    for track in tracks:
        by_model, notes = summary.collect(options.runs, options.protocol, seeds, track, database, model)
        damaged += [note for note in notes if note not in damaged]
        by_seed = by_model.get((database, model), {})
        if result := summary.summarize(by_seed):
            found[track] = result, [fold for seed in result.seeds for fold in by_seed[seed]]
    if not found and options.figure not in OF_ALL_MODELS:
        none = f"{options.runs}: has no finished fold of {database} {model} for this --track and --seed"
        raise protocols.UsageError("; ".join(damaged) or none)
    return found, damaged


def notes_on(results):
    """Notes on some {model: Summary}, such as that a run is incomplete, each once."""
    rows = [dict(vars(result), method=model, published_protocol=None) for model, result in results.items()]
    return list(dict.fromkeys(tables.result_notes(rows)))


def reached(result):
    """Text with the figures of a Summary."""
    war, uar = tables.percent(result.war, result.war_std), tables.percent(result.uar, result.uar_std)
    return f"WAR {war}, UAR {uar}, seed {tables.ranges(result.seeds)}"


def title_of(database, model, result, protocol):
    """First line of a figure of one model."""
    return f"{database}: {tables.marked(model, result.transductive)}, leaving one {protocol} out"


# ------------------------------------------------------------------------------------------ the file


def write(figure, out, dpi):
    """Save a figure in the format of its file's ending, whole or not at all; `dpi` and a small palette are for PNG.

    Gives the characters that no installed font has.
    """
    import matplotlib

    ending = Path(out).suffix.lower()
    dated = {".svg": "Date", ".pdf": "CreationDate"}.get(ending)
    boxes, added = add_fonts(figure)
    # other fonts may hold outlines that PDF's type 42 does not take
    with runs.atomic_write(out) as file, matplotlib.rc_context({"pdf.fonttype": 3} if added else {}):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            if dated:
                figure.savefig(file, format=ending[1:], dpi=MAP_DPI, metadata={dated: None})
                return boxes
            figure.savefig(content := io.BytesIO(), format="png", dpi=dpi)
        from PIL import Image  # matplotlib requires it

        picture = Image.open(content).convert("RGB").quantize(PNG_COLOURS, Image.Quantize.MAXCOVERAGE, dither=0)
        picture.save(file, "PNG", optimize=True)
    return boxes


def add_fonts(figure):
    """Let the texts of a figure use installed fonts for characters that matplotlib's own font lacks.

    Gives the characters that no font has, and the families that were added.
    """
    from matplotlib import font_manager
    from matplotlib.text import Text

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_ticklabels()  # writes them
    texts = figure.findobj(Text)
    own = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    characters = {character for text in texts for character in text.get_text() if character.isprintable()}
    missing, added, covers = {character for character in characters if not own.get_char_index(ord(character))}, [], {}
    for path in font_manager.findSystemFonts() if missing else ():
        try:
            font = font_manager.get_font(path)
            found = {character for character in missing if font.get_char_index(ord(character))}
        except (OSError, RuntimeError):
            continue  # a damaged font, or one of pictures
        if found and font.scalable:
            covers[path] = found, font.style_name not in ("Regular", "Book", "Medium"), path, font.family_name
    while missing and covers:
        found, _, path, family = min(covers.values(), key=lambda font: (-len(font[0] & missing), *font[1:3]))
        if not found & missing:
            break
        font_manager.fontManager.addfont(path)
        added.append(family)
        missing -= found
    for text in texts if added else ():
        text.set_fontfamily([*text.get_fontfamily(), *added])
    return missing, added


def new_figure(width, height, title, notes):
    """An empty figure of a size in inches; below its title the notes, such as that a run is incomplete."""
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


def published_rates(database, model, classes):
    """Figure of a paper and the row rates (K, K) in per cent that it shows of a model on a database.

    None where benchmarks/published-confusion.csv has none of these classes.
    """
    with open(published.BENCHMARKS / "published-confusion.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["database"], row["model"]) == (database, model)]
    by_class = {row["emotion"]: row for row in rows}
    if set(by_class) != set(classes):
        return None
    return rows[0]["source"], np.array([[100 * float(by_class[true][name]) for name in classes] for true in classes])


def make_confusion(options, database, models):
    """Confusion matrix of the chosen track, with --published next to that of the paper."""
    found, damaged = load(options, database, models[0], [options.track])
    result, _ = found[options.track]
    title = title_of(database, models[0], result, options.protocol)
    shown = {f"{meaning_of(options.track, [result])}: {reached(result)}": rates(result.confusion)}
    if options.published:
        paper = published_rates(database, models[0], result.classes)
        if not paper:
            raise protocols.UsageError(
                f"--published: no paper shows a confusion matrix of {models[0]} on {database}; drop the option"
            )
        shown = {f"published, {paper[0]}": paper[1], **shown}
    counts = result.confusion if options.counts else None
    return draw_confusion(shown, result.classes, title, notes_on({models[0]: result}), counts), damaged


def draw_confusion(shown, classes, title, notes=(), counts=None):
    """Confusion matrices as in TFT Fig. 2 and ATFNN Fig. 5: rows the true class, per cent of it.

    `shown`: {caption: rates (K, K)}, side by side; `counts` (K, K) stand in the cells of the last of them.
    """
    size, number = 1.8 + 0.75 * len(classes), len(shown)
    captions = [textwrap.fill(caption, int(14 * size)) for caption in shown]
    figure = new_figure(size * number + 1, size + 0.4, "\n".join([title, *(captions if number == 1 else [])]), notes)
    grid = figure.subplots(1, number, squeeze=False)[0]
    for axes, caption, matrix in zip(grid, captions, shown.values()):
        image = axes.imshow(matrix, COLOURS, vmin=0, vmax=100)
        with_counts = counts is not None and axes is grid[-1]
        for (row, column), rate in np.ndenumerate(matrix):
            text = ("-" if np.isnan(rate) else f"{rate:.2f}") + (f"\n({counts[row][column]})" if with_counts else "")
            axes.text(column, row, text, ha="center", va="center", color="white" if rate < WHITE_BELOW else "black")
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="Predicted label", ylabel="True label", title=caption if number > 1 else "")
    figure.colorbar(image, ax=list(grid), shrink=0.8, label="% of the true label's utterances")
    return figure


# --------------------------------------------------------------------------------- WAR of each speaker


def speaker_war(folds):
    """WAR in per cent of each tested speaker, in natural order, by seed: {speaker: (seeds,)}."""
    hits = {}
    for fold in folds:
        right = fold.scores.argmax(1) == fold.labels
        for name in set(fold.speakers.tolist()):
            by_seed = hits.setdefault(name, {})
            by_seed.setdefault(fold.config.settings["seed"], []).extend(right[fold.speakers == name])
    return {
        name: np.array([100 * np.mean(hits[name][seed]) for seed in sorted(hits[name])])
        for name in sorted(hits, key=protocols.natural_order)
    }


CHANCE_LINE = dict(color="black", linestyle=":", linewidth=1)


def make_speakers(options, database, models):
    """WAR of each tested speaker, of all models that have finished folds."""
    shown, results, papers, damaged = {}, {}, {}, []
    for model in models:
        try:
            found, notes = load(options, database, model, [options.track])
        except runs.RunError as error:  # folds of other settings
            found, notes = {}, [f"{model} left out: {error}"]
        damaged += [note for note in notes if note not in damaged]
        if found:
            results[model], folds = found[options.track]
            shown[model] = speaker_war(folds)
            papers[model] = paper_war(database, model, results[model])
    if not shown:
        none = f"{options.runs}: has no finished fold of {database} for this --track and --seed"
        raise protocols.UsageError("; ".join(damaged) or none)
    title = f"{database}: WAR of each speaker, leaving one {options.protocol} out\n"
    title += meaning_of(options.track, results.values())
    return draw_speakers(shown, results, papers, title, incomplete(results)), damaged


def incomplete(results):
    """Lines for the methods of {model: Summary} that lack folds."""
    return [
        f"incomplete: {model} has {result.folds_done} of {result.folds_total} folds"
        for model, result in results.items()
        if result.folds_done < result.folds_total
    ]


def draw_speakers(shown, results, papers, title, notes=()):
    """A row for each method, the highest WAR first: WAR of each tested speaker, of all of them, and published.

    `shown`: {model: {speaker: WAR of each seed (seeds,)}}; `results`: {model: Summary}; `papers`: {model: published WAR
    or None}. A cell is the mean over seeds and their standard deviation.
    """
    names = sorted({name for wars in shown.values() for name in wars}, key=protocols.natural_order)
    order = sorted(shown, key=lambda model: -results[model].war)
    means, spreads = np.full((2, len(order), len(names) + 2), np.nan)
    for row, model in enumerate(order):
        for column, name in enumerate(names):
            seeds = shown[model].get(name, [])
            means[row, column] = np.mean(seeds) if len(seeds) else np.nan
            spreads[row, column] = np.std(seeds, ddof=1) if len(seeds) > 1 else np.nan
        means[row, -2:] = results[model].war, papers[model] or np.nan
        spreads[row, -2] = results[model].war_std or np.nan
    figure = new_figure(min(2.5 + 0.85 * means.shape[1], 16), 1.5 + 0.25 * len(order), title, notes)
    axes, ours = figure.subplots(), np.where(np.arange(len(names) + 2) <= len(names), means, np.nan)
    image = axes.imshow(ours, COLOURS, vmin=0, vmax=max(60, np.nanmax(ours)), aspect="auto")
    for (row, column), war in np.ndenumerate(means):
        text = f"{war:.1f}" + ("" if np.isnan(spread := spreads[row, column]) else f"±{spread:.1f}")
        color = "white" if ours[row, column] < image.norm.vmax / 2 else "black"
        axes.text(column, row, "" if np.isnan(war) else text, ha="center", va="center", fontsize=8, color=color)
    axes.axvline(len(names) - 0.5, color="white", linewidth=3)
    slanted = dict(rotation=30, ha="right", rotation_mode="anchor") if max(map(len, names)) > 8 else {}
    axes.set_xticks(range(len(names) + 2), [*names, "all", "published"], **slanted)
    axes.set_yticks(range(len(order)), [tables.marked(model, results[model].transductive) for model in order])
    axes.set(xlabel="tested speaker; ±: standard deviation over seeds")
    axes.tick_params(length=0)
    chance = 100 / len(results[order[0]].classes)
    figure.colorbar(image, label=f"WAR in %; guessing reaches {chance:.2f}", fraction=0.05)
    return figure


# -------------------------------------------------------------------------------------------- methods

STRICT_MARK = dict(linestyle="", marker="o", markersize=6, color=DARK)
TRANSDUCTIVE_MARK = dict(linestyle="", marker="s", markersize=6, color=LIGHT, markerfacecolor="white")
PAPER_MARK = dict(linestyle="", marker="|", markersize=13, markeredgewidth=1.6, color="black")


def make_methods(options, database, models):
    """WAR of all methods of a database, strict and by the runs of --transductive, with the published figures."""
    results, damaged = methods_of(options, database)
    others, notes = methods_of(options, database, options.transductive) if options.transductive else ({}, [])
    if not results:
        raise protocols.UsageError(f"{options.runs}: has no finished fold of {database} for this --track and --seed")
    if strict := [model for model, result in others.items() if not result.transductive]:
        raise protocols.UsageError(f"--transductive {options.transductive}: {strict[0]} has no statistics of a speaker")
    title = f"{database}: WAR of all methods, leaving one {options.protocol} out\n{meaning_of(options.track, results.values())}"
    shown = {model: result for model, result in results.items() if not result.transductive}
    chance = 100 / len(next(iter(results.values())).classes)
    papers = {model: paper_war(database, model, result) for model, result in (others | shown).items()}
    return draw_methods(shown, others, papers, chance, title, incomplete(shown) + incomplete(others)), [*damaged, *notes]


def methods_of(options, database, folder=None):
    """{model: Summary} of all methods of a database below a folder, else --runs, and notes on damaged folds."""
    seeds = config.parse_seeds(options.seed) if options.seed else None
    found, damaged = summary.collect(folder or options.runs, options.protocol, seeds, options.track, database)
    return {model: result for (_, model), result in summary.summarize_all(found, damaged).items()}, damaged


def paper_war(database, model, result):
    """Published WAR in per cent of the row that a model stands for, or None."""
    for row in published.read_published():
        stands = row["model"] == model or row["method"] in result.method.get("published", ())
        if row["database"] == database and stands and row["war"] is not None:
            return row["war"]
    return None


def draw_methods(shown, others, papers, chance, title, notes=()):
    """A line for each method, the highest strict WAR first: strict mean and 95 % interval, transductive, published.

    `shown` and `others`: {model: Summary}, strict and transductive; `papers`: {model: published WAR or None}.
    """
    from matplotlib.lines import Line2D

    order = sorted(shown, key=lambda model: shown[model].war) + sorted(others.keys() - shown)
    figure = new_figure(7, 1.7 + 0.27 * len(order), title, notes)
    axes = figure.subplots()
    for y, model in enumerate(order):
        if result := shown.get(model):
            low, high = result.war_speakers or (result.war, result.war)
            axes.plot([low, high], [y, y], color=DARK, linewidth=0.8)
            axes.plot(result.war, y, **STRICT_MARK)
        if model in others:
            axes.plot(others[model].war, y, **TRANSDUCTIVE_MARK)
        if papers.get(model):
            axes.plot(papers[model], y, **PAPER_MARK)
    axes.axvline(chance, **CHANCE_LINE)
    axes.set_yticks(range(len(order)), order)
    axes.set(xlabel="WAR in %", ylim=(-0.6, len(order) - 0.4))
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    handles = [
        Line2D([], [], label="ours, strict; line: 95 % over speakers", **STRICT_MARK),
        Line2D([], [], label="ours, with each speaker's own statistics (transductive)", **TRANSDUCTIVE_MARK),
        Line2D([], [], label="published", **PAPER_MARK),
        Line2D([], [], label=f"chance: {chance:.2f}", **CHANCE_LINE),
    ]
    figure.legend(handles=handles if others else [handles[0], *handles[2:]], loc="outside lower center", ncols=2)
    return figure


# --------------------------------------------------------------------------------------------- curves


def pooled_curve(curves, name, metric):
    """Epochs that all folds share, and the metric in per cent, pooled over folds, mean over seeds: (E,), (E,)."""
    epochs = reduce(np.intersect1d, [curve.epochs for curve in curves])
    by_seed = {}
    for curve in curves:
        counts = getattr(curve, name)[np.isin(curve.epochs, epochs)]  # (E, K, K)
        by_seed[curve.seed] = by_seed.get(curve.seed, 0) + counts
    return epochs, 100 * np.mean([[metric(matrix) for matrix in counts] for counts in by_seed.values()], axis=0)


METRICS = dict(WAR=protocols.war, UAR=protocols.uar)
LINES = {
    "one fold, tested speaker": dict(color=DARK, alpha=0.35, linewidth=0.8),
    "tested speakers, pooled over folds": dict(color=DARK, marker="."),
    "held-out speakers, pooled over folds": dict(color=LIGHT, marker=".", linestyle="--"),
}
FOLD, TESTED, HELD_OUT = LINES.values()
MARKS = {  # track -> what it is, and its mark
    "last": ("last epoch, the result", dict(marker="s", color=DARK)),
    "validation": ("validation, chosen on held-out speakers", dict(marker="^", color=DARK)),
    "oracle": ("oracle, a diagnostic and not a result", dict(marker="D", color=DARK, markerfacecolor="white")),
}


def meaning_of(track, results):
    """What the epochs of some Summaries are, by the track that was asked for."""
    kinds = {result.track for result in results} if track == runs.RESULT else {track}
    return MARKS[kinds.pop()][0] if len(kinds) == 1 else tables.TRACK_NAMES[track]


def make_curves(options, database, models):
    """Curves of all tracks that there are."""
    found, damaged = load(options, database, models[0], runs.TRACKS)
    notes = list(dict.fromkeys(note for result, _ in found.values() for note in notes_on({models[0]: result})))
    curves = {
        track: [published.fold_curve(fold) for fold in found[track][1]]
        for track in runs.TRAINED_TRACKS
        if track in found
    }
    results = {track: reached(result) for track, (result, _) in found.items()}
    title = title_of(database, models[0], next(iter(found.values()))[0], options.protocol)
    return draw_curves(curves, results, title, notes), damaged


def draw_curves(trained, results, title, notes=()):
    """Training loss, WAR and UAR over the epochs, with a mark at the epoch that a track chose in a fold.

    `trained`: {a key of runs.TRAINED_TRACKS: [FoldCurve]}; `results`: {track: text with its figures}.
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
                axes.plot(*pooled_curve(curves, "held_out", metric), **HELD_OUT)
        panels[0].set_title(runs.TRAINED_TRACKS[training])
        panels[2].set_xlabel("epoch")
        panels[2].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes, label in zip(grid[:, 0], ("training loss (mean over folds)", "WAR in %", "UAR in %")):
        axes.set_ylabel(label)
    lines = {label: line for label, line in LINES.items() if line != HELD_OUT or "validation" in trained}
    handles = [Line2D([], [], label=label, **line) for label, line in lines.items()]
    for track, text in results.items():
        meaning, mark = MARKS[track]
        handles.append(Line2D([], [], linestyle="", label=f"{meaning}: {text}", **mark))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(trained), fontsize=8)
    return figure


def draw_fold(panels, curve):
    """Draw thin lines of one fold in the three panels of its training, and a mark at each chosen epoch."""
    lines = [(np.arange(len(curve.loss)) + 1, curve.loss)]
    lines += [(curve.epochs, np.array([100 * metric(counts) for counts in curve.test])) for metric in METRICS.values()]
    for axes, (epochs, values) in zip(panels, lines):
        axes.plot(epochs, values, **FOLD)
        for track, index in curve.chosen.items():
            chosen = epochs == curve.epochs[index]
            axes.plot(epochs[chosen], values[chosen], linestyle="", markersize=5, **MARKS[track][1])


# -------------------------------------------------------------------------------- checkpoint to attention


class Explanation(NamedTuple):
    """Attention of a trained model on a recording."""

    segments: np.ndarray  # (S, n_mels, frames) log-Mel, not normalised
    seconds: float  # length of the recording; zeros fill up the last segment
    scores: np.ndarray  # (K,) of the recording, from its segments' posteriors
    maps: dict  # name -> attention of each segment, (S, heads, queries, keys), or of ATFNN (S, 1, n_mels, frames)
    front_end: features.FrontEnd


def explain(folder, path, start=0.0, end=inf):
    """Run the model of a fold on the recording `path`, or its part from `start` to `end` in seconds: its Explanation."""
    import torch

    from training import checkpoints, data, trainer

    model = checkpoints.load_model(folder, "cpu")
    segments, seconds, _ = features.extract(path, model.front_end, start, end)
    utterance_of = torch.zeros(len(segments), dtype=torch.int64)
    loaded = data.Data(None, None, torch.from_numpy(segments), None, utterance_of)
    normalization = model.normalization or data.fit_normalization(loaded, model.settings["normalization"], None)
    with_maps = trainer.takes_maps(model.network)
    posteriors, parts = [], []
    with torch.inference_mode():
        for index in torch.arange(len(segments)).split(BATCH):
            x = data.gather(loaded, normalization, index)  # (b, 1, n_mels, frames)
            logits, maps = model.network(x, return_maps=True) if with_maps else (model.network(x), {})
            posteriors.append(logits.softmax(1))
            parts.append(maps)
    maps = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    counts, aggregation = np.array([len(segments)]), model.settings.get("aggregation", "mean")
    (scores,) = protocols.utterance_scores(torch.cat(posteriors).numpy(), counts, aggregation)
    return Explanation(segments, seconds, scores, maps, model.front_end)


def side_by_side(name, attention):
    """Picture of a model's attention maps, segments side by side: (rows, S * columns), mean over heads.

    T-Trans: rows are queries, columns keys, so that the frames attended to lie below those of the spectrogram.
    F-Trans and TF-Trans: rows are keys, columns queries, so that the bands attended to lie next to its bands; a
    key of TF-Trans stands for the row of v that it weighs. F-Attention and T-Attention: bands and frames.
    """
    blocks = attention.mean(1)  # (S, queries, keys) or (S, n_mels, frames)
    return np.hstack(list(blocks.transpose(0, 2, 1) if name in ("F-Trans", "TF-Trans") else blocks))


def band_of(hz, front_end):
    """Position of a frequency among the bands, whose centres lie at 0, 1, ..."""
    return np.interp(hz, features.band_edges(front_end)[1:-1], np.arange(front_end.n_mels))


def make_attention(options, database, models):
    """Attention of the fold that tests the utterance: no model is shown on a speaker that it was trained on."""
    found, damaged = load(options, database, models[0], [options.track])
    folds, name = found[options.track][1], options.utterance
    fold = next((fold for fold in folds if name in fold.ids), None)
    if fold is None:
        raise protocols.UsageError(
            f"--utterance {name}: no finished fold in {folds[0].source.parent} tests it; name such as {folds[0].ids[0]}"
        )
    if fold.is_published:
        raise protocols.UsageError(
            f"{fold.source}: holds predictions and no model; --figure attention needs the --runs that train.py wrote"
        )
    settings, classes = fold.config.settings, fold.config.database.classes
    if "epochs" not in settings:
        raise protocols.UsageError(f"--model {settings['model']}: has no attention to show; choose another")
    if settings.get("normalization") == "speaker":
        raise protocols.UsageError(
            f"{fold.name()}: --normalization speaker {config.SPEAKER_STATISTICS_NEED}; choose another run"
        )
    if database not in protocols.DATABASES and options.db in (None, database):
        raise protocols.UsageError(
            f"--figure attention: reads the recording; add --db with the path of the manifest, such as {database}.csv"
        )
    opened = protocols.open_database(options.db or database, options.root, partial=True)  # others may be missing
    if name not in opened.ids:
        raise protocols.UsageError(f"{opened.root}: does not hold {name}; set --root to the recordings of the run")
    index = opened.ids.index(name)
    path, part = opened.root / opened.paths[index], () if opened.starts is None else opened.recordings[index][1:]
    explanation, scores = explain(fold.source, path, *part), fold.scores[fold.ids.index(name)]
    if not abs(explanation.scores - scores).max() < SAME_SCORES:
        raise protocols.UsageError(
            f"{path}: does not give the scores saved in {fold.source}; set --root to the recordings of that run"
        )
    if not explanation.maps:
        raise protocols.UsageError(f"--model {settings['model']}: has no attention to show; choose another")
    title = (
        f"{database}: {name} is {classes[fold.labels[fold.ids.index(name)]]}, "
        f"recognised as {classes[scores.argmax()]} ({scores.max():.2f})\n"
        f"by {settings['model']}, trained without {settings['protocol']} {settings['fold_name']}, "
        f"seed {settings['seed']}, {tables.TRACK_NAMES[settings['track']]}"
    )
    return draw_attention(explanation, title, fold.config.deviations), damaged


def draw_attention(shown, title, notes=()):
    """Log-Mel of the whole utterance and the attention of each segment, as in TFT Fig. 3 and ATFNN Fig. 6.

    `shown` is an Explanation. Segments that overlap stand side by side too, each whole, so that the time axis counts
    twice what they share.
    """
    front_end, count = shown.front_end, len(shown.segments)
    block = front_end.frames * front_end.hop_length / front_end.sample_rate  # seconds of a segment
    samples = round(shown.seconds * front_end.sample_rate)
    hop = features.hop_of(samples, front_end) / front_end.sample_rate  # seconds between the starts of two segments
    end = shown.seconds + (count - 1) * (block - hop)  # of the recording, on the time axis
    order = ("T-Trans", "F-Trans", "TF-Trans", "F-Attention", "T-Attention")  # then those of a user's network
    names = sorted(shown.maps, key=lambda name: (*order, name).index(name))
    spectrum = "log-Mel" if front_end.scale == "mel" else "log-power"
    pictures = {spectrum: np.hstack(list(shown.segments))}  # (n_mels, S * frames)
    pictures.update({name: side_by_side(name, shown.maps[name]) for name in names})
    note = f"the recording ends at {shown.seconds:.2f} s"
    if front_end.cut == "equal":
        note += f"; segments of {hop:.2f} s, filled with zeros to {block:.2f} s"
    else:
        note += "; zeros fill the last segment" if end < count * block else ""
        note += f"; segments of {block:.2f} s, a new one after {hop:.2f} s, side by side" if hop < block else ""
    width = float(np.clip(2.2 + 1.9 * count, 7, 14))
    figure = new_figure(width, 0.8 + 2.1 * len(pictures), title, [note, *notes])
    grid = figure.subplots(len(pictures), squeeze=False)[:, 0]
    for letter, axes, (name, picture) in zip("abcde", grid, pictures.items()):
        step = front_end.n_mels / len(picture)  # bands of a row
        low, high = (0, block) if name == "T-Trans" else (-step / 2, front_end.n_mels - step / 2)
        recorded = picture[:, : max(1, round(picture.shape[1] * min(1, end / (count * block))))]
        scale = {} if "Trans" in name else dict(vmin=recorded.min(), vmax=recorded.max())  # without the zeros
        image = axes.imshow(picture, COLOURS, extent=(0, count * block, low, high), **SPECTROGRAM, **scale)
        kind = " spectrogram" if name == spectrum else ""
        kind = f" attention, mean of {shown.maps[name].shape[1]} heads" if "Trans" in name else kind
        axes.set_title(f"({letter}) {name}{kind}")
        figure.colorbar(image, ax=axes, pad=0.01, label="ln energy" if name == spectrum else "weight")
        label_axes(axes, name, shown, block)
    return figure


def label_axes(axes, name, shown, block):
    """Label axes in seconds and Hz, draw lines between segments, and in ATFNN's figure the dashed line at band 50."""
    front_end, count = shown.front_end, len(shown.segments)
    for number in range(1, count):
        axes.axvline(number * block, color="white", linewidth=min(0.6, 20 / count))
    if name == "T-Trans":
        axes.set(xlabel="key frame, time in s", ylabel="query frame,\ntime in segment in s")
        return
    least = 0 if front_end.scale == "mel" else 1000  # below they would stand too close
    shown_hz = [hz for hz in TICKS if least <= hz <= front_end.fmax]
    axes.set_yticks([band_of(hz, front_end) for hz in shown_hz], shown_hz)
    if name in ("F-Trans", "TF-Trans"):
        step, labelled = -(-count // 12), (500, 2000) if count <= 8 else (1000,)  # segments, Hz
        ticks = [(i, hz) for i in range(0, count, step) for hz in labelled]
        lowest = axes.get_ylim()[0]
        positions = [block * (i + (band_of(hz, front_end) - lowest) / front_end.n_mels) for i, hz in ticks]
        axes.set_xticks(positions, [hz for _, hz in ticks])
        axes.set(xlabel="query band in Hz, for each segment", ylabel="key band in Hz")
        return
    axes.set(xlabel="time in s", ylabel="frequency in Hz")
    if {"F-Attention", "T-Attention"} & shown.maps.keys():
        mark_band(axes, front_end)


def mark_band(axes, front_end):
    """Draw the dashed line of ATFNN Fig. 6 with its frequency; white on black, to be seen on any colour."""
    from matplotlib.patheffects import withStroke

    hz = features.band_edges(front_end)[BAND_MARKED + 1]  # the centre
    outline = [withStroke(linewidth=2.5, foreground="black")]
    axes.axhline(BAND_MARKED, color="white", linestyle="--", linewidth=1.2, path_effects=outline)
    axes.text(
        0.99, BAND_MARKED + 3, f"Mel band {BAND_MARKED}: {hz:.0f} Hz", ha="right", va="bottom", fontsize=8,
        transform=axes.get_yaxis_transform(), bbox=dict(facecolor="white", edgecolor="none", pad=1.5),
    )  # fmt: skip


MAKERS = dict(
    confusion=make_confusion, attention=make_attention, curves=make_curves, speakers=make_speakers,
    methods=make_methods,
)  # by the names in FIGURES; each gives the figure and notes on damaged folds
