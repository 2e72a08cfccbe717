"""Print the tables of both papers, the published figures beside ours.

    python evaluate.py                                  # every table but significance, every database
    python evaluate.py --table ablation
    python evaluate.py --table comparison --db casia --format markdown
    python evaluate.py --track all                      # last epoch, validation and oracle side by side
    python evaluate.py --table significance --models tft atfnn --db casia
    python evaluate.py --audit                          # prove the results from the saved files alone
    python evaluate.py --export published               # predictions small enough to publish: archive.py
    python evaluate.py --runs published                 # the tables, from them
    python evaluate.py --figure confusion --db casia --model tft --out confusion.png     # others in figures.py

Reads only the predictions that train.py saved, or --export archived, below `--runs`, and never trains. WAR and
UAR are in per cent and pooled over all folds; the means over folds stand beside them. With several seeds a figure
is their mean and standard deviation. What is not run shows the published figure alone. Formats: text, markdown
and latex for reading, csv and json with every column for programs.
"""

import csv
import json
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product
from pathlib import Path

import numpy as np

import archive
import audit
import audit_table
import protocols
import results
import significance
import tables

PUBLISHED = Path(__file__).with_name("benchmarks") / "published.csv"
TABLES = ("databases", "comparison", "ablation")
TEMPLATE = "casia"  # the database that every table of both papers holds: its rows serve unpublished databases

# ------------------------------------------------------------------------------- from folds to figures


@dataclass
class Summary:
    """What the saved predictions of one model on one database amount to; figures in per cent."""

    war: float
    uar: float
    war_std: float  # over seeds; None with one seed
    uar_std: float
    war_speakers: tuple  # 95 % interval, bootstrap over speakers
    uar_speakers: tuple
    war_utterances: tuple  # 95 % interval, bootstrap over utterances
    uar_utterances: tuple
    fold_war: float  # mean over folds instead of pooled
    fold_uar: float
    folds_done: int
    folds_total: int
    seeds: list
    utterances: int  # predicted, per seed
    confusion: list  # counts, rows the true class, summed over seeds
    classes: list
    partial: bool
    notes: list


def collect(runs, protocol, seeds, track, only_database=None, only_model=None):
    """Every finished fold below `runs`: {(database, model): {seed: [FoldResult]}}, and notes on damaged ones.

    `only_database`, `only_model`: a fault in another then does no harm.
    """

    def is_wanted(database, model, its_protocol, seed=None):
        asked = its_protocol == protocol and only_database in (None, database) and only_model in (None, model)
        return asked and (not seeds or seed is None or seed in seeds)

    folds, notes = [], []
    for *place, folder in results.find_folds(runs, track):
        if not is_wanted(*place[:4]):
            continue
        if results.is_done(folder):
            fold = results.read_fold(folder)
            if (told := results.place_of(fold)) != place:
                raise results.RunError(f"{folder}: holds {' '.join(map(str, told))}; rename it back")
            folds.append(best_on_test(fold) if track == "oracle" else fold)
        elif (folder / results.MARKER).exists():
            notes.append(f"{folder}: damaged since it was finished, not counted; repeat the training command")
    for *place, path in archive.find(runs):
        if is_wanted(*place):
            folds += [fold for fold in archive.read_folds(path, track) if is_wanted(*results.place_of(fold)[:4])]
    found = {}
    for fold in sorted(folds, key=results.place_of):  # one in a folder comes before its like in an archive
        database, model, _, seed, _ = results.place_of(fold)
        its_folds = found.setdefault((database, model), {}).setdefault(seed, [])
        if its_folds and results.place_of(its_folds[-1]) == results.place_of(fold):
            raise results.RunError(
                f"{results.name_of(fold)}: is there as {results.name_of(its_folds[-1])} too; remove one of them"
            )
        its_folds.append(fold)
    return found, notes


def all_runs(runs):
    """(database, model, protocol) of all that lies below `runs`, finished or not, in sorted order."""
    folds = [fold for track in results.TRAINED for fold in results.find_folds(runs, track)]
    return sorted({tuple(place[:3]) for place in (*folds, *archive.find(runs))})


def best_on_test(fold):
    """The fold with its scores of the epoch that is best on the test speaker: a diagnostic, not a result."""
    kept = results.read_epochs(fold.folder)
    return fold._replace(scores=kept["scores"][results.best_epoch(fold.labels, kept["scores"])])


def check_alike(folds):
    """Folds of one row must be parts of one experiment; RunError names the first that is not."""
    tested = {}
    for fold in folds:
        settings, first, name = fold.config["settings"], folds[0].config["settings"], results.name_of(fold)
        for setting in results.differing(settings, first):
            raise results.RunError(
                f"{name}: differs from {results.name_of(folds[0])} in {setting}; keep them in separate --runs"
            )
        for utterance in fold.ids:
            key = (settings["seed"], utterance)
            if key in tested:
                raise results.RunError(f"{name}: tests {utterance}, which {tested[key]} tests too; remove one of them")
            tested[key] = name


def summarize(by_seed):
    """Summary of {seed: [FoldResult]}, or None where no fold is done; see `seeds_that_count`."""
    if not by_seed:
        return None
    check_alike([fold for folds in by_seed.values() for fold in folds])
    used = seeds_that_count(by_seed)
    config = by_seed[used[0]][0].config
    classes = config["database"]["classes"]
    per_fold = [[protocols.confusion(fold.labels, fold.scores) for fold in by_seed[seed]] for seed in used]
    pooled = [sum(matrices) for matrices in per_fold]
    war, war_std = over_seeds([protocols.war(matrix) for matrix in pooled])
    uar, uar_std = over_seeds([protocols.uar(matrix) for matrix in pooled])
    fold_war, fold_uar = (
        over_seeds([np.mean([metric(matrix) for matrix in matrices]) for matrices in per_fold])[0]
        for metric in (protocols.war, protocols.uar)
    )
    hits, labels, speakers = paired_hits(by_seed, used)
    over_speakers = significance.speaker_interval(labels, hits.mean(0), speakers, len(classes))
    over_utterances = significance.utterance_interval(labels, hits.mean(0), len(classes))
    war_speakers, uar_speakers, war_utterances, uar_utterances = (
        interval and [100 * end for end in interval] for interval in (*over_speakers, *over_utterances)
    )
    return Summary(
        war=war,
        uar=uar,
        war_std=war_std,
        uar_std=uar_std,
        war_speakers=war_speakers,
        uar_speakers=uar_speakers,
        war_utterances=war_utterances,
        uar_utterances=uar_utterances,
        fold_war=fold_war,
        fold_uar=fold_uar,
        folds_done=len(by_seed[used[0]]),
        folds_total=config["folds_total"],
        seeds=used,
        utterances=int(pooled[0].sum()),
        confusion=sum(pooled).tolist(),
        classes=classes,
        partial=config["database"]["partial"],
        notes=row_notes(by_seed, used, config),
    )


def seeds_that_count(by_seed):
    """Seeds with all their folds; where no seed has all, those with the most and same folds, shown as done/total."""
    alike = {}  # folds done -> seeds
    for seed, folds in by_seed.items():
        alike.setdefault(frozenset(fold.config["settings"]["fold"] for fold in folds), []).append(seed)
    return alike[max(alike, key=lambda done: (len(done), len(alike[done]), sorted(done)))]


def row_notes(by_seed, used, config):
    """What a reader must know about a row's figures."""
    notes = list(config["deviations"])
    if left := [seed for seed in by_seed if seed not in used]:
        notes.append(f"seeds {tables.ranges(left)} left out, with fewer or other folds")
    if len({json.dumps(fold.config["code"]) for seed in used for fold in by_seed[seed]}) > 1:
        notes.append("folds of different versions of the code")
    if config["database"]["partial"]:
        notes.append("partial database")
    return notes


def over_seeds(values):
    """Mean and standard deviation in per cent; no deviation with one seed."""
    spread = 100 * float(np.std(values, ddof=1)) if len(values) > 1 else None
    return 100 * float(np.mean(values)), spread


def paired_hits(by_seed, seeds):
    """Hits (seeds, N), labels (N,) and speaker numbers (N,), utterances in sorted order."""
    rows, first = [], None
    for seed in seeds:
        ids = np.concatenate([fold.ids for fold in by_seed[seed]])
        labels, speakers, scores = (
            np.concatenate([getattr(fold, name) for fold in by_seed[seed]]) for name in ("labels", "speakers", "scores")
        )
        order = np.argsort(ids)
        told = (ids[order].tolist(), labels[order].tolist(), speakers[order].tolist())
        if told != (first := first or told):
            place = by_seed[seed][0].archive or by_seed[seed][0].folder.parent
            raise results.RunError(
                f"{place}: seed {seed} tests other utterances than seed {seeds[0]}; "
                "remove one of them and repeat its training command"
            )
        rows.append((scores.argmax(1) == labels)[order])
    return np.array(rows), labels[order], np.unique(speakers[order], return_inverse=True)[1]


# ------------------------------------------------------------------------------------- rows of a table


def read_published():
    """Rows of benchmarks/published.csv, figures as floats or None."""
    with open(PUBLISHED, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["war"], row["uar"] = (float(row[name]) if row[name] else None for name in ("war", "uar"))
    return rows


def figure_rows(kind, databases, protocol, seeds, track, summaries):
    """Rows of the comparison or the ablation: all published ones, ours beside them.

    A database that a paper's table leaves out has the methods that this suite trains, as far as they are run.
    """
    published = [row for row in read_published() if row["kind"] == kind]
    rows = []
    for source in dict.fromkeys(row["source"] for row in published):
        for database in databases:
            chosen = [row for row in published if row["source"] == source and row["database"] == database]
            if not chosen:
                chosen = [
                    dict(row, database=database, war=None, uar=None, note="")
                    for row in published
                    if row["source"] == source and row["database"] == TEMPLATE and (database, row["model"]) in summaries
                ]
            rows += [figure_row(row, protocol, track, seeds, summaries.get((database, row["model"]))) for row in chosen]
    return rows


def figure_row(published, protocol, track, seeds, ours):
    """`seeds`: those asked for, or None for all; a row that is run tells those that count instead."""
    empty = dict(dict.fromkeys(Summary.__dataclass_fields__), seeds=seeds)
    row = dict(
        table=published["kind"],
        source=published["source"],
        database=published["database"],
        method=published["method"],
        model=published["model"] or None,
        published_protocol=published["protocol"] or None,
        published_war=published["war"],
        published_uar=published["uar"],
        published_note=published["note"] or None,
        protocol=protocol,
        track=track,
        **(vars(ours) if ours else empty),
    )
    if ours and track == "oracle":
        row["notes"] = [*ours.notes, tables.ORACLE_NOTE]
    return row


DATABASE_SOURCES = dict(iemocap="TFT Table 1, ATFNN Table I", abc="ATFNN Table I", casia="TFT Table 1, ATFNN Table I")
FIGURE_KEYS = (
    "method", "published_war", "published_uar", "war", "uar", "folds_done", "folds_total", "seeds", "utterances",
)  # fmt: skip


def database_rows(databases, found):
    """Table 1 / Table I: what was published of a database, and what the runs found."""
    rows = []
    for name in databases:
        corpus = protocols.DATABASES.get(name)
        runs = [seeds for (database, _), seeds in found.items() if database == name]
        seen = next(iter(runs[0].values()))[0].config["database"] if runs else None
        if not (corpus or seen):
            continue
        classes = list(corpus.classes) if corpus else list(seen["classes"])
        published = corpus.classes if corpus and name != "synthetic" else {}
        lines = [("utterances", sum(published.values()) or None, seen and seen["utterances"])]
        lines.append(("speakers", corpus.speakers if published else None, seen and len(seen["speakers"])))
        lines += [(label, published.get(label), seen and seen["counts"].get(label, 0)) for label in classes]
        lines.append(("minutes", None, seen and round(seen["seconds"] / 60, 1)))
        language = corpus.language if corpus else None
        rows += [
            dict(
                dict.fromkeys(FIGURE_KEYS), table="databases", source=DATABASE_SOURCES.get(name),
                database=name, language=language, count=what, published=count, found=number,
                partial=seen and seen["partial"],
            )
            for what, count, number in lines
        ]  # fmt: skip
    return rows


def significance_rows(models, databases, found, protocol, track):
    """Each pair of `models` on each database where both have all folds of a seed in common."""
    rows = []
    for database, (first, second) in product(databases, combinations(models, 2)):
        runs = [found.get((database, model), {}) for model in (first, second)]
        seeds = sorted(set.intersection(*({seed for seed, folds in run.items() if is_complete(folds)} for run in runs)))
        if not seeds:
            continue
        for run in runs:
            check_alike([fold for seed in seeds for fold in run[seed]])
        for name in ("utterances", "recordings"):
            one, other = (run[seeds[0]][0].config["settings"][name] for run in runs)
            if one != other:
                raise results.RunError(
                    f"{database}: {first} and {second} were run on other {name}; keep them in separate --runs"
                )
        (ours, _, speakers), (theirs, _, _) = (paired_hits(run, seeds) for run in runs)
        told = significance.compare(ours, theirs, speakers)
        winner = {"first": first, "second": second}.get(told.verdict)
        rows.append(dict(
            dict.fromkeys(FIGURE_KEYS), table=tables.SIGNIFICANCE,
            database=database, protocol=protocol, track=track,
            first=first, second=second,
            war_first=100 * float(ours.mean()), war_second=100 * float(theirs.mean()),
            difference=100 * told.war_difference, difference_speakers=[100 * end for end in told.interval],
            speakers=int(speakers.max()) + 1, speaker_p=told.speaker_p, mcnemar_p=told.mcnemar_p,
            notes=[
                f"{model}: {note}"
                for model, run in zip((first, second), runs)
                for note in row_notes({seed: run[seed] for seed in seeds}, seeds, run[seeds[0]][0].config)
            ],
            seeds=seeds, seeds_agree=told.seeds_agree, verdict=f"{winner} is better" if winner else told.verdict,
        ))  # fmt: skip
    if not rows:
        raise protocols.UsageError(
            f"--models {' '.join(models)}: no two of them have all folds of a seed on one database"
        )
    return rows


def is_complete(folds):
    return len(folds) == folds[0].config["folds_total"]


# -------------------------------------------------------------------------------------------- figures

FIGURES = dict(  # name -> the tracks that it can show
    confusion=results.TRACKS,
    attention=("last", "validation"),  # of the oracle's epoch no weights are kept
    curves=("last", "all"),  # shows all of them
)
FIGURE_OPTIONS = dict(out=FIGURES, model=FIGURES, counts=["confusion"], utterance=["attention"], root=["attention"])


def check_figure_options(options):
    """UsageError for an option that the figure, or a table, would pass over, and for one that is missing."""
    figure = options.figure
    for name, having in FIGURE_OPTIONS.items():
        given = getattr(options, name)
        if given and figure not in having:
            raise protocols.UsageError(f"--{name}: goes with --figure {'|'.join(having)}; leave it out")
        if not given and figure in having and name in ("out", "utterance"):
            raise protocols.UsageError(f"--figure {figure}: needs --{name}; see evaluate.py --help")
    if figure and (options.audit is not None or options.table != "all" or options.format != "text"):
        raise protocols.UsageError(f"--figure {figure}: prints no table; leave out --audit, --table and --format")
    if figure and options.track not in FIGURES[figure]:
        raise protocols.UsageError(f"--track {options.track}: --figure {figure} takes {' or '.join(FIGURES[figure])}")


def check_whole_options(options):
    """UsageError for an option that the audit, the export or a table would pass over."""
    usual, passed_over, reason = vars(parse_command_line([])), (), ""
    if options.export is not None:
        passed_over = ("figure", "audit", "table", "models", "track", "seed", "format")
        reason = "the export takes all tracks and seeds and prints no table"
    elif options.audit is not None:
        passed_over = ("table", "models", "track", "db", "protocol", "seed", "format")
        reason = "the audit checks all that is there"
    elif options.table != tables.SIGNIFICANCE:
        passed_over, reason = ("models",), f"goes with --table {tables.SIGNIFICANCE}"
    for name in passed_over:
        if getattr(options, name) != usual[name]:
            raise protocols.UsageError(f"--{name}: {reason}; leave it out")


def choose_run(options):
    """Database and model of a figure: those named, or the only ones that were run."""
    ran = [(database, model) for database, model, protocol in all_runs(options.runs) if protocol == options.protocol]
    name = options.db
    if name and name not in dict(ran):
        name = protocols.database_name(name)
    fits = [(db, model) for db, model in ran if name in (None, db) and options.model in (None, model)]
    if not fits:
        wish = " ".join(filter(None, (name, options.model, options.protocol)))
        raise protocols.UsageError(f"{options.runs}: holds no tested fold of {wish}; first run train.py, or set --runs")
    if len(fits) > 1:
        several = ", ".join(" ".join(fit) for fit in fits)
        raise protocols.UsageError(f"{options.runs}: holds {several}; choose one with --db and --model")
    return fits[0]


def make_figure(options):
    """Draw the figure that the options name."""
    import figures

    figures.check_out(options.out)
    database, model = choose_run(options)
    seeds = results.parse_seeds(options.seed) if options.seed else None
    runs, summaries, notes, damaged = {}, {}, [], []
    for track in results.TRACKS if options.figure == "curves" else [options.track]:
        found, faults = collect(options.runs, options.protocol, seeds, track, database, model)
        damaged += [fault for fault in faults if fault not in damaged]
        if summary := summarize(found.get((database, model), {})):
            runs[track] = [fold for seed in summary.seeds for fold in found[database, model][seed]]
            summaries[track] = summary
            told = tables.figure_notes([dict(vars(summary), method=model, published_protocol=None)])
            notes += [note for note in told if note not in notes]
    if not runs:
        none = f"{options.runs}: has no finished fold of {database} {model} for this --track and --seed"
        raise protocols.UsageError("; ".join(damaged) or none)
    reached = {
        track: f"WAR {tables.percent(one.war, one.war_std)}, UAR {tables.percent(one.uar, one.uar_std)}, "
        f"seed {tables.ranges(one.seeds)}"
        for track, one in summaries.items()
    }
    title = f"{database}: {model}, leaving one {options.protocol} out"
    first = next(iter(runs))
    if options.figure == "curves":
        trained = {
            track: [archive.fold_curve(fold) for fold in runs[track]] for track in results.TRAINED if track in runs
        }
        figure = figures.draw_curves(trained, reached, title, notes)
    elif options.figure == "confusion":
        title += f"\n{figures.MARKS[first][0]}: {reached[first]}"
        shown = summaries[first]
        figure = figures.draw_confusion(shown.confusion, shown.classes, title, notes, options.counts)
    else:
        figure = attention_figure(options, database, runs[first])
    figures.write(figure, options.out)
    print(f"{options.out}: {options.figure} of {model} on {database}")
    for fault in damaged:
        print(f"evaluate.py: {fault}", file=sys.stderr)


def attention_figure(options, database, folds):
    """Attention of the fold that tests the utterance: no model is shown on a speaker that it was trained on."""
    import figures

    name = options.utterance
    fold = next((fold for fold in folds if name in fold.ids), None)
    if fold is None:
        place, one = folds[0].archive or folds[0].folder.parent, folds[0].ids[0]
        raise protocols.UsageError(f"--utterance {name}: no finished fold in {place} tests it; name one such as {one}")
    if fold.archive:
        raise protocols.UsageError(
            f"{fold.archive}: holds predictions and no model; --figure attention needs the --runs that train.py wrote"
        )
    if database not in protocols.DATABASES and options.db in (None, database):
        raise protocols.UsageError(f"--db {options.db or database}: give the path of its manifest .csv for this figure")
    # how many others there are does not matter
    opened = protocols.open_database(options.db or database, options.root, partial=True)
    if name not in opened.ids:
        raise protocols.UsageError(f"{opened.root}: does not hold {name}; set --root to the recordings of the run")
    path = opened.root / opened.paths[opened.ids.index(name)]
    told, at = figures.explain(fold.folder, path), fold.ids.index(name)
    if not abs(told.scores - fold.scores[at]).max() < figures.SAME_SCORES:
        raise protocols.UsageError(
            f"{path}: does not give the scores saved in {fold.folder}; set --root to the recordings of that run"
        )
    settings, classes = fold.config["settings"], fold.config["database"]["classes"]
    if not told.maps:
        raise protocols.UsageError(f"--model {settings['model']}: has no attention to show; choose another")
    said, score = classes[fold.scores[at].argmax()], fold.scores[at].max()
    title = (
        f"{database}: {name} is {classes[fold.labels[at]]}, recognised as {said} ({score:.2f})\n"
        f"by {settings['model']}, trained without {settings['protocol']} {settings['fold_name']}, "
        f"seed {settings['seed']}, {tables.TRACK_NAMES[options.track]}"
    )
    return figures.draw_attention(told, title, fold.config["deviations"])


# ---------------------------------------------------------------------------------------- the command


def parse_command_line(arguments=None):
    parser = results.OneLineParser(__doc__)
    add = parser.add_argument
    add(
        "--table",
        default="all",
        choices=(*TABLES, tables.SIGNIFICANCE, "all"),
        help="which table (default: all but significance)",
    )
    add(
        "--models",
        nargs="+",
        default=["tft", "atfnn"],
        help="models that the table significance compares (default: tft atfnn)",
    )
    add("--track", default="last", choices=(*results.TRACKS, "all"), help="which epoch (default: last)")
    add("--db", help="one database only: its name, or the path of its manifest .csv")
    add(
        "--protocol",
        choices=protocols.PROTOCOLS,
        help="what our folds leave out (default: speaker; of --export: all that are there)",
    )
    add("--seed", help="seeds to count, such as 0-4 or 0-2,5 (default: all that are there)")
    add("--runs", help="folder of the results, or of what --export wrote (default: runs)")
    add("--format", default="text", choices=tables.FORMATS, help="how to print (default: text)")
    add("--figure", choices=FIGURES, help="draw a figure instead; needs requirements-figures.txt")
    add("--out", help="file of the figure: .png, .svg or .pdf")
    add("--model", help="model of the figure (default: the one that was run)")
    add("--counts", action="store_true", help="confusion: counts in the cells as well")
    add("--utterance", help="attention: of which utterance, named as in predictions.csv")
    add("--root", help="attention: folder of the recordings (default: $SER_DATA/<db>, else data/<db>, or a manifest's)")
    add(
        "--audit",
        nargs="?",
        const="",
        metavar="TABLE",
        help="check the saved files instead, and a table saved with --format json",
    )
    add(
        "--export",
        metavar="FOLDER",
        help="archive instead, in a few text files that --runs reads, what the tables and curves need",
    )
    options = parser.parse_args(arguments)
    if options.protocol is None and options.export is None:
        options.protocol = "speaker"
    return options


def choose_databases(options):
    """The databases of --db: one, or all that are published or run."""
    ran = dict.fromkeys(run[0] for run in all_runs(options.runs))
    known = list(dict.fromkeys(row["database"] for row in read_published()))
    databases = [*known, *(name for name in ran if name not in known)]
    if not options.db:
        return databases
    name = options.db if options.db in ran else protocols.database_name(options.db)
    if name not in databases:
        raise protocols.UsageError(
            f"{options.runs}: holds no tested fold of {name}; first run python train.py --db {shlex.quote(options.db)}"
        )
    return [name]


def summarize_all(found):
    """(database, model) -> Summary, of what `collect` found."""
    return {key: summary for key, by_seed in found.items() if (summary := summarize(by_seed))}


def table_rows(table, databases, found, summaries, protocol, seeds, track, models):
    """Rows of one table, of the runs that `collect` found."""
    if table == "databases":
        return database_rows(databases, found)
    if table == tables.SIGNIFICANCE:
        return significance_rows(models, databases, found, protocol, track)
    return figure_rows(table, databases, protocol, seeds, track, summaries)


def make_rows(options):
    """Rows of the tables that the options name, and notes on what was not counted."""
    seeds = results.parse_seeds(options.seed) if options.seed else None
    databases = choose_databases(options)
    rows, damaged = [], []
    for track in results.TRACKS if options.track == "all" else [options.track]:
        found, notes = collect(options.runs, options.protocol, seeds, track, databases[0] if options.db else None)
        damaged += [note for note in notes if note not in damaged]
        summaries = summarize_all(found)
        for table in TABLES if options.table == "all" else [options.table]:
            if table != "databases" or not any(row["table"] == table for row in rows):
                how = (options.protocol, seeds, track, options.models)
                rows += table_rows(table, databases, found, summaries, *how)
    if not rows:
        raise protocols.UsageError(
            f"{options.runs}: has no results of {options.db} for this --protocol, --seed and --track"
        )
    return rows, damaged


def main(arguments=None):
    options = parse_command_line(arguments)
    check_figure_options(options)
    check_whole_options(options)
    if options.runs is not None and not Path(options.runs).is_dir():
        raise protocols.UsageError(f"--runs {options.runs}: no such folder; name the one that train.py wrote")
    options.runs = options.runs or "runs"
    if options.export is not None:
        return export(options)
    if options.audit is not None:
        return run_audit(options)
    if options.figure:
        return make_figure(options)
    rows, damaged = make_rows(options)
    print(tables.render(rows, options.format))
    for note in damaged:
        print(f"evaluate.py: {note}", file=sys.stderr)


def export(options):
    """Archive the finished folds of --runs, in a file for each database, model and protocol."""
    if not options.export or Path(options.export).resolve() == Path(options.runs).resolve():
        raise protocols.UsageError(f"--export {options.export}: name a folder other than --runs")
    databases = choose_databases(options)
    tracks, damaged = {}, []  # (database, model, protocol) -> track -> folds
    for protocol, track in product([options.protocol] if options.protocol else protocols.PROTOCOLS, results.TRACKS):
        found, notes = collect(options.runs, protocol, None, track, databases[0] if options.db else None)
        damaged += [note for note in notes if note not in damaged]
        for key, by_seed in found.items():
            folds = [fold for its_folds in by_seed.values() for fold in its_folds]
            check_alike(folds)
            tracks.setdefault((*key, protocol), {})[track] = folds
    archived = [fold.archive for by_track in tracks.values() for folds in by_track.values() for fold in folds]
    if already := next(filter(None, archived), None):
        raise protocols.UsageError(f"{already}: is an archive; copy it, or name the --runs that train.py wrote")
    if not tracks:
        none = f"{options.runs}: has no finished fold of this --db and --protocol; first run train.py, or set --runs"
        raise protocols.UsageError("; ".join([*damaged, none]))
    for note in damaged:
        print(f"evaluate.py: {note}", file=sys.stderr)
    beside, archives = {}, {}  # an archive appears after the files that it needs, and none where another is refused
    for by_track in tracks.values():
        files = archive.pack_and_check(options.export, options.runs, by_track)
        archives.update([files.popitem()])
        beside.update(files)
    results.write_texts(beside | archives)
    for path, by_track in zip(archives, tracks.values()):
        print(f"{path}: " + ", ".join(f"{track} {len(folds)} folds" for track, folds in by_track.items()))


def rows_again(runs):
    """What `audit_table.py` compares a saved table with: a function that makes the rows of a table anew."""

    @cache
    def read(*which):
        database, protocol, track, seeds = which
        return collect(runs, protocol, seeds, track, database)[0]

    @cache
    def summaries(*which):
        return summarize_all(read(*which))

    def again(table, database, protocol, track, seeds, models):
        which = (database, protocol, track, seeds and tuple(seeds))
        try:
            summed = summaries(*which) if table in ("comparison", "ablation") else {}
            return table_rows(table, [database], read(*which), summed, protocol, seeds, track, models)
        except (results.RunError, protocols.UsageError):  # what the evaluator refuses, no table can show
            return []

    return again


def run_audit(options):
    """Print what the audit finds; exit 1 at any fault."""

    def figures(database, model, protocol, track, seeds):
        found, _ = collect(options.runs, protocol, seeds, track, database, model)
        return summarize(found.get((database, model), {}))

    found = list(audit.check_runs(options.runs, figures))
    if options.audit:
        found += [(line, True) for line in audit_table.check_table(options.audit, rows_again(options.runs))]
    for line, _ in found:
        print(line)
    print(*audit.fractions(read_published(), protocols.DATABASES), sep="\n")
    faults = sum(is_fault for _, is_fault in found)
    told = "1 fault" if faults == 1 else f"{faults or 'no'} faults"
    print(f"{told} in {options.runs}")
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    with results.plain_errors("evaluate.py", interrupted="it changes nothing but what --out and --export name"):
        main()
