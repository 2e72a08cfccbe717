"""The engines and precisions agree after 50 steps. What needs a GPU is skipped without one.

Tolerances. The engines of float32 do the same sums, on a GPU in an order that may change; Adam divides each gradient by
its own size, so a rounding difference in a weight that hardly matters moves it by up to the learning rate: losses are
held to 1 % of the first, weights to 0.5 % of their norm. bfloat16 rounds a product's factors to 8 bits, 0.4 %; on a CPU
that became 0.3 % (TFT) and 3.2 % (ATFNN) of the losses and 0.07 % and 0.35 % of the weights: held to 5 % and 1 %.
"""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import engine
import features
import models
import protocols
import train

STEPS = 50
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = pytest.param("cuda", marks=needs_gpu)


def corpus(model, segments, device):
    """Segments of three classes that differ in a band of their own; the last step of an epoch is a shorter one."""
    front_end = features.FRONT_ENDS[train.RECIPES[model].front_end]
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(segments) % 3
    heard = torch.randn(segments, front_end.bands, front_end.frames, generator=generator)
    heard[torch.arange(segments), 10 + 20 * labels] += 1
    counts, database = SimpleNamespace(counts=np.ones(segments, int)), SimpleNamespace(classes=range(3))
    return engine.Data(database, counts, heard.to(device), labels.to(device), torch.arange(segments, device=device))


def train_folds(model, device, kind="eager", precision="float32", folds=(0,)):
    """Losses (STEPS,) and weights of each of `folds` trained at once, on segments of its own."""
    data = corpus(model, 38, device)  # 10 steps of 4 segments an epoch, the last of 2
    front_end = asdict(features.FRONT_ENDS[train.RECIPES[model].front_end])
    settings = dict(
        model=model, seed=0, lr=2e-4, batch_size=4, normalization="fold", precision=precision, front_end=front_end
    )
    runs = [engine.Training(data, settings, np.roll(np.arange(38), 9 * fold), kind) for fold in folds]
    if kind == "compiled" and engine.is_stackable(model):
        engine.stack(runs)
    losses = [[] for _ in runs]
    for _ in range(STEPS // 10):
        for run in runs:
            run.begin_epoch()
        for run, told in zip(runs, losses):
            told += run.end_epoch()
    weights = [{name: value.cpu() for name, value in run.model.state_dict().items()} for run in runs]
    return [np.array(told) for told in losses], weights


def distance(ours, theirs):
    """Of all weights together, relative to their norm; running statistics included."""
    flat = [
        torch.cat([value.double().flatten() for value in one.values() if value.is_floating_point()])
        for one in (ours, theirs)
    ]
    return float((flat[0] - flat[1]).norm() / flat[1].norm())


@pytest.mark.parametrize("model", ["tft", "atfnn"])
@pytest.mark.parametrize(
    "device, kind, precision, loss_tolerance, weight_tolerance",
    [
        ("cpu", "eager", "bfloat16", 0.05, 0.01),
        pytest.param("cuda", "graph", "float32", 0.01, 0.005, marks=needs_gpu),
        pytest.param("cuda", "eager", "bfloat16", 0.05, 0.01, marks=needs_gpu),
        pytest.param("cuda", "graph", "bfloat16", 0.05, 0.01, marks=needs_gpu),
        pytest.param("cuda", "compiled", "float32", 0.01, 0.005, marks=needs_gpu),
        pytest.param("cuda", "compiled", "bfloat16", 0.05, 0.01, marks=needs_gpu),
    ],
)
def test_fast_engines_agree_with_eager_float32(model, device, kind, precision, loss_tolerance, weight_tolerance):
    (wanted,), (weights,) = train_folds(model, device)
    (losses,), (other,) = train_folds(model, device, kind, precision)
    assert wanted[-10:].mean() < 0.95 * wanted[:10].mean()  # it has learnt something
    assert abs(losses - wanted).max() <= loss_tolerance * wanted[:10].mean()
    assert distance(other, weights) <= weight_tolerance
    if precision != "float32":
        assert not np.array_equal(losses, wanted)  # it was another precision


@pytest.mark.parametrize("kind", ["eager", "graph", "compiled"])
@pytest.mark.parametrize("device", [GPU])
def test_folds_at_once_on_a_gpu_are_the_folds_one_at_a_time(device, kind, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    together, weights = train_folds("tft", device, kind, folds=range(4))
    for fold in range(4):
        (alone,), (other,) = train_folds("tft", device, kind, folds=[fold])
        assert abs(alone - together[fold]).max() <= 0.01 * alone[:10].mean()
        assert distance(weights[fold], other) <= 0.005
    assert not np.array_equal(together[0], together[1])  # folds differ


@pytest.mark.parametrize("model", ["tft", "atfnn"])
@pytest.mark.parametrize("device", [GPU])
def test_a_gpu_scores_as_a_cpu_does(model, device):
    """Convolutions and the BiLSTM run in TF32 there, whose factors have 11 bits: 0.05 %, some layers deep."""
    engine.choose_device(device)
    front_end = features.FRONT_ENDS[train.RECIPES[model].front_end]
    told = []
    for where in ("cpu", device):
        data = corpus(model, 38, where)
        network = engine.make_model(model, 3, 0, front_end, where)
        told.append(engine.score(network, data, engine.fit_normalization(data, "none", None), np.arange(38)))
    assert abs(told[0] - told[1]).max() <= 0.01


@pytest.mark.parametrize(
    "wish, device, steps, dropout, compiler, chosen",
    [
        ("auto", "cpu", 160_000, 0, True, "eager"),
        ("auto", "cuda", 160_000, 0, True, "compiled"),
        ("auto", "cuda", 160_000, 0, False, "graph"),  # torch.compile does not work
        ("auto", "cuda", 10_000, 0, True, "graph"),  # would not repay the time to compile
        ("auto", "cuda", 160_000, 0.1, True, "eager"),  # masks are not recorded
        ("graph", "cuda", 160_000, 0, True, "graph"),
        ("compiled", "cuda", 1, 0, True, "compiled"),
    ],
)
def test_the_engine_is_the_fastest_that_works(wish, device, steps, dropout, compiler, chosen, monkeypatch):
    monkeypatch.setattr(engine, "can_compile", lambda: compiler)
    assert engine.choose_engine(wish, device, steps, dropout) == chosen


@pytest.mark.parametrize("model", ["tft", "atfnn"])
def test_torch_compile_makes_one_network_for_all_folds(model, monkeypatch):
    """Of its parts all but the last, which writes kernels for the device and takes a minute."""
    compilations, backend = [], torch._dynamo.lookup_backend("aot_eager_decomp_partition")

    def counted(graph, inputs):
        compilations.append(graph)
        return backend(graph, inputs)

    compile_by = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **how: compile_by(*a, backend=counted, **how))
    monkeypatch.setattr(models.TimeEncoder, "forward", models.TimeEncoder.forward)  # is changed, and restored
    network = engine.compiled_network.__wrapped__()
    front_end = features.FRONT_ENDS[train.RECIPES[model].front_end]
    for fold in range(2):
        ours, theirs = (engine.make_model(model, 3, fold, front_end, "cpu") for _ in range(2))
        x = torch.randn(4, 1, front_end.bands, front_end.frames)
        for one, y in ((ours, network(ours, x)), (theirs, theirs(x))):
            y.square().sum().backward()
        gradients = [
            {name: p.grad for name, p in one.named_parameters() if p.grad is not None} for one in (ours, theirs)
        ]
        assert gradients[0].keys() == gradients[1].keys() and distance(*gradients) <= 1e-4
        assert distance(ours.state_dict(), theirs.state_dict()) <= 1e-6
        assert len(compilations) == {"tft": 1, "atfnn": 2}[model]  # ATFNN's before and after the BiLSTM


@pytest.mark.parametrize("wish, device", [("graph", "cpu"), ("compiled", "cpu"), ("compiled", "cuda")])
def test_an_engine_that_cannot_work_is_refused(wish, device, monkeypatch):
    monkeypatch.setattr(engine, "can_compile", lambda: False)
    with pytest.raises(protocols.UsageError, match=f"--engine {wish}: .*; say --engine"):
        engine.choose_engine(wish, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_gpu_nothing_compiles():
    assert engine.can_compile() is False
