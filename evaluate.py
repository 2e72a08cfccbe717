"""Print the tables of both papers, the published figures beside ours.

    python evaluate.py                                  # every table, every database
    python evaluate.py --table ablation
    python evaluate.py --table comparison --db casia --format markdown

Reads only the predictions that train.py saved below `--runs`, and never trains. WAR and UAR are in per
cent and pooled over all folds; the means over folds stand beside them. With several seeds a figure is their
mean and standard deviation. What is not run shows the published figure alone. Formats: text, markdown and
latex for reading, csv and json with every column for programs.
"""

import csv
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import protocols
import results

PUBLISHED = Path(__file__).with_name("benchmarks") / "published.csv"
TABLES = ("databases", "comparison", "ablation")
FORMATS = ("text", "markdown", "latex", "csv", "json")
TEMPLATE = "casia"  # the database that every table of both papers holds: its rows serve unpublished databases

# ------------------------------------------------------------------------------- from folds to figures


@dataclass
class Summary:
    """What the saved predictions of one model on one database amount to; figures in per cent."""

    war: float
    uar: float
    war_std: float  # over seeds; None with one seed
    uar_std: float
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


def collect(runs, protocol, seeds):
    """Every finished fold below `runs`: {(database, model): {seed: [FoldResult]}}, and notes on damaged ones."""
    found, notes = {}, []
    for database, model, its_protocol, seed, _, folder in results.find_folds(runs):
        if its_protocol != protocol or (seeds and seed not in seeds):
            continue
        folds = found.setdefault((database, model), {}).setdefault(seed, [])
        if results.is_done(folder):
            folds.append(results.read_fold(folder))
        elif (folder / results.MARKER).exists():
            notes.append(f"{folder}: damaged since it was finished, not counted; repeat the training command")
    return found, notes


def check_alike(folds):
    """Folds of one row must be parts of one experiment; RunError names the first that is not."""

    tested = {}
    for fold in folds:
        settings, first = fold.config["settings"], folds[0].config["settings"]
        for name, value in settings.items():
            if name not in ("seed", "fold", "fold_name") and value != first.get(name):
                raise results.RunError(f"{fold.folder}: differs from {folds[0].folder} in {name}; keep them in separate --runs")
        for utterance in fold.ids:
            key = (settings["seed"], utterance)
            if key in tested:
                raise results.RunError(f"{fold.folder}: tests {utterance}, which {tested[key]} tests too; remove one of them")
            tested[key] = fold.folder


def summarize(by_seed):
    """Summary of {seed: [FoldResult]}, or None where no fold is done.

    Seeds with all their folds count; where no seed has all, the one with the most stands for the row, which
    then shows its folds as done/total.
    """
    by_seed = {seed: folds for seed, folds in by_seed.items() if folds}
    if not by_seed:
        return None
    check_alike([fold for folds in by_seed.values() for fold in folds])
    config = next(iter(by_seed.values()))[0].config
    total = config["folds_total"]
    complete = [seed for seed, folds in by_seed.items() if len(folds) == total]
    used = complete or [max(by_seed, key=lambda seed: len(by_seed[seed]))]
    notes = list(config["deviations"])
    notes += [
        f"seed {seed} left out, {len(folds)}/{total} folds done" for seed, folds in by_seed.items() if seed not in used
    ]
    if config["database"]["partial"]:
        notes.append("partial database")
    per_fold = [[protocols.confusion(fold.labels, fold.scores) for fold in by_seed[seed]] for seed in used]
    pooled = [sum(matrices) for matrices in per_fold]

    def over_seeds(values):
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return 100 * float(np.mean(values)), None if spread is None else 100 * spread

    war, war_std = over_seeds([protocols.war(matrix) for matrix in pooled])
    uar, uar_std = over_seeds([protocols.uar(matrix) for matrix in pooled])
    return Summary(
        war, uar, war_std, uar_std,
        fold_war=over_seeds([np.mean([protocols.war(matrix) for matrix in matrices]) for matrices in per_fold])[0],
        fold_uar=over_seeds([np.mean([protocols.uar(matrix) for matrix in matrices]) for matrices in per_fold])[0],
        folds_done=len(by_seed[used[0]]),
        folds_total=total,
        seeds=used,
        utterances=int(pooled[0].sum()),
        confusion=sum(pooled).tolist(),
        classes=config["database"]["classes"],
        partial=config["database"]["partial"],
        notes=notes,
    )  # fmt: skip


# ------------------------------------------------------------------------------------- rows of a table


def read_published():
    """Rows of benchmarks/published.csv, figures as floats or None."""
    with open(PUBLISHED, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["war"], row["uar"] = (float(row[name]) if row[name] else None for name in ("war", "uar"))
    return rows


def figure_rows(kind, databases, protocol, summaries):
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
            rows += [figure_row(row, protocol, summaries.get((database, row["model"]))) for row in chosen]
    return rows


def figure_row(published, protocol, ours):
    empty = dict.fromkeys(Summary.__dataclass_fields__)
    return dict(
        table=published["kind"],
        source=published["source"],
        database=published["database"],
        method=published["method"],
        model=published["model"] or None,
        published_protocol=published["protocol"] or None,
        published_war=published["war"],
        published_uar=published["uar"],
        published_note=published["note"] or None,
        protocol=protocol if ours else None,
        **(vars(ours) if ours else empty),
    )


def database_rows(databases, found):
    """Table 1 / Table I: what was published of a database, and what the runs found."""
    rows = []
    for name in databases:
        corpus = protocols.DATABASES.get(name)
        configs = [folds[0].config for (database, _), seeds in found.items() if database == name for folds in seeds.values() if folds]
        seen = configs[0]["database"] if configs else None
        classes = list(corpus.classes) if corpus else list(seen["classes"])
        published = corpus.classes if corpus else {}
        lines = [("utterances", sum(published.values()) or None, seen and seen["utterances"])]
        lines.append(("speakers", corpus and corpus.speakers, seen and len(seen["speakers"])))
        lines += [(label, published.get(label), seen and seen["counts"].get(label, 0)) for label in classes]
        lines.append(("minutes", None, seen and round(seen["seconds"] / 60, 1)))
        language = corpus.language if corpus else None
        rows += [
            dict(table="databases", source="TFT Table 1, ATFNN Table I", database=name, language=language,
                 method=what, published=count, found=number)
            for what, count, number in lines
        ]  # fmt: skip
    return rows


# ------------------------------------------------------------------------------------------ rendering


def percent(value, spread=None):
    if value is None:
        return "-"
    return f"{value:.2f}" if spread is None else f"{value:.2f}±{spread:.2f}"


def ranges(seeds):
    """[0, 1, 2, 5] -> 0-2,5."""
    parts = []
    for seed in seeds or []:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or "-"


def figure_cells(row):
    star = "*" if row["published_protocol"] == "session" else ""
    done = row["folds_total"] and f"{row['folds_done']}/{row['folds_total']}"
    return [
        row["method"] + star, percent(row["published_war"]), percent(row["published_uar"]),
        percent(row["war"], row["war_std"]), percent(row["uar"], row["uar_std"]),
        percent(row["fold_war"]), percent(row["fold_uar"]), done or "-", ranges(row["seeds"]),
    ]  # fmt: skip


FIGURE_HEADER = ["method", "paper WAR", "UAR", "our WAR", "UAR", "fold WAR", "UAR", "folds", "seeds"]
DATABASE_HEADER = ["", "published", "found"]


def figure_notes(rows):
    """What a reader must know about the figures above; said once for all rows that share it."""
    notes = {}
    for row in rows:
        if row["war"] is not None and row["folds_done"] < row["folds_total"]:
            notes.setdefault(f"incomplete: only {row['folds_done']}/{row['folds_total']} folds", []).append(row["method"])
        for note in row["notes"] or []:
            notes.setdefault(note, []).append(row["method"])
    lines = [f"{', '.join(methods)}: {note}" for note, methods in notes.items()]
    if any(row["published_protocol"] == "session" for row in rows):
        lines.insert(0, "* published under leave-one-session-out")
    return lines


def render(rows, style):
    """Tables for reading: one for each source and database."""
    blocks = []
    for key in dict.fromkeys((row["table"], row["source"], row["database"]) for row in rows):
        part = [row for row in rows if (row["table"], row["source"], row["database"]) == key]
        table, source, database = key
        if table == "databases":
            title = f"{database} ({part[0]['language']})" if part[0]["language"] else database
            header, notes = DATABASE_HEADER, []
            cells = [[row["method"], *("-" if row[name] is None else str(row[name]) for name in header[1:])] for row in part]
        else:
            protocol = next((row["protocol"] for row in part if row["protocol"]), None)
            how = f", ours leaving one {protocol} out, last epoch" if protocol else ", not run yet"
            title, header, notes = f"{database}: {table}, {source}{how}", FIGURE_HEADER, figure_notes(part)
            cells = [figure_cells(row) for row in part]
        blocks.append(STYLES[style](title, header, cells, notes))
    return "\n\n".join(blocks)


def as_text(title, header, cells, notes):
    widths = [max(len(row[i]) for row in [header, *cells]) for i in range(len(header))]

    def line(row):
        return " ".join(cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths)))

    rule = "-" * (sum(widths) + len(widths) - 1)
    return "\n".join([title, rule, line(header), rule, *map(line, cells), rule, *notes])


def as_markdown(title, header, cells, notes):
    escaped = [[cell.replace("*", "\\*") for cell in row] for row in cells]
    rows = [header, ["---"] + ["---:"] * (len(header) - 1), *escaped]
    notes = [note.replace("*", "\\*") for note in notes]
    return "\n".join([f"**{title}**", "", *("| " + " | ".join(row) + " |" for row in rows), *(f"\n{note}" for note in notes)])


def as_latex(title, header, cells, notes):
    def escape(text):
        for mark, code in (("&", r"\&"), ("%", r"\%"), ("_", r"\_"), ("#", r"\#"), ("±", r"$\pm$")):
            text = text.replace(mark, code)
        return text

    rows = [" & ".join(map(escape, row)) + r" \\" for row in (header, *cells)]
    caption = escape(". ".join([title, *notes]))
    return "\n".join([
        r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\hline",
        rows[0], r"\hline", *rows[1:], r"\hline", r"\end{tabular}", r"\end{table}",
    ])  # fmt: skip


STYLES = dict(text=as_text, markdown=as_markdown, latex=as_latex)


def as_csv(rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(cell) if isinstance(cell, list) else cell for name, cell in row.items()})
    return text.getvalue().rstrip("\n")


# ---------------------------------------------------------------------------------------- the command


def parse_command_line(arguments=None):
    parser = results.OneLineParser(__doc__)
    parser.add_argument("--table", default="all", choices=(*TABLES, "all"), help="which table (default: all)")
    parser.add_argument("--db", help="one database only: its name, or the path of its manifest .csv")
    parser.add_argument("--protocol", default="speaker", choices=protocols.PROTOCOLS, help="what our folds leave out (default: speaker)")
    parser.add_argument("--seed", help="seeds to count: a number, or a range such as 0-4 (default: all that are there)")
    parser.add_argument("--runs", default="runs", help="folder of the results (default: runs)")
    parser.add_argument("--format", default="text", choices=FORMATS, help="how to print (default: text)")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse_command_line(arguments)
    found, damaged = collect(options.runs, options.protocol, results.parse_seeds(options.seed) if options.seed else None)
    ran = [name for name in dict.fromkeys(database for database, _ in found)]
    known = [*dict.fromkeys(row["database"] for row in read_published())]
    databases = [*known, *(name for name in ran if name not in known)]
    if options.db:
        name = options.db if options.db in ran else protocols.database_name(options.db)
        if name not in databases:
            raise protocols.UsageError(f"{options.runs}: holds no results of {name}; first run python train.py --db {options.db}")
        databases = [name]
    summaries = {key: summarize(by_seed) for key, by_seed in found.items()}
    summaries = {key: summary for key, summary in summaries.items() if summary}
    rows = []
    for table in TABLES if options.table == "all" else [options.table]:
        if table == "databases":
            rows += database_rows(databases, found)
        else:
            rows += figure_rows(table, databases, options.protocol, summaries)
    if options.format == "json":
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    elif options.format == "csv":
        print(as_csv(rows))
    else:
        print(render(rows, options.format))
    for note in damaged:
        print(f"evaluate.py: {note}", file=sys.stderr)


if __name__ == "__main__":
    with results.plain_errors("evaluate.py"):
        main()
