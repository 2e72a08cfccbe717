"""Compare a table, saved with --format json, with the one that the evaluator makes again of the saved predictions.

`python evaluate.py --audit table.json` does so after its audit of the runs (audit.py). Rows that are made together
are compared together: none may be missing, there twice or in excess, and every column must agree.
"""

import json
import math
from itertools import product

import protocols
import results

TABLES = ("databases", "comparison", "ablation", "significance")
PER_CENT = 1e-9  # agreement of a figure computed twice
BLOCK = ("table", "database", "protocol", "track", "first", "second")  # what rows that are made together share
ROW = ("source", "method", "count")  # what tells them apart


def check_table(path, again):
    """Yield a line for each row of a table, saved with --format json, that the evaluator does not make again.

    `again(table, database, protocol, track, seeds, models)` gives its rows; seeds: those asked for, or None for all.
    """
    try:
        rows, blocks = results.read_json(path), {}
        for row in rows:
            key = tuple(None if row.get(name) is None else str(row[name]) for name in BLOCK)
            blocks.setdefault(key, []).append(row)
    except results.UNREADABLE as error:
        yield f"FAULT {path}: is no table saved with --format json ({error!r:.100})"
        return
    if not rows:
        yield f"FAULT {path}: holds no rows"
    for (table, database, protocol, track, *models), told in blocks.items():
        place = f"FAULT {path}: {table}, {database}" + (f", leaving one {protocol} out, {track}" if protocol else "")
        ways = [(protocol, track)]
        if table == "databases":  # they do not say of which runs
            ways = product(protocols.PROTOCOLS, ("last", "validation"))
        elif table not in TABLES or protocol not in protocols.PROTOCOLS or track not in results.TRACKS:
            yield f"{place}: is no table of this suite"
            continue
        best = None
        for way, seeds in product(ways, asked_seeds(told, rows)):
            lines = list(differences(told, again(table, database, *way, seeds, models)))
            best = lines if best is None or len(lines) < len(best) else best
            if not best:
                break
        yield from (f"{place}: {line}" for line in best)


def asked_seeds(told, rows):
    """What the command that printed the rows `told` of a table may have asked for; None: all seeds that are there.

    A method that is not run tells it. Where there is none, a table of the seeds that are shown is as good as any.
    """
    for row in told:
        if row["table"] in ("comparison", "ablation") and row.get("war") is None:
            return [row["seeds"] if are_seeds(row.get("seeds")) else None]
    shown = [{seed for row in some if are_seeds(row.get("seeds")) for seed in row["seeds"]} for some in (told, rows)]
    return [None, *(sorted(seeds) for seeds in shown if seeds)]


def are_seeds(value):
    return isinstance(value, list) and value != [] and all(type(seed) is int for seed in value)


def differences(told, again):
    """Yield a line for each row or figure of a table that is not that of the table made again."""
    left = {tuple(str(row.get(name)) for name in ROW): row for row in json.loads(json.dumps(again))}
    for row in told:
        key = tuple(str(row.get(name)) for name in ROW)
        shown, made = ", ".join(part for part in key if part != "None"), left.pop(key, None)
        if made is None:
            yield f"{shown}: is there twice, or not in the table of the saved predictions"
            continue
        for name in made | row:
            if name not in row or name not in made or not agree(row[name], made[name]):
                yield f"{shown}: {name} is {row.get(name)}, the saved predictions give {made.get(name)}"
    for key in left:
        yield f"lacks {', '.join(part for part in key if part != 'None')}"


def agree(told, again):
    """Are two figures the same, or lists of figures?"""
    if isinstance(told, list) and isinstance(again, list):
        return len(told) == len(again) and all(map(agree, told, again))
    if isinstance(told, (int, float)) and isinstance(again, (int, float)):
        return math.isclose(told, again, abs_tol=PER_CENT)
    return told == again
