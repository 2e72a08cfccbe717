"""The options of train.py, the settings of a run that follow from them, and what of these deviates from the papers.

    options = parse_command_line(["--model", "tft", "--overlap", "0.5"])
    (method,) = methods_of(options)
    settings_of(options, method)    # {"epochs": 1000, "batch_size": 64, ..., "overlap": 0.5}

A run records all CORE_SETTINGS, and of OPEN_SETTINGS, which the papers leave open, those that are not the default.
"""

import argparse
import math
import os
import re
from dataclasses import dataclass, field, fields, replace

import features
import protocols
from common import cli, methods
from common.methods import PAPER_SETTINGS, TFT_SETTINGS
from common.runs import TRAINED_TRACKS

NORMALIZATIONS = ("fold", "none", "segment", "utterance", "speaker")
SYNTHETIC_EPOCHS = 10  # default on the synthetic corpus, where a demonstration is wanted and no result
SPEAKER_STATISTICS_NEED = "needs all recordings of each speaker, by name"  # --normalization speaker
MOST_SEEDS = 1_000  # of a command

# --------------------------------------------------------------------------------------------- options


def option(default, help, **details):
    """Field of Options; `details` go to argparse, but for `least` and `below`, the bounds of a number."""
    return field(default=default, metadata=dict(help=help, **details))


def open_option(models, default, help, **details):
    """Field of Options for a setting that the papers leave open, of those models."""
    return option(default, help, models=models, **details)


ALL = tuple(PAPER_SETTINGS)
PRE_EMPHASIS = features.FRONT_ENDS["tft"].pre_emphasis  # coefficient of TFT section 3.2
OF_TFT = tuple(model for model, settings in PAPER_SETTINGS.items() if settings is TFT_SETTINGS)


@dataclass(frozen=True)
class Options:
    """Options of train.py, a line each; None means the paper's value for the model."""

    db: str = option(
        "synthetic", f"database: {', '.join(protocols.DATABASES)}, or the path of a manifest (.csv, .tsv, .json)"
    )
    root: str = option(None, "folder of the recordings (default: $SER_DATA/<db>, else data/<db>, or a manifest's own)")
    model: str = option(
        "tft", f"method: {', '.join((*PAPER_SETTINGS, *methods.COMPARISONS))}, the groups {', '.join(methods.GROUPS)}, "
        "or the path of a file with a network of your own",
    )  # fmt: skip
    features: str = option(
        None, "vectors of the utterances made elsewhere, .npz or .csv, for a method that uses vectors"
    )
    fold: str = option("all", "fold: 1..K, a speaker or session by name, all, or none: train on everyone, test nobody")
    protocol: str = option("speaker", "what a fold tests and does not train on", choices=protocols.PROTOCOLS)
    seed: str = option("0", "seed, a range such as 0-4, or several: 0-2,5")
    epochs: int = option(
        None, f"epochs (TFT 1000; ATFNN 100, where its paper states none; synthetic {SYNTHETIC_EPOCHS})", least=1
    )
    batch_size: int = option(None, "segments per step (TFT 64, ATFNN 128)", least=1)
    lr: float = option(None, "learning rate of Adam (TFT 0.001, ATFNN 0.0005)", least=1e-12)
    track: str = option(
        None, "last epoch, epoch chosen on held-out training speakers (validation), or both (each method's own: last, of "
        "most deep methods validation)", choices=(*TRAINED_TRACKS, "all"),
    )
    eval_every: int = option(
        10, "save scores after so many epochs each, for the tracks validation and oracle; 0: never", least=0
    )
    save_every: float = option(60.0, "seconds between saved states, from which a killed run resumes", least=0)
    folds_at_once: int = option(None, "folds trained at once (10 on a GPU, 1 on a CPU)", least=1, alias="--together")
    engine: str = option(
        "auto", "implementation of a step; graph and compiled need a GPU, auto takes the fastest",
        choices=("auto", "eager", "graph", "compiled"),
    )  # fmt: skip
    precision: str = option("float32", "of products and convolutions in training", choices=("float32", "bfloat16"))
    deterministic: bool = option(False, "ask torch for the same bits on each GPU run, at a cost; a CPU gives them")
    partial: bool = option(False, "accept a database whose counts differ from the published ones")
    device: str = option("auto", "where to compute; auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"))
    runs: str = option("runs", "folder of the results")
    check: bool = option(False, "list what the corpus holds and what is wrong with it; train nothing")
    quiet: bool = option(False, "print nothing but errors")
    normalization: str = open_option(
        ALL, None, "z-score per band, from what; speaker: each speaker's own, transductive (fold; lld-gmm utterance)",
        choices=NORMALIZATIONS,
    )  # fmt: skip
    overlap: float = open_option(
        ALL, None, "share of a segment that the next segment holds too, up to 0.75 (0, of dtpm-pooling 34/64)", least=0
    )  # fmt: skip
    pre_emphasis: str = open_option(
        ALL, None, "0.97 within each segment, or of the utterance before it is cut (TFT segment, ATFNN none)",
        choices=("none", "segment", "utterance"),
    )  # fmt: skip
    log_floor: float = open_option(ALL, 1e-6, "added to a band's energy before the logarithm", least=1e-30, below=1)
    dropout: float = open_option(
        ALL, 0, "TFT: in its encoders; ATFNN: between the BiLSTM's layers, before the classifier", least=0, below=1
    )
    aggregation: str = open_option(
        ALL, "mean", "an utterance's class from its segments' posteriors", choices=protocols.AGGREGATIONS
    )
    double_softmax: bool = open_option(OF_TFT, False, "cross-entropy of the softmax, as TFT eq. 13 reads")
    bn_momentum: float = open_option(OF_TFT, 0.1, "of batch norm", least=1e-12, below=1)
    f_encoder_heads: int = open_option(
        ("atfnn", "afnn", "tfnn"), 2, "heads of the F-Encoder", choices=(1, 2, 4, 8), least=1
    )
    gate: str = open_option(
        ("atfnn", "afnn", "atnn"), "sigmoid",
        "F- and T-Attention: activation of their convolution; softmax: over groups",
        choices=("sigmoid", "softmax", "none"),
    )  # fmt: skip
    t_attention_input: str = open_option(
        ("atfnn",), "log-mel", "T-Attention from x (eq. 2, Fig. 4) or the F-Encoder's output (eq. 4)",
        choices=("log-mel", "encoded"),
    )  # fmt: skip


CORE_SETTINGS = ("epochs", "batch_size", "lr", "normalization", "precision")  # in the settings of each run
OPEN_SETTINGS = {  # other open settings, recorded where they are not the default -> the models that have them
    part.name: part.metadata["models"]
    for part in fields(Options)
    if "models" in part.metadata and part.name not in CORE_SETTINGS
}


SETTINGS_OF_ANY_NETWORK = ("overlap", "pre_emphasis", "log_floor", "aggregation")  # of OPEN_SETTINGS


def bounded(kind, least, below=2**31):
    """Type of argparse: a number of a kind (int or float) from `least`, and below `below`."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < below or "_" in text:
            bound = f"at least {least}" if least in (0, 1) else "more than 0"
            bound += f" and less than {below}" if below < 2**31 else ""
            noun = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(f"{text!r}: give a {noun} of {bound}")
        return value

    return convert


def parse_command_line(arguments=None, doc=""):
    """Options of a command line, by a parser that is built from the fields of Options."""
    parser = cli.CommandParser(doc)
    group_of_open = parser.add_argument_group("settings that the papers leave open")
    for part in fields(Options):
        details = dict(part.metadata, default=part.default)
        group = group_of_open if details.pop("models", None) else parser
        names = [flag(part.name), details.pop("alias", None)]
        if part.default is not None and part.default is not False:
            details["help"] += f" (default: {part.default})"
        if part.type is bool:
            details["action"] = "store_true"
        elif "least" in details:
            details["type"] = bounded(part.type, details.pop("least"), details.pop("below", 2**31))
        group.add_argument(*filter(None, names), dest=part.name, **details)
    return Options(**vars(parser.parse_args(arguments)))


def flag(name):
    """Option of the command line for a field: batch_size -> --batch-size."""
    return "--" + name.replace("_", "-")


def parse_seeds(text):
    """Seeds of `3`, `0-4` or `0-2,5`, as tables print them: a sorted list, each once; UsageError for other text."""
    seeds = set()
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < first + MOST_SEEDS:
            raise protocols.UsageError(
                f"--seed {text}: give a number such as 0, a range such as 0-4, or several: 0-2,5"
            )
        seeds.update(range(first, last + 1))
        if len(seeds) > MOST_SEEDS:
            raise protocols.UsageError(f"--seed {text}: more than {MOST_SEEDS} seeds; give them to several commands")
    return sorted(seeds)


# ------------------------------------------------------------------------------------ settings of a run


def methods_of(options):
    """Methods that the options name, with the vectors that they use; UsageError or MethodError where there is none."""
    found = [methods.find(model) for model in methods.GROUPS.get(options.model, (options.model,))]
    return [replace(method, vectors=options.features or "") if method.uses_vectors else method for method in found]


def seeds_of(options, method):
    """Seeds to train: those of the options, but only the first for a method that gives the same results for each."""
    seeds = parse_seeds(options.seed)
    return seeds if method.is_seeded else seeds[:1]


def tracks_of(options, method):
    """Tracks of a method to train: those that the options name, else its own; the last epoch where nobody is held out."""
    if method.is_fitted or options.fold == protocols.NO_FOLD:
        return ["last"]
    return list(TRAINED_TRACKS) if options.track == "all" else [options.track or method.track]


def has_setting(method, name):
    """True if a method has one of OPEN_SETTINGS."""
    if method.is_of_papers:
        return method.name in OPEN_SETTINGS[name]
    if name == "aggregation" and method.has_back_end:  # which classifies utterances
        return False
    return not method.is_fitted and name in SETTINGS_OF_ANY_NETWORK


def default_of(name, method):
    """Default of a setting: the method's value or its front end's, else ours; None where no value stands for it."""
    if name in method.defaults:
        return method.defaults[name]
    if name in ("overlap", "pre_emphasis") and not method.is_fitted:
        front_end = method.base_front_end()
        return (front_end.overlap or 0) if name == "overlap" else pre_emphasis_of(front_end)
    return "fold" if name == "normalization" else getattr(Options, name, None)


def pre_emphasis_of(front_end):
    """Value of --pre-emphasis that gives a front end's; None for another coefficient than 0.97."""
    if not front_end.pre_emphasis:
        return "none"
    return front_end.pre_emphasis_scope if front_end.pre_emphasis == PRE_EMPHASIS else None


def settings_of(options, method):
    """Settings of a run of a method: CORE_SETTINGS, and of OPEN_SETTINGS those that it has and that are no default.

    A network's file adds its optimiser, class weights and SHA-256; a method that is fitted at once has no epochs.
    """
    names = ("normalization",) if method.is_fitted else (*CORE_SETTINGS, *OPEN_SETTINGS)
    values = {name: getattr(options, name) for name in names}
    values = {name: default_of(name, method) if value is None else value for name, value in values.items()}
    is_stated = method.path and "epochs" in getattr(method.module, "SETTINGS", {})  # by the user
    if options.db == "synthetic" and options.epochs is None and "epochs" in values and not is_stated:
        values["epochs"] = SYNTHETIC_EPOCHS
    settings = {
        name: value
        for name, value in values.items()
        if name in CORE_SETTINGS or (has_setting(method, name) and value != default_of(name, method))
    }
    if not method.is_of_papers and not method.is_fitted:
        settings |= {name: method.defaults[name] for name in ("optimizer", "optimizer_options", "class_weights")}
    return settings | (dict(method_sha256=method.sha256) if method.sha256 else {})


def deviations_of(settings):
    """A line for each setting that is not the paper's, or where the paper is silent not our default.

    A network of the user's own has no paper: its epochs, batch size and learning rate deviate from nothing.
    """
    model, lines = settings["model"], []
    if model in PAPER_SETTINGS or model in methods.COMPARISONS:
        method = methods.find(model)
    else:
        method = methods.Method(model, dict(pre_emphasis=None), front_end="tft")
    for name in (*CORE_SETTINGS, *OPEN_SETTINGS):
        expected = default_of(name, method)
        value = settings.get(name, expected)
        if expected is None or value == expected:
            continue
        lines.append(f"{name} {value} instead of {expected}")
        if value == "speaker":
            lines[-1] += ", transductive: a tested speaker's statistics are of all its own recordings"
    return lines


def is_possible_setting(name, value, model):
    """Check that the command line can give a model of the papers this value of one of OPEN_SETTINGS."""
    part = Options.__dataclass_fields__[name]
    if model not in OPEN_SETTINGS[name] or type(value) is not part.type:
        return False
    if value not in part.metadata.get("choices", (value,)):
        return False
    return "least" not in part.metadata or part.metadata["least"] <= value < part.metadata.get("below", math.inf)


def front_end_of(method, settings):
    """FrontEnd of a method, changed as the settings of a run ask."""
    front_end = method.base_front_end()
    changes = dict(
        overlap=float(settings.get("overlap", front_end.overlap)),
        log_floor=settings.get("log_floor", front_end.log_floor),
    )
    if scope := settings.get("pre_emphasis"):
        changes["pre_emphasis"] = 0.0 if scope == "none" else PRE_EMPHASIS
        changes["pre_emphasis_scope"] = "utterance" if scope == "utterance" else "segment"
    return replace(front_end, **changes)


def check_options(options, chosen=None):
    """Raise UsageError for options that none of the chosen methods has, or that contradict each other.

    chosen: methods of these options, where they are there already.
    """
    chosen = chosen or methods_of(options)
    if not options.runs or (os.path.exists(options.runs) and not os.path.isdir(options.runs)):
        raise protocols.UsageError(f"--runs {options.runs}: is no folder; name one that is, or that can be made")
    parse_seeds(options.seed)
    check_networks(options, chosen)
    if options.track not in (None, "last") and options.fold == protocols.NO_FOLD:
        raise protocols.UsageError(f"--track {options.track}: --fold none holds nobody out; drop --track")
    if not options.eval_every and any("validation" in tracks_of(options, method) for method in chosen):
        raise protocols.UsageError(
            "--eval-every 0: the validation track chooses among evaluated epochs; give 1 or more"
        )
    for name, having in OPEN_SETTINGS.items():
        if getattr(options, name) != getattr(Options, name) and not any(has_setting(m, name) for m in chosen):
            owners = "networks on segments" if name in SETTINGS_OF_ANY_NETWORK else ", ".join(having)
            raise protocols.UsageError(f"{flag(name)}: only {owners} have it, not {options.model}; drop the option")
    for method in chosen:
        settings = settings_of(options, method)
        if settings["normalization"] not in (possible := normalizations_of(method)):
            raise protocols.UsageError(
                f"--normalization {settings['normalization']}: choose {', '.join(possible)} for {method.name}"
            )
        if settings["normalization"] == "speaker" and options.fold == protocols.NO_FOLD:
            raise protocols.UsageError(
                f"--normalization speaker: {SPEAKER_STATISTICS_NEED}; choose another for --fold none"
            )
        front_end = None if method.is_fitted else front_end_of(method, settings)
        if front_end and not front_end.overlap_fits():
            if front_end.cut == "equal":
                raise protocols.UsageError(f"--overlap: segments of {method.name} do not overlap; drop the option")
            raise protocols.UsageError(
                f"--overlap {options.overlap}: must be at most {features.MAX_OVERLAP} and a whole number of the "
                f"{front_end.frames} frames of a segment, such as 0.5"
            )
    if options.dropout and options.engine in ("graph", "compiled"):
        raise protocols.UsageError("--dropout: has not been tried with recorded steps; use --engine eager")


def normalizations_of(method):
    """Values of --normalization that a method can have."""
    if not method.is_fitted:
        return NORMALIZATIONS
    return ("fold", "none", "speaker") if method.uses_vectors else ("fold", "none", "utterance", "speaker")


def check_networks(options, chosen):
    """Raise UsageError for options of networks where all chosen methods are fitted at once, and the other way round."""
    fitted = [method.name for method in chosen if method.is_fitted]
    if fitted and options.fold == protocols.NO_FOLD:
        raise protocols.UsageError(f"--fold none: {fitted[0]} has no model for predict.py; name another --model")
    if (back_ends := [m.name for m in chosen if m.has_back_end]) and options.fold == protocols.NO_FOLD:
        lacks = f"{back_ends[0]} has a classifier that predict.py lacks"
        raise protocols.UsageError(f"--fold none: {lacks}; name another --model")
    if options.features and not options.features.lower().endswith((".npz", ".csv")):
        raise protocols.UsageError(f"--features {options.features}: name a .npz or .csv file")
    if options.features and not os.path.isfile(options.features):
        raise protocols.UsageError(f"--features {options.features}: no such file; name one that is there")
    if options.features and not any(method.uses_vectors for method in chosen):
        raise protocols.UsageError(f"--features: {options.model} uses no utterance vectors; use such as lld-svm")
    if len(fitted) < len(chosen):
        return
    for name in ("epochs", "batch_size", "lr", "precision"):
        if getattr(options, name) != getattr(Options, name):
            raise protocols.UsageError(f"{flag(name)}: {options.model} is fitted at once, without epochs; drop it")
    if options.track not in (None, "last"):
        raise protocols.UsageError(f"--track {options.track}: {options.model} has no epochs to choose from; drop it")
