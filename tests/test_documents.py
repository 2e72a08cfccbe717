"""README and docs: their links, commands and code work, and the numbers of their tables are those of our results.

Figures of the classical methods with known speakers need the recordings of CASIA and are not checked, nor are speeds
against a machine.
"""

import functools
import importlib
import inspect
import io
import json
import re
import shlex
from contextlib import redirect_stdout
from itertools import product

import numpy as np
import pytest
import soundfile
from helpers import PROJECT, command, folder_of

import evaluate
import protocols
import train
from benchmarks import study
from common import cli, config, methods
from reporting import figures, published

README, CASIA, FILES = PROJECT / "README.md", PROJECT / "docs" / "results-casia.md", PROJECT / "docs" / "files.md"
SPEAKER = "studies/speaker-statistics"
DOCUMENTS = [README, *sorted((PROJECT / "docs").glob("*.md"))]
MODELS = {
    "TFT": "tft", "T+F": "tft-t+f", "T+TF": "tft-t+tf", "F+TF": "tft-f+tf",
    "ATFNN": "atfnn", "AFNN": "afnn", "ATNN": "atnn", "TFNN": "tfnn",
}  # fmt: skip
NETWORKS = [name for name in methods.DEEP if not methods.find(name).is_fitted]
SIZES = {name: methods.find(name).base_front_end().row_shape for name in NETWORKS}  # before tests have tiny ones
OF_USERS = ("my_net.py", "method.py")
SHARES = {"most": "most", "our reading": "reading"}  # cell -> EXTENT
EQUALLY_LONG = {"TFT": "epochs-100", "ATFNN": "main"}  # -> study that trains it for as long as its ablations
KNOWN_SPEAKERS = {  # epochs -> studies that leave a speaker out, and that know all speakers
    "15": ("epochs-10-15", "known-speakers"), "45": ("epochs-30-45", "known-speakers-45"),
}  # fmt: skip

# ------------------------------------------------------------------------------- parts of a document


def code_blocks(path):
    """Texts of the indented blocks of a document."""
    blocks = re.findall(r"(?m)(?:^    .*\n(?:\n+(?=    ))?)+", path.read_text())
    return [re.sub(r"(?m)^    ", "", block) for block in blocks]


def commands(path):
    """Words of each command of a document, in its order."""
    found = []
    for block in code_blocks(path):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(("python ", "python3 ", "torchrun ", "sbatch ", "bash ", "pip ", "awk ")):
                found += [shlex.split(part, comments=True) for part in line.split(" && ")]
    return found


def table(path, *first_columns):
    """Rows of the table of a document whose header begins with these cells, each {column: cell}.

    A column that comes again has its number behind its name: "standard error 2".
    """
    lines = [line.strip() for line in path.read_text().splitlines()]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else [] for line in lines]
    (start,) = [i for i, row in enumerate(cells) if row and tuple(row[: len(first_columns)]) == first_columns]
    header = []
    for name in cells[start]:
        count = 1 + cells[start][: len(header)].count(name)
        header.append(f"{name} {count}" if count > 1 else name)
    end = next(i for i in range(start, len(cells) + 1) if i == len(cells) or not cells[i])
    return [dict(zip(header, row, strict=True)) for row in cells[start + 2 : end]]


def named(cell):
    """Model that the first words of a cell name, or None."""
    return MODELS.get(re.split(r"[, ]", cell)[0])


def comparison(cell):
    """Comparison method that a cell names, by its name or by that of its published row, or None."""
    names = {row: name for name in methods.COMPARISONS for row in methods.find(name).module.PUBLISHED}
    names |= {f"`{name}`": name for name in methods.COMPARISONS} | {name: name for name in methods.COMPARISONS}
    return next((names[part] for part in reversed(re.split(", ", cell)) if part in names), None)


def network_of_the_readme():
    """Text of the README's my_net.py."""
    (network,) = [block for block in code_blocks(README) if "def build" in block]
    return network


# -------------------------------------------------------------------------------------------- results


@functools.cache
def results(folder="", db="casia", track="last", seed=None):
    """{model: row} of what evaluate.py prints as JSON, of published results."""
    arguments = f"--db {db} --table ablation --track {track} --format json {f'--seed {seed}' if seed else ''}".split()
    with redirect_stdout(io.StringIO()) as output:
        evaluate.main([*arguments, "--runs", str(published.RESULTS / folder)])
    return {row["model"]: row for row in json.loads(output.getvalue())}


@functools.cache
def compared(folder="", db="casia"):
    """{model: row} of the comparison, and on CASIA of the ablations, of what evaluate.py prints as JSON."""
    arguments = f"--db {db} --table comparison --format json --runs {published.RESULTS / folder}".split()
    with redirect_stdout(io.StringIO()) as output:
        evaluate.main(arguments)
    ablations = results(folder, db) if db == "casia" else {}
    return ablations | {row["model"]: row for row in json.loads(output.getvalue())}


def war_of(model, folder="", db="casia"):
    """WAR of a method in published results as a cell, empty where it has not been run."""
    return number(compared(folder, db).get(model, {}).get("war"))


@functools.cache
def study_of(name):
    return study.Results(name, published.RESULTS, "casia")


def trained(model):
    """Epochs and number of seeds of the training that our tables show."""
    run = published.read(published.RESULTS / "casia" / published.RUNS_FILE).runs[model, "speaker"][0]
    return run["settings"]["epochs"], len(results()[model]["seeds"])


def number(value, sign=""):
    """Cell of a number, empty for None."""
    return "" if value is None else f"{round(value, 6):{sign}.2f}"


def gains(ours, base, column):
    """Cells of a mean difference between {seed: WAR} of two trainings and of its standard error."""
    mean, error = study.gain(ours[column], base[column])
    return number(mean, "+"), number(error)


# ------------------------------------------------------------------------------------ links and sizes


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_files_exist(path):
    text = path.read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert [link for link in links if not (path.parent / link).exists()] == []
    files = re.findall(r"`((?:\w+/)*[\w-]+\.(?:py|sh))`", text)
    assert [name for name in files if not (PROJECT / name).is_file() and name not in OF_USERS] == []


def test_the_network_of_the_readme_is_trained(corpus, tiny, tmp_path):
    (tmp_path / "my_net.py").write_text(network := network_of_the_readme())
    assert len(network.splitlines()) <= 15
    options = ["--db", corpus / "small.csv", "--runs", tmp_path / "runs", "--device", "cpu", "--fold", 2, "--epochs", 1]
    assert command(train.main, *options, "--model", tmp_path / "my_net.py") == 0
    assert (folder_of(tmp_path / "runs", "my_net") / "method.py").read_text() == network


def test_the_features_of_the_readme_are_used(corpus, tmp_path, monkeypatch, capsys):
    (code,) = [block for block in code_blocks(README) if "np.savez" in block]
    code, command_line = code.strip().split("\n\n")
    assert len(code.splitlines()) <= 3
    monkeypatch.chdir(tmp_path)
    exec(code.replace("path/to/casia", str(corpus)), dict(my_embedding=lambda name: np.arange(5.0) * len(name)))
    program, *arguments = shlex.split(command_line)[1:]
    arguments[arguments.index("casia")] = str(corpus / "small.csv")
    arguments[arguments.index("path/to/casia")] = str(corpus)
    assert program == "train.py" and command(train.main, *arguments) == 0
    assert "24 rows of 5 numbers from embeddings.npz" in capsys.readouterr().out


def test_the_readme_is_short_and_its_map_is_right():
    text = README.read_text()
    assert len(text.splitlines()) <= 200
    mapped = " ".join(row["file or folder"] for row in table(README, "file or folder"))
    assert {path.name for path in PROJECT.glob("*.py")} <= set(re.findall(r"`(.*?)`", mapped))
    assert [name for name in re.findall(r"`(\w+/)`", mapped) if not (PROJECT / name).is_dir()] == []
    assert [path.name for path in DOCUMENTS[1:] if f"](docs/{path.name})" not in text] == []


def test_a_picture_is_small_and_its_command_stands_next_to_it():
    pictures = sorted((PROJECT / "docs").glob("*.png"))
    assert pictures and [path.name for path in pictures if path.stat().st_size >= 100_000] == []
    for path in DOCUMENTS:
        shown = {f"docs/{link.split('/')[-1]}" for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", path.read_text())}
        drawn = {words[words.index("--out") + 1] for words in commands(path) if "--out" in words}
        evaluated = [words for words in commands(path) if {"evaluate.py", "--report"} <= set(words)]
        pages = [words[words.index("--report") + 1] for words in evaluated]
        drawn |= {page.replace(".html", "-page.png") for page in pages}  # a picture of the page
        assert shown <= drawn


# ------------------------------------------------------------------------------------------- commands


class Parsed(Exception):
    """A command line was understood."""


def understand(script, arguments, patch):
    """Parse a command line as its script does; SystemExit where it is refused."""
    parse = cli.CommandParser.parse_args

    def parse_and_stop(parser, *parts):
        raise Parsed(parse(parser, *parts))

    with patch.context() as inner, pytest.raises(Parsed):
        inner.setattr(cli.CommandParser, "parse_args", parse_and_stop)
        importlib.import_module(script.removesuffix(".py").replace("/", ".")).main(arguments)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_script_knows_the_options_of_each_command(path, monkeypatch, tmp_path):
    (tmp_path / "my_net.py").write_text(network_of_the_readme())
    for name in ("embeddings.npz", "casia-takes.csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for program, *words in commands(path):
        if program == "python" and words[0] != "-m":
            script, arguments = words[0], words[1:]
        elif program in ("torchrun", "sbatch"):
            end = next(i for i, word in enumerate(words) if word.endswith((".py", ".sh")))
            script, arguments = words[end], words[end + 1 :]
        elif program == "bash":
            assert (PROJECT / words[0]).is_file()
            continue
        else:
            continue
        assert (PROJECT / script).is_file()
        understand("train.py" if script.endswith("slurm.sh") else script, arguments, monkeypatch)
        if script == "train.py":
            config.check_options(config.parse_command_line(arguments))
        if "--" in arguments:  # study.py gives the rest to train.py
            config.parse_command_line(arguments[arguments.index("--") + 1 :])


def test_the_commands_of_the_results_run_without_recordings_and_runs(tmp_path, monkeypatch, capsys):
    """As in a fresh clone; the report of the study has a test of its own."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "benchmarks").symlink_to(PROJECT / "benchmarks")
    monkeypatch.chdir(tmp_path)
    found = {tuple(words[2:]) for words in commands(CASIA) if words[1] == "evaluate.py"}
    assert len(found) > 10
    for arguments in found:
        if "--figure" in arguments:
            pytest.importorskip("matplotlib")
        assert command(evaluate.main, *arguments) == 0, capsys.readouterr().err
    assert all(path.stat().st_size < 100_000 for path in tmp_path.glob("docs/*.png"))


def test_the_manifest_of_the_readme_is_read(tmp_path):
    (text,) = [block for block in code_blocks(README) if block.startswith("path,emotion,speaker")]
    (tmp_path / "corpus.csv").write_text(text)
    (tmp_path / "clips").mkdir()
    for line in text.splitlines()[1:]:
        soundfile.write(tmp_path / line.split(",")[0], np.sin(np.arange(8_000)), 16_000)
    database = protocols.open_database(str(tmp_path / "corpus.csv"))
    assert database.counts() == dict(happy=1, sad=1) and database.speakers.tolist() == ["anna", "ben"]


def test_the_reader_of_the_documents_reads_a_corpus(tmp_path, monkeypatch):
    (code,) = [block for block in code_blocks(FILES) if block.startswith("def read_mine")]
    (entry,) = [block for block in code_blocks(FILES) if block.startswith('"mine": Corpus')]
    namespace = vars(protocols).copy()
    exec(code, namespace)
    for speaker, emotion, take in product("ab", ("happy", "sad"), "12"):
        name = f"{speaker}/{emotion}-{take}.wav"
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.sin(np.arange(8_000)), 16_000)
    monkeypatch.setitem(protocols.DATABASES, "mine", eval("{" + entry + "}", namespace)["mine"])
    database = protocols.open_database("mine", tmp_path)  # which holds it to the counts of the entry
    assert len(protocols.make_folds(database)) == 2


# -------------------------------------------------------------------------------- numbers of the tables


def test_the_result_of_the_readme():
    rows = table(README, "WAR in per cent")
    assert len(rows) <= 8
    for row in rows:
        label, *cells, transductive = row.values()
        result = compared()[model := named(label) or comparison(label)]
        assert cells == [number(result[key]) for key in ("published_war", "war", "war_std")], label
        assert transductive == war_of(model, SPEAKER) and not result["transductive"], label
        words = {"most": "most of its paper", "reading": "our reading of an abstract"}
        assert not result["published_war"] or label.endswith(words.get(result["extent"], "")), label
    assert compared(SPEAKER)["lld-svm"]["transductive"]


def test_published_figures_and_ours():
    published_row, ours, std, interval, oracle, trainings = table(CASIA, "", "TFT", "F+TF")
    for name, model in MODELS.items():
        result = results()[model]
        assert published_row[name] == number(result["published_war"])
        assert ours[name] == number(result["war"]) and std[name] == number(result["war_std"])
        assert interval[name] == " to ".join(map(number, result["war_speakers"]))
        assert oracle[name] == number(results(track="oracle")[model]["war"])
        assert trainings[name] == "{} x {}".format(*trained(model))
        low, high = result["war_speakers"]
        assert (low <= result["published_war"] <= high) == (model == "afnn")


def test_wars_by_epoch():
    for row in table(CASIA, "epoch"):
        epoch = int(row.pop("epoch"))
        for name, cell in row.items():
            curves = study_of("epochs-100" if "five seeds" in name else "main").curves(named(name), "last")
            evaluated = next(iter(curves.values()))[0].epochs.tolist()
            at = evaluated.index(epoch) if epoch in evaluated else None
            expected = None if at is None else np.mean([*study.pooled_war(curves, "test", at).values()])
            assert cell == number(expected), (epoch, name)


def test_differences_between_networks():
    held_out, *_, last = study.COLUMNS
    for row in table(CASIA, "difference from the full network"):
        label, *cells = row.values()
        ablation, full = label.split(" - ")
        papers = [results()[MODELS[name]]["published_war"] for name in (ablation, full)]
        expected = [number(papers[0] - papers[1], "+")]
        for name, column in ((EQUALLY_LONG[full], last), ("epochs-10-15", held_out)):
            expected += gains(*(study_of(name).wars(MODELS[model]) for model in (ablation, full)), column)
        assert cells == expected, label


def test_gains_of_the_open_settings():
    for row in table(CASIA, "gain on held-out speakers"):
        label, *cells = row.values()
        name = study.setting_name(re.search("`(.*)`", label)[1])
        trainings = [[study_of(part).wars(model) for part in (name, study.BASELINE)] for model in ("tft", "atfnn")]
        assert cells == [cell for pair in trainings for cell in gains(*pair, study.COLUMNS[0])], label


def test_comparison_methods():
    rows = table(CASIA, "method", "extent")
    assert len(rows) <= 7
    for row in rows:
        label, share, *cells, transductive = row.values()
        result = compared()[model := comparison(label)]
        assert SHARES[share] == result["extent"]
        assert cells == [number(result[key]) for key in ("published_war", "war", "war_std")], label
        assert transductive == war_of(model, SPEAKER), label


def test_deep_methods():
    """All of them, in the order of their WAR; the last column has the epochs that a validation speaker chose."""
    rows = table(CASIA, "deep method")
    assert {comparison(row["deep method"]) for row in rows} == set(methods.DEEP)
    assert [row["strict"] for row in rows] == sorted((row["strict"] for row in rows), key=float, reverse=True)
    for row in rows:
        label, share, *cells, seeds = row.values()
        result = compared()[comparison(label)]
        assert SHARES[share] == result["extent"] and seeds == str(len(result["seeds"])), label
        assert cells == [number(result[key]) for key in ("published_war", "war", "war_std")], label
        assert result["folds_done"] == 4, label
    wars = {name: row["war"] for name, row in compared().items()}
    assert max(wars, key=lambda name: wars[name] or 0) == "gmm-hmm"
    assert max(wars[name] for name in methods.DEEP if name != "gmm-hmm") < wars["afnn"]
    text = CASIA.read_text()
    assert f"STC gains {wars['stc'] - wars['stc-off']:.2f} points" in text
    assert f"ADARL loses {wars['adarl-off'] - wars['adarl']:.2f}" in text
    assert f"moves DTPM by {compared()['dtpm-pooling']['war_std']:.2f} points" in text


def test_gains_of_speaker_statistics():
    for row in table(CASIA, "network", "strict, epoch 30"):
        label, strict, transductive, difference = row.values()
        curves = study_of("main").curves(named(label), "last")[0]  # of seed 0
        war = study.pooled_war({0: curves}, "test", curves[0].epochs.tolist().index(30))[0]
        assert strict == number(war) and transductive == war_of(named(label), SPEAKER), label
        gain = compared(SPEAKER)[named(label)]["war"] - war if transductive else None
        assert difference == number(gain, "+"), label


def test_results_on_emodb():
    for row in table(CASIA, "WAR on EmoDB"):
        label, *cells, transductive = row.values()
        result = compared(db="emodb")[model := comparison(label)]
        assert cells == [number(result[key]) for key in ("war", "war_std")], label
        assert transductive == war_of(model, SPEAKER, "emodb"), label


def test_known_speakers():
    for row in table(CASIA, "method", "epochs"):
        if not (model := named(row["method"])):
            assert war_of(comparison(row["method"])) in (row["speaker unseen"], "")  # empty where not published
            continue
        unseen, known = KNOWN_SPEAKERS[row["epochs"]]
        assert row["speaker unseen"] == number(results(f"studies/{unseen}", seed="0")[model]["war"])
        assert row["all speakers known"] == number(results(f"studies/{known}", db="casia-takes")[model]["war"])


def test_what_is_claimed_of_confusions_and_speakers():
    result = results("studies/epochs-100")["tft"]
    classes = ["angry", "fear", "happy", "neutral", "sad", "surprise"]
    ours, paper = figures.rates(result["confusion"]), figures.published_rates("casia", "tft", classes)[1]
    assert (np.diag(ours) < np.diag(paper)).all()
    for matrix in (ours, paper):
        mistakes = matrix - np.diag(np.diag(matrix))
        assert np.unravel_index(mistakes.argmax(), matrix.shape) == (classes.index("fear"), classes.index("sad"))
    easiest = dict.fromkeys(MODELS.values(), "wangzhe")
    easiest |= dict.fromkeys(("lld-svm", "rgsr-lpda", "lda-centroid", "ga-bel", "lohu"), "liuchanhg")
    for model, speaker in easiest.items():
        folds = [fold for its in study_of("main").folds(model, "last").values() for fold in its]
        wars = {speaker: wars.mean() for speaker, wars in figures.speaker_war(folds).items()}
        assert max(wars, key=wars.get) == speaker, model


def test_speeds_of_the_comparison_networks():
    path = published.RESULTS / "speed-comparisons-amd-epyc.md"
    lines = [line.split(" | ") for line in path.read_text().splitlines() if " eager " in line]
    report = {(line[0].strip("| "), line[2]): (line[7], line[9]) for line in lines}
    rows = table(PROJECT / "docs" / "performance.md", "network", "parameters")
    assert {row["network"] for row in rows} == set(NETWORKS)
    for row in rows:
        name, parameters, *cells = row.values()
        method = methods.find(name)
        speakers = [3] if "speakers" in inspect.signature(method.build).parameters else []
        network = method.build(6, *SIZES[name], *speakers)
        assert f"{sum(part.numel() for part in network.parameters()):,}".replace(",", " ") == parameters
        assert cells == [*report[name, "float32"], *report[name, "bfloat16"]], name


def test_speeds_are_those_of_the_reports():
    rows, lines = table(PROJECT / "docs" / "performance.md", "device", "model"), []
    for row in rows:
        if link := re.search(r"\((.*)\)", row["report"]):
            lines = (PROJECT / "docs" / link[1]).read_text().splitlines()
        wanted = {row[name] for name in ("model", "precision", "ms/step", "ratio")}
        assert any(wanted <= {cell.strip() for cell in line.split("|")} for line in lines), row
