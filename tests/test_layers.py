"""The order of the files: imports run downward only, torch loads late, and the folder fast/ can be deleted."""

import ast
import sys

import numpy as np
import pytest
from helpers import PROJECT, command, folder_of, log_of, run_train

import predict
from common import cli, runs

COMMANDS = "train evaluate predict benchmarks"
# import nothing of the project
INDEPENDENT = "models common.manifests common.duplicates common.containers common.paths common.cli"
# From top to bottom: a file imports only files further down; a folder stands for its files
ORDER = f"""
    {COMMANDS}
    training.fitted training.scheduler reporting.audit reporting.page reporting.learning reporting.figures
    reporting.summary reporting.drawings fast.stacked fast.graphs
    training.checkpoints training.trainer reporting.published reporting.tables common.check
    training.data fast.modules fast.layers fast.memory common.vectors common.config common.methods common.runs common.synthetic reporting.significance
    comparisons
    features protocols
    common.audio
    {INDEPENDENT}
""".split()
FOLDERS = ("", "common", "training", "fast", "comparisons", "reporting", "benchmarks")
FILES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts): path
    for folder in FOLDERS
    for path in (PROJECT / folder).glob("*.py")
    if path.name != "__init__.py"
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def entry_of(name):
    """Entry of ORDER for a file: itself, else its folder."""
    return name if name in ORDER else name.split(".")[0]


def nodes(tree, with_functions=True):
    """Nodes of a file, also of its functions' bodies or not."""
    for child in ast.iter_child_nodes(tree):
        if with_functions or not isinstance(child, ast.FunctionDef):
            yield from (child, *nodes(child, with_functions))


def imports_of(name, with_functions=True):
    """Names of the modules that a file imports, `from a import b` as a and a.b."""
    names = set()
    for node in nodes(TREES[name], with_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("name", FILES)
def test_imports_run_downward_only(name):
    entry = entry_of(name)
    assert entry in ORDER, f"{name}: give it a position in ORDER"
    for imported in imports_of(name) & FILES.keys():
        other = entry_of(imported)
        assert other not in COMMANDS.split(), f"{name} imports the command {imported}"
        assert ORDER.index(entry) < ORDER.index(other) or entry == other == "comparisons", f"{name} imports {imported}"
        assert entry not in INDEPENDENT.split()


def test_torch_and_the_fast_forms_load_late():
    for name in FILES:
        top = {imported.split(".")[0] for imported in imports_of(name, with_functions=False)}
        folder = name.split(".")[0]
        assert "torch" not in top or folder in ("models", "training", "fast", "comparisons", "benchmarks"), name
        assert "fast" not in top or folder in ("fast", "benchmarks"), f"{name} needs the folder fast/"
    assert {name.split(".")[0] for name in imports_of("common.cli")} <= sys.stdlib_module_names


# Words that carried many meanings each; `one` is banned as a name of its own
BANNED = set("told how kept usual every which place wish apart heard beside arrive mend say".split())


def names_given_in(tree):
    """Names that a file gives to values, arguments, functions and classes."""
    for node in ast.walk(tree):
        for part in ("name", "arg", "asname", "id", "attr"):
            is_given = part in ("name", "arg", "asname") or isinstance(getattr(node, "ctx", None), ast.Store)
            if is_given and isinstance(name := getattr(node, part, None), str):
                yield name


def test_names_are_words_of_the_field():
    tests = {path.stem: ast.parse(path.read_text()) for path in (PROJECT / "tests").glob("*.py")}
    for file, tree in (TREES | tests).items():
        for name in set(names_given_in(tree)):
            words = set(name.lower().replace("eval_every", "").replace("save_every", "").split("_"))
            # the names of tests are sentences
            assert name.startswith("test_") or (name != "one" and not BANNED & words), f"{file}: {name}"


# ------------------------------------------------------------------------------------ without fast/


@pytest.fixture
def without_fast(monkeypatch):
    """As if the folder fast/ had been deleted."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "fast"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fast", None)  # an import of it raises ImportError


# Adam turns rounding into whole steps where a gradient is nothing but rounding: TFT's biases before batch norm, which
# cancel in training and are felt in evaluation
@pytest.mark.parametrize("model, tolerance", [("tft", 1e-3), ("tft-t+f", 1e-3), ("atfnn", 1e-5), ("afnn", 1e-5), ("cnn-gru-seqcap", 1e-5)])
def test_without_the_folder_fast_the_results_are_the_same(
    model, tolerance, corpus, tiny, tmp_path, without_fast, monkeypatch
):
    more = ["--model", model, "--batch-size", 32, "--track", "last"]  # 2 or 4 steps
    assert run_train(corpus / "small.csv", tmp_path / "slow", *more) == 0
    assert command(predict.main, "--run", folder_of(tmp_path / "slow", model), corpus / "wav/S1/sad_01.wav") == 0
    assert "fast.modules" not in sys.modules
    monkeypatch.undo()
    assert run_train(corpus / "small.csv", tmp_path / "fast", *more) == 0
    assert "fast.modules" in sys.modules
    slow, fast = (folder_of(tmp_path / name, model) for name in ("slow", "fast"))
    np.testing.assert_allclose(log_of(slow)[:, 1], log_of(fast)[:, 1], rtol=1e-5)
    np.testing.assert_allclose(runs.read_fold(slow).scores, runs.read_fold(fast).scores, atol=tolerance)


def test_without_the_folder_fast_bfloat16_is_refused(corpus, tiny, tmp_path, without_fast, capsys):
    assert run_train(corpus / "small.csv", tmp_path, "--precision", "bfloat16") == cli.EXIT_USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--precision bfloat16: needs the folder fast/; use float32" in error
