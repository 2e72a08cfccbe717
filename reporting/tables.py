"""Rows of results as tables: on a terminal, as Markdown or LaTeX, and as CSV or JSON with all columns.

`summary.py` makes the rows, dictionaries with a key for each column. The readable formats show a table for each paper
and database, with its notes below it.
"""

import csv
import io
import json
import textwrap

import numpy as np

from common import cli
from common.runs import RESULT, TRACKS
from reporting import significance

WIDTH = 80  # columns of a table on a terminal
SIGNIFICANCE = "significance"  # the table whose rows compare two models
TABLES = ("databases", "comparison", "ablation")  # those of the papers
RESULT_KEYS = (
    "method", "published_war", "published_uar", "war", "uar", "folds_done", "folds_total", "seeds", "utterances",
)  # fmt: skip
METRICS = ("WAR", "UAR")
# a header's text before a line break stands above the columns that share it
RESULT_HEADER = ["method", *(f"{of}\n{name}" for of in ("paper", "ours", "fold") for name in METRICS), "folds", "seeds"]
RESULT_NOTE = "In per cent, pooled over the folds; fold: mean over folds; ±: std over seeds"
TRACK_HEADER = ["method", *(f"{of}\n{name}" for of in ("paper", "last", "valid.", "oracle+") for name in METRICS)]
ORACLE_NOTE = "+ oracle: the best evaluated test epoch, a diagnostic and not a result"
TRANSDUCTIVE = "†"  # mark of a method
TRANSDUCTIVE_NOTE = f"{TRANSDUCTIVE} transductive: normalised by all recordings of the tested speaker"
TRACK_NAMES = dict(
    last="last epoch", validation="epoch chosen on held-out speakers", oracle="oracle, a diagnostic",
    result="each method's own epoch",
)  # fmt: skip
HELD_OUT_NOTE = "epoch chosen on held-out training speakers, so trained on fewer"
SIGNIFICANCE_HEADER = ["models", "WAR", "diff.", "95% speakers", "p speakers", "McNemar p", "seeds"]
DATABASE_HEADER = ["", "published", "found"]

# ---------------------------------------------------------------------------------- from rows to cells


def track_name(tracks, asked=RESULT):
    """What the epochs of results are, by the tracks that they are of and the track that was asked for."""
    return TRACK_NAMES[asked if asked != RESULT or len(tracks) != 1 else next(iter(tracks))]


def render(rows, style):
    """Text of the rows in a style of FORMATS."""
    if style == "json":
        return json.dumps(rows, indent=1, ensure_ascii=False)
    if style == "csv":
        return as_csv(rows)
    groups = {}
    for row in rows:
        track = row["track"] if row["table"] == SIGNIFICANCE else None
        groups.setdefault((row["table"], row.get("source"), row["database"], track), []).append(row)
    return "\n\n".join(STYLES[style](*readable(*key[:3], group)) for key, group in groups.items())


def readable(table, source, database, rows):
    """Title, header, cells and notes of a table."""
    if table == "databases":
        return database_table(database, rows)
    if table == SIGNIFICANCE:
        title = f"{database}: significance, leaving one {rows[0]['protocol']} out, {TRACK_NAMES[rows[0]['track']]}"
        return title, SIGNIFICANCE_HEADER, list(map(significance_cells, rows)), significance_notes(rows)
    protocol = next((row["protocol"] for row in rows if row["war"] is not None), None)
    tracks = list(dict.fromkeys(row["track"] for row in rows if row["track"]))
    title = ", ".join(filter(None, (f"{database}: {table}", source)))
    title += f", ours leaving one {protocol} out" if protocol else ", not run yet"
    if len({row["method"] for row in rows}) < len(rows):  # --track all
        by_method, tracks_of = {}, {}  # tracks_of: note -> names of the tracks that it concerns
        were_run = {row["method"].partition(", ")[0] for row in rows if row["war"] is not None}  # published names
        for row in rows:
            if row["war"] is not None or row["method"] not in were_run:
                by_method.setdefault(row["method"], []).append(row)
        for track in tracks:
            for note in result_notes([row for row in rows if row["track"] == track]):
                tracks_of.setdefault(note, []).append(TRACK_NAMES[track])
        notes = [note if len(names) == len(tracks) else f"{', '.join(names)}: {note}"
                 for note, names in tracks_of.items()]  # fmt: skip
        notes = [RESULT_NOTE.partition(";")[0], *notes, ORACLE_NOTE]
        return title, TRACK_HEADER, list(map(track_cells, by_method.values())), notes
    title += f", {track_name(set(tracks))}" if protocol else ""
    intervals = [f"{row['method']}: {note}" for row in rows if (note := interval_note(row))]
    notes = [RESULT_NOTE, *result_notes(rows), *intervals] + ([ORACLE_NOTE] if "oracle" in tracks else [])
    return title, RESULT_HEADER, list(map(result_cells, rows)), notes


def database_table(database, rows):
    """Title, header, cells and notes of a database's counts."""
    language = rows[0]["language"]
    cells = [
        [row["count"], *("-" if row[name] is None else str(row[name]) for name in DATABASE_HEADER[1:])] for row in rows
    ]
    notes = ["partial database"] if rows[0]["partial"] else []
    return f"{database} ({language})" if language else database, DATABASE_HEADER, cells, notes


def percent(value, std=None):
    """A rate with two decimals, and its standard deviation: 70.00±14.14."""
    if value is None:
        return "-"
    text = f"{round(value, 6):.2f}"  # 21.875 looks the same from two ways of counting
    return text if std is None else f"{text}±{std:.2f}"


def ranges(seeds):
    """[0, 1, 2, 5] -> 0-2,5."""
    parts = []
    for seed in seeds or []:
        if parts and seed == parts[-1][1] + 1:
            parts[-1][1] = seed
        else:
            parts.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts) or "-"


def marked(name, is_transductive):
    """Name of a method, with the mark of transductive results."""
    return f"{name}{TRANSDUCTIVE}" if is_transductive else name


def result_cells(row):
    """Cells of a row of the comparison or the ablation, under RESULT_HEADER."""
    star = "*" if row["published_protocol"] == "session" else ""
    done = row["folds_total"] and f"{row['folds_done']}/{row['folds_total']}"
    return [
        marked(row["method"], row["transductive"]) + star,
        percent(row["published_war"]), percent(row["published_uar"]),
        percent(row["war"], row["war_std"]), percent(row["uar"], row["uar_std"]),
        percent(row["fold_war"]), percent(row["fold_uar"]), done or "-", ranges(row["seeds"] if done else None),
    ]  # fmt: skip


def track_cells(rows):
    """Cells under TRACK_HEADER of the rows of a method, a row for each track."""
    by_track = {row["track"]: row for row in rows}
    cells = result_cells(next((row for row in rows if row["transductive"]), rows[0]))[:3]
    for track in TRACKS:
        row = by_track.get(track, dict(war=None, uar=None))
        cells += [percent(row["war"]), percent(row["uar"])]
    return cells


def result_notes(rows):
    """Notes that a reader of the rows needs, once for all rows that share a note."""
    methods = {}  # note -> methods
    for row in rows:
        notes = [note for note in row["notes"] or [] if note != ORACLE_NOTE]  # it ends the table
        if row["war"] is not None and row["track"] == "validation":
            notes.append(HELD_OUT_NOTE)
        if row["war"] is not None and row["folds_done"] < row["folds_total"]:
            notes.insert(0, f"incomplete: only {row['folds_done']}/{row['folds_total']} folds")
        for note in notes:
            methods.setdefault(note, []).append(row["method"])
    lines = [f"{', '.join(names)}: {note}" for note, names in methods.items()]
    if any(row["transductive"] for row in rows):
        lines.insert(0, TRANSDUCTIVE_NOTE)
    if any(row["published_protocol"] == "session" for row in rows):
        lines.insert(0, "* published under leave-one-session-out")
    return lines


def interval_note(row):
    """95 % intervals of a row's WAR and UAR, over speakers and over utterances."""
    parts = []
    for unit in ("speakers", "utterances"):
        war, uar = row[f"war_{unit}"], row[f"uar_{unit}"]
        if war:
            parts.append(f"WAR {war[0]:.2f} to {war[1]:.2f}, UAR {uar[0]:.2f} to {uar[1]:.2f} over {unit}")
    return f"95 % {'; '.join(parts)}" if parts else ""


def significance_cells(row):
    """Cells of a pair of models, under SIGNIFICANCE_HEADER."""
    low, high = row["difference_speakers"]
    pair = [marked(row[model], row[model] in row["transductive"]) for model in ("first", "second")]
    return [
        " - ".join(pair), f"{row['war_first']:.2f} {row['war_second']:.2f}",
        f"{row['difference']:+.2f}", f"{low:+.2f} {high:+.2f}", f"{row['speaker_p']:.3f}",
        f"{np.median(row['mcnemar_p']):.2g}", f"{row['seeds_agree']}/{len(row['seeds'])}",
    ]  # fmt: skip


def significance_notes(rows):
    """Verdicts, notes on the models, and what the columns mean."""
    notes = [f"{row['first']} - {row['second']}: {row['verdict']}, {row['speakers']} speakers" for row in rows]
    notes += [TRANSDUCTIVE_NOTE] if any(row["transductive"] for row in rows) else []
    notes += dict.fromkeys(note for row in rows for note in row["notes"])
    notes += [
        "95% speakers: interval of the difference, bootstrap over speakers",
        f"p speakers: sign flips of the speakers' differences; it decides, at {significance.LEVEL}",
        "McNemar p: exact, median over seeds, takes utterances for independent;",
        "seeds: those that separate the models in the direction of the difference",
    ]
    return notes + ([ORACLE_NOTE] if rows[0]["track"] == "oracle" else [])


# --------------------------------------------------------------------------------- from cells to text


def header_lines(header):
    """The one or two lines of a header; text above several columns is shown once."""
    above, names = zip(*(name.rpartition("\n")[::2] for name in header))
    above = [text if text != before else "" for before, text in zip(("", *above), above)]
    return [above, names] if any(above) else [names]


def as_text(title, header, cells, notes):
    """A table for a terminal, between lines of dashes."""
    heads = header_lines(header)
    widths = [max(map(cli.width, column)) for column in zip(*heads, *cells)]

    def line(row):
        return " ".join([cli.ljust(row[0], widths[0]), *map(cli.rjust, row[1:], widths[1:])]).rstrip()

    rule = "-" * (sum(widths) + len(widths) - 1)
    title, *notes = (textwrap.fill(text, WIDTH) for text in (title, *notes))
    return "\n".join([title, rule, *map(line, heads), rule, *map(line, cells), rule, *notes])


def markdown_rows(header, rows):
    """A Markdown table of cells as they are."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def as_markdown(title, header, cells, notes):
    """A Markdown table below its title, a paragraph for each note."""
    header = [name.replace("\n", " ") for name in header]
    cells = [[cell.replace("*", "\\*").replace("|", "\\|") for cell in row] for row in cells]
    notes = [note.replace("*", "\\*") for note in notes]
    return "\n".join([f"**{title}**", "", markdown_rows(header, cells), *(f"\n{note}" for note in notes)])


def as_latex(title, header, cells, notes):
    """A LaTeX table, with its notes in the caption."""

    def escape(text):
        return text.replace("\n", " ").translate(LATEX)

    rows = [" & ".join(map(escape, row)) + r" \\" for row in (header, *cells)]
    caption = escape(". ".join([title, *notes]))
    return "\n".join([
        r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\hline",
        rows[0], r"\hline", *rows[1:], r"\hline", r"\end{tabular}", r"\end{table}",
    ])  # fmt: skip


LATEX = str.maketrans({
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "±": r"$\pm$", TRANSDUCTIVE: r"$\dagger$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
})  # fmt: skip
STYLES = dict(text=as_text, markdown=as_markdown, latex=as_latex)
FORMATS = (*STYLES, "csv", "json")


def as_csv(rows):
    """CSV with the columns of all rows; lists as JSON."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(cell) if isinstance(cell, list) else cell for name, cell in row.items()})
    return text.getvalue().rstrip("\n")
