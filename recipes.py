"""What can be set: the papers' training settings, the options of train.py, and what a run tells of them.

    config = parse_command_line(["--model", "tft", "--overlap", "0.5"])
    settings_of(config, "tft")      # {"epochs": 1000, "batch_size": 64, ..., "overlap": 0.5}

A setting that a run tells is one of ALWAYS, or one of OPEN, which the papers leave open, where it is not as usual.
"""

import argparse
import math
import os
from dataclasses import dataclass, field, fields, replace

import features
import protocols
import results

# ------------------------------------------------------------------------------------------- options


@dataclass(frozen=True)
class Recipe:
    """A paper's training settings, and the front end that it feeds."""

    front_end: str
    epochs: int
    batch_size: int
    lr: float
    pre_emphasis: str


TFT_RECIPE = Recipe("tft", epochs=1000, batch_size=64, lr=1e-3, pre_emphasis="segment")  # TFT section 3.3
ATFNN_RECIPE = Recipe("atfnn", epochs=100, batch_size=128, lr=5e-4, pre_emphasis="none")  # ATFNN III-C, epochs ours
RECIPES = {
    **dict.fromkeys(("tft", "tft-t+f", "tft-t+tf", "tft-f+tf"), TFT_RECIPE),
    **dict.fromkeys(("atfnn", "afnn", "atnn", "tfnn"), ATFNN_RECIPE),
}
NORMALIZATIONS = ("fold", "none", "segment", "utterance", "speaker")
FOR_KNOWN_SPEAKERS = "needs all recordings of each speaker, by name"  # --normalization speaker
EVERY, OF_TFT = tuple(RECIPES), tuple(name for name, recipe in RECIPES.items() if recipe is TFT_RECIPE)


def option(default, help, **how):
    return field(default=default, metadata=dict(help=help, **how))


def open_option(models, default, help, **how):
    """A setting that the papers leave open, of those models."""
    return option(default, help, models=models, **how)


@dataclass(frozen=True)
class Config:
    """The options of the command line, one line each; None means the paper's value for the model."""

    db: str = option("synthetic", f"database: {', '.join(protocols.DATABASES)}, or the path of a manifest .csv")
    root: str = option(None, "folder of the recordings (default: $SER_DATA/<db>, else data/<db>, or a manifest's own)")
    model: str = option("tft", "model to train", choices=(*RECIPES, "all"))
    fold: str = option("all", "fold: 1..K, a speaker or session by name, all, or none: train on everyone, test nobody")
    protocol: str = option("speaker", "what a fold leaves out", choices=protocols.PROTOCOLS)
    seed: str = option("0", "seed, a range such as 0-4, or several: 0-2,5")
    epochs: int = option(None, "epochs (TFT 1000; ATFNN 100, where its paper states none)", least=1)
    batch_size: int = option(None, "segments per step (TFT 64, ATFNN 128)", least=1)
    lr: float = option(None, "learning rate of Adam (TFT 0.001, ATFNN 0.0005)", least=1e-12)
    track: str = option(
        "last", "last epoch, epoch chosen on held-out training speakers, or both", choices=("last", "validation", "all")
    )
    eval_every: int = option(
        10, "keep scores every so many epochs, for the tracks validation and oracle; 0: never", least=0
    )
    save_every: float = option(60.0, "seconds between saved states, from which a killed run goes on", least=0)
    together: int = option(None, "folds trained at once (10 on a GPU, 1 on a CPU)", least=1)
    engine: str = option(
        "auto", "how steps run; graph and compiled need a GPU, auto takes what is usually fastest",
        choices=("auto", "eager", "graph", "compiled"),
    )  # fmt: skip
    precision: str = option("float32", "of products and convolutions in training", choices=("float32", "bfloat16"))
    deterministic: bool = option(False, "ask torch for the same bits on each GPU run, at a cost; a CPU gives them")
    partial: bool = option(False, "accept a database whose counts differ from the published ones")
    device: str = option("auto", "where to compute; auto takes a GPU if there is one", choices=("auto", "cpu", "cuda"))
    runs: str = option("runs", "folder of the results")
    quiet: bool = option(False, "print nothing but errors")
    normalization: str = open_option(
        EVERY, "fold", "z-score per band, from what; speaker: each one's own, transductive", choices=NORMALIZATIONS
    )
    overlap: float = open_option(EVERY, 0, "share of a segment that the next one holds too, up to 0.75", least=0)
    pre_emphasis: str = open_option(
        EVERY, None, "0.97 within each segment, or of the utterance before it is cut (TFT segment, ATFNN none)",
        choices=("none", "segment", "utterance"),
    )  # fmt: skip
    log_floor: float = open_option(EVERY, 1e-6, "added to a band's energy before the logarithm", least=1e-30, below=1)
    dropout: float = open_option(
        EVERY, 0, "TFT: in its encoders; ATFNN: between the BiLSTM's layers, before the classifier", least=0, below=1
    )
    aggregation: str = open_option(
        EVERY, "mean", "an utterance's class from its segments' posteriors", choices=protocols.AGGREGATIONS
    )
    double_softmax: bool = open_option(OF_TFT, False, "cross-entropy of the softmax, as TFT eq. 13 reads")
    bn_momentum: float = open_option(OF_TFT, 0.1, "of batch norm", least=1e-12, below=1)
    f_encoder_heads: int = open_option(
        ("atfnn", "afnn", "tfnn"), 2, "heads of the F-Encoder", choices=(1, 2, 4, 8), least=1
    )
    gate: str = open_option(
        ("atfnn", "afnn", "atnn"), "sigmoid",
        "F- and T-Attention: what their convolution goes through; softmax: over groups",
        choices=("sigmoid", "softmax", "none"),
    )  # fmt: skip
    t_attention_input: str = open_option(
        ("atfnn",), "log-mel", "T-Attention from x (eq. 2, Fig. 4) or the F-Encoder's output (eq. 4)",
        choices=("log-mel", "encoded"),
    )  # fmt: skip


ALWAYS = ("epochs", "batch_size", "lr", "normalization", "precision")  # in every run's settings
OPEN = {  # the other open settings, which a run tells where they are not as usual -> the models that have them
    one.name: one.metadata["models"] for one in fields(Config) if "models" in one.metadata and one.name not in ALWAYS
}


def bounded(kind, least, below=2**31):
    """A type of argparse: a number of that kind from `least`, and below `below`."""

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
    """argparse built from the fields of Config."""
    parser = results.OneLineParser(doc)
    left_open = parser.add_argument_group("settings that the papers leave open")
    for one in fields(Config):
        how = dict(one.metadata, default=one.default)
        group = left_open if how.pop("models", None) else parser
        if one.default is not None and one.default is not False:
            how["help"] += f" (default: {one.default})"
        if one.type is bool:
            how["action"] = "store_true"
        elif "least" in how:
            how["type"] = bounded(one.type, how.pop("least"), how.pop("below", 2**31))
        group.add_argument(flag(one.name), **how)
    return Config(**vars(parser.parse_args(arguments)))


def flag(name):
    return "--" + name.replace("_", "-")


# ------------------------------------------------------------------------------------ settings of a run


def default_of(name, model):
    """The paper's value of a setting, else our default."""
    return getattr(RECIPES[model], name, getattr(Config, name))


def settings_of(config, model):
    """ALWAYS, and what of OPEN the model has and is not as usual."""
    given = {name: getattr(config, name) for name in (*ALWAYS, *OPEN)}
    given = {name: default_of(name, model) if value is None else value for name, value in given.items()}
    return {
        name: value
        for name, value in given.items()
        if name in ALWAYS or (model in OPEN[name] and value != default_of(name, model))
    }


def deviations_of(settings):
    """A line for each setting that is not the paper's, or where it is silent not our default."""
    model, lines = settings["model"], []
    for name in (*ALWAYS, *OPEN):
        value, expected = settings.get(name, default_of(name, model)), default_of(name, model)
        if value != expected:
            lines.append(f"{name} {value} instead of {expected}")
            if value == "speaker":
                lines[-1] += ", transductive: a tested speaker's statistics are of all its own recordings"
    return lines


def is_possible(name, value, model):
    """Could the command line have given the model this value of OPEN?"""
    one = Config.__dataclass_fields__[name]
    if model not in OPEN[name] or type(value) is not one.type or value not in one.metadata.get("choices", (value,)):
        return False
    return "least" not in one.metadata or one.metadata["least"] <= value < one.metadata.get("below", math.inf)


def front_end_of(model, settings):
    """The front end of a model's paper, changed as the settings tell."""
    front_end = features.FRONT_ENDS[RECIPES[model].front_end]
    changes = dict(overlap=float(settings.get("overlap", 0)), floor=settings.get("log_floor", front_end.floor))
    if how := settings.get("pre_emphasis"):
        changes["pre_emphasis"] = 0.0 if how == "none" else features.FRONT_ENDS["tft"].pre_emphasis
        changes["emphasized"] = "utterance" if how == "utterance" else "segment"
    return replace(front_end, **changes)


def chosen_models(config):
    return list(RECIPES) if config.model == "all" else [config.model]


def check_options(config):
    """UsageError for an option that none of the chosen models has, and for what does not go together."""
    if not config.runs or (os.path.exists(config.runs) and not os.path.isdir(config.runs)):
        raise protocols.UsageError(f"--runs {config.runs}: is no folder; name one that is, or that can be made")
    results.parse_seeds(config.seed)
    if config.track != "last" and config.fold == protocols.NO_FOLD:
        raise protocols.UsageError(f"--track {config.track}: --fold none holds nobody out; leave --track out")
    if config.track != "last" and not config.eval_every:
        raise protocols.UsageError(
            "--eval-every 0: the validation track chooses among evaluated epochs; give 1 or more"
        )
    models = chosen_models(config)
    for name, having in OPEN.items():
        if getattr(config, name) != getattr(Config, name) and not set(models) & set(having):
            raise protocols.UsageError(
                f"{flag(name)}: only {', '.join(having)} have it, not {config.model}; leave it out"
            )
    for model in models:
        front_end = front_end_of(model, settings_of(config, model))
        if not front_end.overlap_fits():
            raise protocols.UsageError(
                f"--overlap {config.overlap}: must be at most {features.MOST_OVERLAP} and a whole number of the "
                f"{front_end.frames} frames of a segment, such as 0.5"
            )
    if config.dropout and config.engine in ("graph", "compiled"):
        raise protocols.UsageError("--dropout: has not been tried with recorded steps; say --engine eager")
    if config.normalization == "speaker" and config.fold == protocols.NO_FOLD:
        raise protocols.UsageError(f"--normalization speaker: {FOR_KNOWN_SPEAKERS}; choose another for --fold none")
