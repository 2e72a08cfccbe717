"""Print the tables of both papers, the published results next to ours.

    python evaluate.py                                  # all tables but significance, all databases
    python evaluate.py --table ablation
    python evaluate.py --table comparison --db casia --format markdown
    python evaluate.py --track all                      # last epoch, validation and oracle side by side
    python evaluate.py --table significance --models tft atfnn --db casia
    python evaluate.py --audit                          # check the results, from the saved files alone
    python evaluate.py --export published               # plain files to publish, see reporting/published.py
    python evaluate.py --runs published                 # the tables, from them
    python evaluate.py --figure confusion --db casia --model tft --out confusion.png   # see reporting/figures.py
    python evaluate.py --report results.html            # all of it as a page to look at and to send

Reads only the predictions that train.py saved below `--runs`, or that --export wrote, and never trains. WAR and UAR are
in per cent and pooled over all folds; next to them stand the means over folds. With several seeds a result is their
mean and standard deviation. A method that was not run shows its published result alone. Formats: text, markdown and
latex for reading, csv and json with all columns for programs.
"""

import os
import shlex
import sys
from itertools import product
from pathlib import Path

import protocols
from common import cli, config, methods, runs
from reporting import figures, published, summary, tables

RUNS = "runs"  # folder that train.py writes by default


def parse_command_line(arguments=None):
    """Options of a command line."""
    parser = cli.CommandParser(__doc__)
    add = parser.add_argument
    add("--table", default="all", choices=(*tables.TABLES, tables.SIGNIFICANCE, "all"),
        help="table to print (default: all but significance)")  # fmt: skip
    add("--models", nargs="+", type=methods.name_of, default=["tft", "atfnn"],
        help="models that the table significance compares (default: tft atfnn)")  # fmt: skip
    add("--track", default=runs.RESULT, choices=(*runs.TRACKS, "all"),
        help="epoch that counts (default: last, of most deep comparison methods validation); --export and --audit take all")
    add("--db", help="one database only: its name, or the path of its manifest")
    add("--protocol", choices=protocols.PROTOCOLS,
        help="what our folds leave out (default: speaker; of --export and --audit: all that are there)")  # fmt: skip
    add("--seed", help="seeds to count, such as 0-4 or 0-2,5 (default: all that are there)")
    add("--runs", help="folder of the results, or of what --export wrote (default: runs, else benchmarks/results)")
    add("--format", default="text", choices=tables.FORMATS, help="format of the tables (default: text)")
    work = parser.add_mutually_exclusive_group()
    work.add_argument("--figure", choices=figures.FIGURES, help="draw a figure instead; needs requirements-figures.txt")
    work.add_argument("--report", metavar="FILE", help="write instead all results as a page, FILE.html")
    work.add_argument("--audit", action="store_true", help="check the saved files instead; exit code 1 at any fault")
    work.add_argument("--export", metavar="FOLDER",
                      help="write instead all results as plain files, small enough to publish")  # fmt: skip
    add("--out", help="file of the figure: .png, .svg or .pdf")
    add("--model", type=methods.name_of,
        help="model of --figure or --export, or its file (default: the one that was run; all of them)")  # fmt: skip
    add("--counts", action="store_true", help="confusion: counts in the cells as well")
    add("--published", action="store_true", help="confusion: that of the paper next to ours")
    add("--transductive", metavar="FOLDER", help="methods: runs with --normalization speaker, drawn next to the others")
    add("--utterance", help="attention: of this utterance, named as in predictions.csv")
    add("--root", help="attention: folder of the recordings (default: $SER_DATA/<db>, else data/<db>, or a manifest's)")
    return parser.parse_args(arguments)


# ----------------------------------------------------------------------------------- what is evaluated


def choose_runs(options):
    """Folder of the results, and a line for the reader where it is not `runs`: our published results serve then."""
    if options.runs is not None:
        if not Path(options.runs).is_dir():
            raise protocols.UsageError(f"--runs {options.runs}: no such folder; name the one that train.py wrote")
        return options.runs, None
    model = options.model if options.figure else None
    if options.export is not None or holds(RUNS, options.db, model):
        return RUNS, None
    if not holds(published.RESULTS, options.db, model):
        return RUNS, None
    return published_folder(), note_on_published(" ".join(filter(None, (options.db, model))) or "results")


def published_folder():
    """Folder of our published results, as one types it here."""
    folder = os.path.relpath(published.RESULTS)
    return str(published.RESULTS) if folder.startswith("..") else folder


def note_on_published(missing):
    """Line for the reader where our published results take the place of what the folder `runs` does not hold."""
    reason = f"the folder {RUNS} holds no {missing}" if Path(RUNS).is_dir() else f"no {RUNS} folder"
    return f"{reason}: showing the published results of this suite in {published_folder()}"


def holds(folder, db, model=None):
    """True if there are results below a folder, of a database and model where they are given."""
    ran = {run[0] for run in summary.all_runs(folder) if model in (None, run[1])}
    return database_of(db, ran) in ran if db else bool(ran)


def database_of(db, ran):
    """Name of the database of --db, of those that were run, or as protocols.py names it."""
    return db if db in ran else protocols.database_name(db)


def choose_databases(options):
    """The databases of --db: one, or all that are published or run."""
    ran = dict.fromkeys(run[0] for run in summary.all_runs(options.runs))
    known = list(dict.fromkeys(row["database"] for row in published.read_published()))
    databases = [*known, *(name for name in ran if name not in known)]
    if not options.db:
        return databases
    name = database_of(options.db, ran)
    if name not in databases:
        raise protocols.UsageError(
            f"{options.runs}: holds no tested fold of {name}; first run python train.py --db {shlex.quote(options.db)}"
        )
    return [name]


# ---------------------------------------------------------------------------------------- what is done


def print_tables(options, note, with_published):
    """Print the tables that the options name, and notes on what was not counted.

    with_published: of databases that --runs does not hold show our published results.
    """
    seeds = config.parse_seeds(options.seed) if options.seed else None
    databases, protocol = choose_databases(options), options.protocol or "speaker"
    rows, damaged = [], {}
    for track in runs.TRACKS if options.track == "all" else [options.track]:
        found, notes = summary.collect(options.runs, protocol, seeds, track, databases[0] if options.db else None)
        if with_published:  # of the databases that were not run here
            others = summary.collect(published.RESULTS, protocol, seeds, track)[0]
            others = {key: by_seed for key, by_seed in others.items() if key[0] not in {key[0] for key in found}}
            found |= others
            note = others and note_on_published(" ".join(dict.fromkeys(key[0] for key in others)))
        summaries = summary.summarize_all(found, notes)
        damaged |= dict.fromkeys(notes)
        for table in tables.TABLES if options.table == "all" else [options.table]:
            if table == tables.SIGNIFICANCE:
                rows += summary.significance_rows(options.models, databases, found, protocol, track)
            elif table != "databases":
                rows += summary.result_rows(table, databases, protocol, seeds, track, summaries)
            elif not any(row["table"] == table for row in rows):
                rows += summary.database_rows(databases, found)
    if not rows and options.table == tables.SIGNIFICANCE:
        models = " ".join(options.models)
        raise protocols.UsageError(f"--models {models}: no two of them have all folds of a seed on one database")
    if not rows:
        raise protocols.UsageError(
            f"{options.runs}: has no results of {options.db} for this --protocol, --seed and --track"
        )
    if note:
        is_text = options.format in ("text", "markdown")
        print(note, end="\n\n" if is_text else "\n", file=sys.stdout if is_text else sys.stderr)
    print(tables.render(rows, options.format))
    print_damage(damaged)


def print_damage(notes):
    for note in notes:
        print(f"evaluate.py: {note}", file=sys.stderr)


def export(options):
    """Write the finished folds of --runs as plain files; those of --db, --model, --protocol and --seed."""
    if not options.export or Path(options.export).resolve() == Path(options.runs).resolve():
        raise protocols.UsageError(f"--export {options.export}: name a folder other than --runs")
    seeds = config.parse_seeds(options.seed) if options.seed else None
    only_database = choose_databases(options)[0] if options.db else None
    chosen, damaged = {}, {}  # chosen: (database, model, protocol) -> track -> folds
    for protocol, track in product([options.protocol] if options.protocol else protocols.PROTOCOLS, runs.TRACKS):
        found, notes = summary.collect(options.runs, protocol, seeds, track, only_database, options.model)
        damaged |= dict.fromkeys(notes)
        for key, by_seed in found.items():
            folds = [fold for its_folds in by_seed.values() for fold in its_folds]
            summary.check_comparable(folds)
            chosen.setdefault((*key, protocol), {})[track] = folds
    if not chosen:
        none = f"{options.runs}: has no finished fold of these options; first run train.py, or set --runs"
        raise protocols.UsageError("; ".join([*damaged, none]))
    print_damage(damaged)
    published.export(options.export, chosen)
    for key, by_track in chosen.items():
        counts = ", ".join(f"{track} {len(folds)} folds" for track, folds in by_track.items())
        print(f"{Path(options.export) / key[0]}: {' '.join(key[1:])}, {counts}")


def write_report(options, note):
    """Write all results of --db, --protocol and --seed as a page."""
    from reporting import page

    path, protocol = Path(options.report), options.protocol or "speaker"
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise protocols.UsageError(f"--report {options.report}: name a file that ends in .html")
    chosen = dict(runs=options.runs if options.runs != RUNS else None, protocol=options.protocol, seed=options.seed)
    arguments = [word for name, value in chosen.items() if value for word in (f"--{name}", str(value))]
    seeds = config.parse_seeds(options.seed) if options.seed else None
    text, shown, damaged = page.make(options.runs, choose_databases(options), protocol, seeds, arguments)
    print_damage(damaged)
    if not shown:
        raise protocols.UsageError(f"{options.runs}: has no finished fold of these options; first run train.py")
    runs.write_text(path, text)
    print(*filter(None, [note]), sep="\n", end="\n" * bool(note))
    for database, models in shown.items():
        print(f"{options.report}: {database}, {', '.join(models)}")


def run_audit(options, note):
    """Print what the audit finds; exit 1 at any fault."""
    from reporting import audit

    def results(database, model, protocol, track, seeds):
        found, _ = summary.collect(options.runs, protocol, seeds, track, database, model)
        return summary.summarize(found.get((database, model), {}))

    database = choose_databases(options)[0] if options.db else None
    print(*audit.fractions(published.read_published(), protocols.DATABASES), sep="\n")
    if note:
        print(note)
    faults = 0
    for line, is_fault in audit.check_runs(options.runs, results, database, options.protocol):
        print(line)
        faults += is_fault
    print(f"{faults or 'no'} fault{'s' * (faults != 1)} in {options.runs}")
    if faults:
        sys.exit(1)


def main(arguments=None):
    """Run the command."""
    options = parse_command_line(arguments)
    is_default = options.runs is None and options.db is None
    options.runs, note = choose_runs(options)
    if options.export is not None:
        export(options)
    elif options.report is not None:
        write_report(options, note)
    elif options.audit:
        run_audit(options, note)
    elif options.figure:
        options.protocol = options.protocol or "speaker"
        figures.check_options(options)
        print(*filter(None, [note]), sep="\n", end="\n" * bool(note))
        figures.make_figure(options)
    else:
        with_published = is_default and options.runs == RUNS and options.table != tables.SIGNIFICANCE
        print_tables(options, note, with_published)


if __name__ == "__main__":
    with cli.exit_on_error("evaluate.py", interrupted="it changes nothing but what --out, --report and --export name"):
        main()
