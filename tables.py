"""How rows of figures look: on a terminal, as Markdown or LaTeX, and as CSV or JSON with every column.

`evaluate.py` makes the rows, dictionaries with one key for each column, and prints what `render` gives. The readable
formats show a table for each `table`, source and database, with what a reader must know below it.
"""

import csv
import io
import json
import textwrap

import numpy as np

import results
import significance

WIDTH = 80  # columns of a table on a terminal
SIGNIFICANCE = "significance"  # the table whose rows compare two models
METRICS = ("WAR", "UAR")
# what comes before a line break stands above the columns that share it
FIGURE_HEADER = ["method", *(f"{of}\n{one}" for of in ("paper", "ours", "fold") for one in METRICS), "folds", "seeds"]
FIGURE_NOTE = "In per cent, pooled over the folds; fold: mean over folds"
TRACK_HEADER = ["method", *(f"{of}\n{one}" for of in ("paper", "last", "valid.", "oracle+") for one in METRICS)]
ORACLE_NOTE = "+ oracle: the best evaluated test epoch, a diagnostic and not a result"
TRACK_NAMES = dict(last="last epoch", validation="epoch chosen on held-out speakers", oracle="oracle, a diagnostic")
SIGNIFICANCE_HEADER = ["models", "WAR", "diff.", "95% speakers", "p speakers", "McNemar p", "seeds"]
DATABASE_HEADER = ["", "published", "found"]

# ---------------------------------------------------------------------------------- from rows to cells


def render(rows, style):
    """The rows in one of FORMATS."""
    if style == "json":
        return json.dumps(rows, indent=1, ensure_ascii=False)
    if style == "csv":
        return as_csv(rows)
    groups = {}
    for row in rows:
        apart = row["track"] if row["table"] == SIGNIFICANCE else None
        groups.setdefault((row["table"], row.get("source"), row["database"], apart), []).append(row)
    return "\n\n".join(STYLES[style](*readable(*key[:3], part)) for key, part in groups.items())


def readable(table, source, database, rows):
    """Title, header, cells and notes of one table."""
    if table == "databases":
        language = rows[0]["language"]
        cells = [
            [row["count"], *("-" if row[name] is None else str(row[name]) for name in DATABASE_HEADER[1:])]
            for row in rows
        ]
        notes = ["partial database"] if rows[0]["partial"] else []
        return f"{database} ({language})" if language else database, DATABASE_HEADER, cells, notes
    if table == SIGNIFICANCE:
        title = f"{database}: significance, leaving one {rows[0]['protocol']} out, {TRACK_NAMES[rows[0]['track']]}"
        notes = significance_notes(rows) + ([ORACLE_NOTE] if rows[0]["track"] == "oracle" else [])
        return title, SIGNIFICANCE_HEADER, list(map(significance_cells, rows)), notes
    protocol = next((row["protocol"] for row in rows if row["war"] is not None), None)
    how = f", ours leaving one {protocol} out" if protocol else ", not run yet"
    tracks = list(dict.fromkeys(row["track"] for row in rows))
    if len(tracks) > 1:  # --track all
        header, by_method, said = TRACK_HEADER, {}, {}  # said: note -> its tracks; what is true of all is said once
        for row in rows:
            by_method.setdefault(row["method"], []).append(row)
        for track in tracks:
            for note in figure_notes([row for row in rows if row["track"] == track]):
                said.setdefault(note, []).append(TRACK_NAMES[track])
        notes = [note if len(names) == len(tracks) else f"{', '.join(names)}: {note}" for note, names in said.items()]
        cells, notes = map(track_cells, by_method.values()), [FIGURE_NOTE.partition(";")[0], *notes, ORACLE_NOTE]
    else:
        how += f", {TRACK_NAMES[tracks[0]]}" if protocol else ""
        header, cells = FIGURE_HEADER, map(figure_cells, rows)
        intervals = [f"{row['method']}: {told}" for row in rows if (told := interval_note(row))]
        notes = [FIGURE_NOTE, *figure_notes(rows), *intervals] + ([ORACLE_NOTE] if "oracle" in tracks else [])
    return f"{database}: {table}, {source}{how}", header, list(cells), notes


def percent(value, spread=None):
    if value is None:
        return "-"
    shown = f"{round(value, 6):.2f}"  # 21.875 reached in two ways is shown alike
    return shown if spread is None else f"{shown}±{spread:.2f}"


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
        percent(row["fold_war"]), percent(row["fold_uar"]), done or "-", ranges(row["seeds"] if done else None),
    ]  # fmt: skip


def figure_notes(rows):
    """What a reader must know about the figures above; said once for all rows that share it."""
    notes = {}
    for row in rows:
        if row["war"] is not None and row["folds_done"] < row["folds_total"]:
            notes.setdefault(f"incomplete: only {row['folds_done']}/{row['folds_total']} folds", []).append(
                row["method"]
            )
        for note in row["notes"] or []:
            if note == ORACLE_NOTE:  # said once, below
                continue
            notes.setdefault(note, []).append(row["method"])
    lines = [f"{', '.join(methods)}: {note}" for note, methods in notes.items()]
    if any(row["published_protocol"] == "session" for row in rows):
        lines.insert(0, "* published under leave-one-session-out")
    return lines


def interval_note(row):
    """95 % intervals of a row's WAR and UAR, over speakers and over utterances."""
    told = []
    for over in ("speakers", "utterances"):
        war, uar = row[f"war_{over}"], row[f"uar_{over}"]
        if war:
            told.append(f"WAR {war[0]:.2f} to {war[1]:.2f}, UAR {uar[0]:.2f} to {uar[1]:.2f} over {over}")
    return f"95 % {'; '.join(told)}" if told else ""


def track_cells(rows):
    """Cells of one method from its rows of the three tracks."""
    by_track = {row["track"]: row for row in rows}
    cells = figure_cells(rows[0])[:3]
    for track in results.TRACKS:
        row = by_track.get(track, dict(war=None, uar=None))
        cells += [percent(row["war"]), percent(row["uar"])]
    return cells


def significance_cells(row):
    low, high = row["difference_speakers"]
    return [
        f"{row['first']} - {row['second']}", f"{row['war_first']:.2f} {row['war_second']:.2f}",
        f"{row['difference']:+.2f}", f"{low:+.2f} {high:+.2f}", f"{row['speaker_p']:.3f}",
        f"{np.median(row['mcnemar_p']):.2g}", f"{row['seeds_agree']}/{len(row['seeds'])}",
    ]  # fmt: skip


def significance_notes(rows):
    notes = [f"{row['first']} - {row['second']}: {row['verdict']}, {row['speakers']} speakers" for row in rows]
    notes += dict.fromkeys(note for row in rows for note in row["notes"])
    return notes + [
        "95% speakers: interval of the difference, bootstrap over speakers",
        f"p speakers: sign flips of the speakers' differences; it decides, at {significance.LEVEL}",
        "McNemar p: exact, median over seeds, takes utterances for independent;",
        "seeds: in how many it separates the models in the direction of the difference",
    ]


# --------------------------------------------------------------------------------- from cells to text


def header_lines(header):
    """The one or two lines of a header; what stands above several columns is said once."""
    above, names = zip(*(name.rpartition("\n")[::2] for name in header))
    above = [one if one != before else "" for before, one in zip(("", *above), above)]
    return [above, names] if any(above) else [names]


def as_text(title, header, cells, notes):
    heads = header_lines(header)
    widths = [max(map(len, column)) for column in zip(*heads, *cells)]

    def line(row):
        others = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))
        return " ".join([row[0].ljust(widths[0]), *others]).rstrip()

    rule = "-" * (sum(widths) + len(widths) - 1)
    title, *notes = (textwrap.fill(text, WIDTH) for text in (title, *notes))
    return "\n".join([title, rule, *map(line, heads), rule, *map(line, cells), rule, *notes])


def markdown_rows(header, rows):
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def as_markdown(title, header, cells, notes):
    header = [name.replace("\n", " ") for name in header]
    cells = [[cell.replace("*", "\\*").replace("|", "\\|") for cell in row] for row in cells]
    notes = [note.replace("*", "\\*") for note in notes]
    return "\n".join([f"**{title}**", "", markdown_rows(header, cells), *(f"\n{note}" for note in notes)])


def as_latex(title, header, cells, notes):
    def escape(text):
        return text.replace("\n", " ").translate(LATEX)

    rows = [" & ".join(map(escape, row)) + r" \\" for row in (header, *cells)]
    caption = escape(". ".join([title, *notes]))
    return "\n".join([
        r"\begin{table}", rf"\caption{{{caption}}}", rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\hline",
        rows[0], r"\hline", *rows[1:], r"\hline", r"\end{tabular}", r"\end{table}",
    ])  # fmt: skip


LATEX = str.maketrans({
    "&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "±": r"$\pm$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}",
})  # fmt: skip
STYLES = dict(text=as_text, markdown=as_markdown, latex=as_latex)
FORMATS = (*STYLES, "csv", "json")


def as_csv(rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: json.dumps(cell) if isinstance(cell, list) else cell for name, cell in row.items()})
    return text.getvalue().rstrip("\n")
