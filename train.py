"""Train the networks of both papers and other methods under leave-one-speaker-out and save what the tables are made of.

    python train.py                                        # TFT on the small synthetic corpus, 10 epochs
    python train.py --check --db casia --root data/casia   # what a corpus holds and what is wrong with it
    python train.py --db iemocap --model tft --fold 3
    python train.py --db casia --root data/casia --model all --seed 0-4
    python train.py --db my/corpus.csv --epochs 100        # columns path,emotion,speaker
    python train.py --db casia --fold none                 # on all speakers, for predict.py; tests nobody
    python train.py --db casia --model my_net.py           # a network of your own, see common/methods.py
    python train.py --db casia --model classical           # the comparison methods that are fitted at once
    python train.py --db casia --overlap 0.5 --runs runs-overlap     # a setting that the papers leave open

For each model, seed and fold it trains on the other speakers, scores the fold's utterances with the model of the last
epoch and saves both below --runs (common/runs.py). Repeat a command that was interrupted: finished folds are skipped,
others resume from their saved state. The test speaker is read for the scores alone: nothing in training depends on it.

Processes that work on the same --runs share the folds out: started by hand, by torchrun, or as a SLURM job array.
"""

import contextlib
import shlex
import sys
from pathlib import Path

import protocols
from common import check, cli, config, runs, synthetic
from reporting import summary, tables

# training/ imports torch, which takes a second, so functions import it: --help answers at once


def main(arguments=None):
    """Run the command line."""
    options = config.parse_command_line(arguments, __doc__)
    with contextlib.redirect_stdout(None if options.quiet else sys.stdout):
        if options.check:
            make_synthetic(options)
            sys.exit(check.check_corpus(options.db, options.root, options.protocol, options.partial))
        train(options)


def make_synthetic(options):
    """Write the synthetic corpus where it is asked for and missing."""
    root = Path(options.root or protocols.default_root(options.db))
    if options.db == "synthetic" and not root.is_dir():
        print(f"synthetic: writing a small corpus of generated speech to {root}", flush=True)
        with contextlib.suppress(FileExistsError):  # another process was faster
            synthetic.write_corpus("manifest", root)


def train(options):
    """Train what the options name, then print a table of it."""
    chosen = config.methods_of(options)
    config.check_options(options, chosen)  # errors in the command come before anything is read
    from training import data, fitted, scheduler

    rank, count = scheduler.rank_and_world_size()
    if options.device == "cuda" or options.engine not in ("auto", "eager"):
        scheduler.choose_engine(options.engine, data.choose_device(options.device, scheduler.local_rank()))
    make_synthetic(options)
    database = protocols.open_database(options.db, options.root, options.partial)
    folds = protocols.make_folds(database, options.protocol)
    selected = protocols.select_folds(folds, options.fold)
    scheduler.check_methods(options, chosen, database)
    counts = ", ".join(f"{label} {amount}" for label, amount in database.counts().items())
    speakers = len(set(database.speakers.tolist()))
    print(f"{database.name}: {len(database.ids)} utterances, {speakers} speakers: {counts}")
    features_of = data.load_all(options, database, chosen)
    jobs = scheduler.make_jobs(options, chosen, database, selected, features_of)
    jobs = scheduler.own_share_first(jobs, rank, count)
    for job in jobs:
        scheduler.clean_up_after_kill(job, database)
    pending = [job for job in jobs if not scheduler.is_finished(job, database)]
    scheduler.refuse_mixed_rows(pending, database)
    if len(pending) < len(jobs):
        print(f"{database.name}: {len(jobs) - len(pending)} of {len(jobs)} folds are already done")
    runs.write_index(options.runs, database)
    missing = 0
    if pending:
        share = f", share {rank + 1} of {count} first" if count > 1 else ""
        print(f"{database.name}: {len(pending)} {'fold' if len(pending) == 1 else 'folds'} to train{share}", flush=True)
        fitted.train_fitted([job for job in pending if job.method.is_fitted], database, features_of, len(folds))
        if networks := [job for job in pending if not job.method.is_fitted]:
            of_networks = [job for job in jobs if not job.method.is_fitted]
            scheduler.FoldScheduler(options, database, features_of, len(folds), of_networks, count).train(networks)
        if missing := sum(not scheduler.is_finished(job) for job in pending):
            print(f"{missing} of {len(jobs)} folds are in training by other processes")
    if options.fold == protocols.NO_FOLD:
        for job in jobs:
            print(f"predict: python predict.py --run {shlex.quote(str(job.folder))} recording.wav")
    elif missing:
        print(f"tables, when they are done: {tables_command(options, database)}")
    else:
        print_summary(options, chosen, database)


def print_summary(options, chosen, database):
    """Print a table of what the command was to train, as far as it is there."""
    cells, rows, notes, seeds = [], [], [], config.parse_seeds(options.seed)
    for method, track in [(method, track) for method in chosen for track in config.tracks_of(options, method)]:
        try:
            found, _ = summary.collect(options.runs, options.protocol, seeds, track, database.name, method.name)
            row = summary.summarize(found.get((database.name, method.name), {}))
        except runs.RunError as error:  # earlier runs of other settings in the same folder
            notes.append(str(error))
            continue
        if row:
            cells.append([
                tables.marked(method.name, row.transductive), track, tables.ranges(row.seeds),
                f"{row.folds_done}/{row.folds_total}",
                tables.percent(row.war, row.war_std), tables.percent(row.uar, row.uar_std),
            ])  # fmt: skip
            rows.append(dict(vars(row), method=method.name, published_protocol=None))
    header = ["model", "track", "seeds", "folds", "WAR", "UAR"]
    notes = [*dict.fromkeys(tables.result_notes(rows)), *notes]
    print("\n" + tables.as_text(f"{database.name}, leave one {options.protocol} out", header, cells, notes))
    print(f"tables: {tables_command(options, database)}")


def tables_command(options, database):
    """Command that prints the papers' tables with the runs of these options."""
    path = shlex.quote(options.runs)
    return f"python evaluate.py --db {database.name} --protocol {options.protocol} --runs {path}"


if __name__ == "__main__":
    with cli.exit_on_error("train.py"):
        main()
