"""The engines and precisions agree after 50 steps. What needs a GPU is skipped without one.

Tolerances. The engines of float32 do the same sums, on a GPU in an order that may change; Adam divides each gradient by
its own size, so a rounding difference in a weight that hardly matters moves it by up to the learning rate: losses are
held to 1 % of the first, weights to 0.5 % of their norm. bfloat16 rounds a product's factors to 8 bits, 0.4 %; on a CPU
that became 0.3 % (TFT) and 3.2 % (ATFNN) of the losses and 0.07 % and 0.35 % of the weights: held to 5 % and 1 %.
"""

import copy
import gc
import weakref
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import engine
import features
import models
import protocols
import recipes
import stack
import train

pytestmark = pytest.mark.usefixtures("quiet_machine")
STEPS = 50
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = pytest.param("cuda", marks=needs_gpu)


def corpus(front_end, segments, device):
    """Segments of three classes that differ in a band of their own; the last step of an epoch is a shorter one."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(segments) % 3
    heard = torch.randn(segments, front_end.bands, front_end.frames, generator=generator)
    heard[torch.arange(segments), front_end.bands // 8 + front_end.bands // 4 * labels] += 1
    counts, database = SimpleNamespace(counts=np.ones(segments, int)), SimpleNamespace(classes=range(3))
    return engine.Data(database, counts, heard.to(device), labels.to(device), torch.arange(segments, device=device))


def front_end_of(model):
    return features.FRONT_ENDS[recipes.RECIPES[model].front_end]


def trainings(model, device, folds, kind="eager", front_end=None, **settings):
    """A training on each of `folds`, lists of utterances."""
    front_end = front_end or front_end_of(model)
    usual = dict(model=model, seed=0, lr=2e-4, batch_size=4, normalization="fold", precision="float32")
    settings = usual | dict(front_end=asdict(front_end)) | settings
    return [engine.Training(corpus(front_end, 38, device), settings, fold, kind) for fold in folds]


def train_epochs(runs, epochs):
    """Losses of each step and weights of each of `runs` trained at once."""
    losses = [[] for _ in runs]
    for _ in range(epochs):
        for run in runs:
            run.begin_epoch()
        engine.take_turns(runs)  # so that all of them are under way before the first one is waited for
        for run, told in zip(runs, losses):
            told += run.end_epoch()
    weights = [{name: value.cpu() for name, value in run.model.state_dict().items()} for run in runs]
    return [np.array(told) for told in losses], weights


def train_folds(model, device, kind="eager", precision="float32", folds=(0,)):
    """10 steps of 4 segments an epoch, the last of 2."""
    fits = [np.roll(np.arange(38), 9 * fold) for fold in folds]
    runs = trainings(model, device, fits, kind, precision=precision)
    engine.train_as_one(runs)
    told = train_epochs(runs, STEPS // 10)
    for run in runs:
        run.leave()
    return told


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


@pytest.mark.parametrize("model", ["tft", "atfnn"])
def test_scores_are_in_float32_also_after_training_in_bfloat16(model):
    (run,) = trainings(model, "cpu", [np.arange(20)], precision="bfloat16")
    run.step(4)
    scores, x = run.score(np.arange(20, 38)), engine.gather(run.data, run.normalization, torch.arange(20, 38))
    with torch.no_grad():
        run.model.eval()
        np.testing.assert_allclose(scores, run.model(x).softmax(1), atol=1e-6)
        with engine.in_precision(x.device, "bfloat16"):
            assert np.abs(scores - run.model(x).float().softmax(1).numpy()).max() > 1e-5  # it would show


@pytest.mark.parametrize("model, parts", [("tft", ["patches"]), ("atfnn", ["scalar_attention", "layer_norm"])])
def test_attention_and_norms_stay_in_float32_under_bfloat16(model, parts, monkeypatch):
    around, within = [], []

    def spied(function, told):
        def call(*arguments, **named):
            told.append(torch.is_autocast_enabled("cpu"))
            return function(*arguments, **named)

        return call

    for part in parts:
        monkeypatch.setattr(models, part, spied(getattr(models, part), within))
    for network, told in ((models.MODELS[model][0], around), (torch.nn.MultiheadAttention, within)):
        monkeypatch.setattr(network, "forward", spied(network.forward, told))
    (run,) = trainings(model, "cpu", [np.arange(20)], precision="bfloat16")
    run.step(4)
    assert around == [True] and within == [False] * {"tft": 6, "atfnn": 3}[model]


@pytest.mark.parametrize(
    "model, kind", [("tft", "eager"), ("tft", "graph"), ("tft", "compiled"), ("atfnn", "graph"), ("atfnn", "compiled")]
)
@pytest.mark.parametrize("device", [GPU])
def test_folds_at_once_on_a_gpu_are_the_folds_one_at_a_time(device, model, kind, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(engine, "TURN", 3)  # of an epoch's 10 steps
    together, weights = train_folds(model, device, kind, folds=range(4))
    for fold in range(4):
        (alone,), (other,) = train_folds(model, device, kind, folds=[fold])
        assert abs(alone - together[fold]).max() <= 0.01 * alone[:10].mean()
        assert distance(weights[fold], other) <= 0.005
    assert not np.array_equal(together[0], together[1])  # folds differ


@pytest.mark.parametrize("model", ["tft", "atfnn"])
@pytest.mark.parametrize("device", [GPU])
def test_a_gpu_scores_as_a_cpu_does(model, device):
    """Convolutions and the BiLSTM run in TF32 there, whose factors have 11 bits: 0.05 %, some layers deep."""
    engine.choose_device(device)
    front_end, told = front_end_of(model), []
    for where in ("cpu", device):
        data = corpus(front_end, 38, where)
        network = engine.make_model(model, 3, 0, front_end, where)
        told.append(engine.score(network, data, engine.fit_normalization(data, "none", None), np.arange(38)))
    assert abs(told[0] - told[1]).max() <= 0.01


@pytest.mark.parametrize(
    "wish, device, worth_compiling, dropout, compiler, chosen",
    [
        ("auto", "cpu", True, 0, True, "eager"),
        ("auto", "cuda", True, 0, True, "compiled"),
        ("auto", "cuda", True, 0, False, "graph"),  # torch.compile does not work
        ("auto", "cuda", False, 0, True, "graph"),
        ("auto", "cuda", True, 0.1, True, "eager"),  # masks are not recorded
        ("graph", "cuda", True, 0, True, "graph"),
        ("compiled", "cuda", False, 0, True, "compiled"),
    ],
)
def test_the_engine_is_what_works_and_is_worth_it(
    wish, device, worth_compiling, dropout, compiler, chosen, monkeypatch
):
    monkeypatch.setattr(engine, "can_compile", lambda: compiler)
    assert engine.choose_engine(wish, device, worth_compiling, dropout) == chosen


@pytest.mark.parametrize(
    "model, precision, folds, ms",  # that an H200 spares of a step of a fold, graph against compiled
    [
        ("tft", "float32", 1, 3.54 - 2.17),
        ("tft", "bfloat16", 4, 1.90 - 0.98),
        ("atfnn", "float32", 4, 12.46 - 17.06),
        ("afnn", "float32", 10, 12.46 - 9.28),
        ("atfnn", "bfloat16", 1, 11.94 - 10.50),
        ("atfnn", "bfloat16", 4, 11.87 - 5.89),
        ("tfnn", "bfloat16", 20, 11.87 - 3.74),
    ],
)
def test_compiling_is_chosen_where_it_is_repaid(model, precision, folds, ms):
    steps = engine.repaid_from(model, precision, folds)
    if model == "tft" or ms > 2:
        assert 25_000 < steps * ms < 90_000  # half a minute and more
    else:
        assert steps == float("inf")


def counted(compilations):
    """A backend of torch.compile: its parts but the last, which writes kernels for the device and takes a minute."""
    backend = torch._dynamo.lookup_backend("aot_eager_decomp_partition")

    def compile_and_count(graph, inputs):
        compilations.append(graph)
        return backend(graph, inputs)

    return compile_and_count


def test_torch_compile_makes_one_network_for_all_folds(monkeypatch):
    compilations, compile_by = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **how: compile_by(*a, backend=counted(compilations), **how))
    network = engine.compiled_network.__wrapped__()
    front_end = front_end_of("tft")
    for fold in range(2):
        ours, theirs = (engine.make_model("tft", 3, fold, front_end, "cpu") for _ in range(2))
        x = torch.randn(4, 1, front_end.bands, front_end.frames)
        for one, y in ((ours, network(ours, x)), (theirs, theirs(x))):
            y.square().sum().backward()
        gradients = [
            {name: p.grad for name, p in one.named_parameters() if p.grad is not None} for one in (ours, theirs)
        ]
        assert gradients[0].keys() == gradients[1].keys() and distance(*gradients) <= 1e-4
        assert distance(ours.state_dict(), theirs.state_dict()) <= 1e-6
        assert len(compilations) == 1


@pytest.mark.parametrize("wish, device", [("graph", "cpu"), ("compiled", "cpu"), ("compiled", "cuda")])
def test_an_engine_that_cannot_work_is_refused(wish, device, monkeypatch):
    monkeypatch.setattr(engine, "can_compile", lambda: False)
    with pytest.raises(protocols.UsageError, match=f"--engine {wish}: .*; say --engine"):
        engine.choose_engine(wish, device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")
def test_without_a_gpu_nothing_compiles():
    assert engine.can_compile() is False


# ------------------------------------------------------------------------------------------------ stack

SMALL = replace(features.FRONT_ENDS["atfnn"], bands=20, frames=16)
FOLDS = [np.arange(38), np.arange(5, 36), np.arange(12, 32)]  # 9, 7 and 5 whole batches; the last without a shorter one


def as_it_is(network):
    return network


def stacked(model="atfnn", build=as_it_is, **settings):
    runs = trainings(model, "cpu", FOLDS, front_end=SMALL, **settings)
    return runs, stack.Stack(runs, build)


def alone(fold, model="atfnn", epochs=3, **settings):
    (losses,), (weights,) = train_epochs(
        trainings(model, "cpu", FOLDS[fold : fold + 1], front_end=SMALL, **settings), epochs
    )
    return losses, weights


def agree(losses, weights, folds=range(3), **how):
    for fold in folds:
        losses_alone, weights_alone = alone(fold, **how)
        assert losses[fold].shape == losses_alone.shape and abs(losses[fold] - losses_alone).max() <= 1e-4
        assert distance(weights[fold], weights_alone) <= 1e-4


@pytest.mark.parametrize(
    "model, settings",
    [
        ("atfnn", {}),
        ("afnn", {}),
        ("atnn", {}),
        ("tfnn", {}),
        ("atfnn", dict(normalization="segment")),
        ("atfnn", dict(gate="softmax", f_encoder_heads=4)),
        ("atfnn", dict(t_attention_input="encoded", double_softmax=True)),
    ],
    ids=str,
)
def test_stacked_folds_are_the_folds_one_at_a_time(model, settings):
    runs, _ = stacked(model, **settings)
    losses, weights = train_epochs(runs, 3)
    assert [len(told) for told in losses] == [30, 24, 15]
    agree(losses, weights, model=model, **settings)
    assert distance(weights[0], weights[1]) > 1e-3  # folds differ


def test_the_state_of_a_stacked_fold_is_as_large_as_that_of_a_lone_one():
    (lone,), (runs, _) = trainings("atfnn", "cpu", FOLDS[:1], front_end=SMALL), stacked()
    for run in (lone, *runs):
        run.step(4)
    assert len(train.as_bytes(runs[0].state())) <= 1.01 * len(train.as_bytes(lone.state()))


def test_a_stack_whose_folds_have_left_is_free():
    runs, made = stacked()
    gone = [weakref.ref(one) for one in (made, *runs)]
    gc.disable()
    try:
        for run in runs:
            run.leave()
        del run, runs, made
        assert not any(one() for one in gone)
    finally:
        gc.enable()


def test_a_fold_that_ends_leaves_the_others_alone():
    runs, _ = stacked()
    train_epochs(runs, 1)
    ended = {name: value.clone() for name, value in runs[1].model.state_dict().items()}
    runs[1].leave()
    train_epochs([runs[0], runs[2]], 2)
    assert distance(runs[1].model.state_dict(), ended) == 0
    for fold in (0, 2):
        assert distance(runs[fold].model.state_dict(), alone(fold)[1]) <= 1e-4


def test_a_fold_whose_weights_are_no_numbers_leaves_the_others_alone():
    runs, _ = stacked()
    runs[1].model.classifier.weight.data.fill_(float("nan"))
    losses, weights = train_epochs(runs, 3)
    assert np.isnan(losses[1]).all()
    agree(losses, weights, folds=(0, 2))


def test_a_stacked_fold_goes_on_from_a_saved_state_at_an_epoch_of_its_own():
    (lone,) = trainings("atfnn", "cpu", FOLDS[:1], front_end=SMALL)
    train_epochs([lone], 2)
    runs = trainings("atfnn", "cpu", FOLDS, front_end=SMALL)
    runs[0].restore(copy.deepcopy(lone.state()))
    stack.Stack(runs, as_it_is)
    _, weights = train_epochs(runs, 1)
    assert runs[0].state()["epoch"] == 3
    assert distance(weights[0], alone(0)[1]) <= 1e-4
    assert distance(weights[1], alone(1, epochs=1)[1]) <= 1e-4


def test_one_compilation_serves_all_stacks_of_a_network_and_changes_nothing(monkeypatch):
    compilations, compile_by = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **how: compile_by(*a, backend=counted(compilations), **how))
    for _ in range(2):
        runs, _ = stacked(build=stack.compile_network)
        losses, weights = train_epochs(runs, 1)
        agree(losses, weights, epochs=1)
    assert len(compilations) == 1


def test_steps_that_are_taken_back_leave_nothing_behind():
    for steps_before in (0, 2):
        (run,) = trainings("atfnn", "cpu", FOLDS[:1], front_end=SMALL)
        for _ in range(steps_before):
            run.step(4)

        def state():
            moments = [value.clone() for one in run.optimizer.state.values() for value in one.values()]
            return [*run.copy_weights().values(), run.losses.clone(), *moments]

        before, bias = state(), run.copy_weights()["classifier.bias"]
        with engine.taken_back([run]):
            run.number.zero_()
            run.step(4)
            assert run.losses[0] and not torch.equal(run.copy_weights()["classifier.bias"], bias)
        after = state()
        assert all(torch.equal(one, other) for one, other in zip(before, after))
        assert all(not value.any() for value in after[len(before) :])  # moments that began inside


class LastStates(torch.nn.Module):
    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def forward(self, x):
        return stack.last_states(self.lstm, x)


def test_the_lstm_of_folds_is_torchs_lstm():
    b, t, inputs, size = 3, 5, 7, 4
    modules = [torch.nn.LSTM(inputs, size, 3, batch_first=True, bidirectional=True).double() for _ in range(2)]
    x = torch.randn(2, b, t, inputs).double()
    weights, _ = torch.func.stack_module_state([LastStates(module) for module in modules])
    ours, one = x.clone().requires_grad_(), LastStates(modules[0])
    states = torch.vmap(lambda w, x: torch.func.functional_call(one, w, (x,)))(weights, ours)
    upstream = torch.randn_like(states)
    states.backward(upstream)
    for fold, module in enumerate(modules):
        theirs = x[fold].clone().requires_grad_()
        _, (h, _) = module(theirs)
        h = torch.cat([h[-2], h[-1]], 1)
        h.backward(upstream[fold])
        torch.testing.assert_close(states[fold], h)
        torch.testing.assert_close(ours.grad[fold], theirs.grad)
        for name, p in module.named_parameters():
            torch.testing.assert_close(weights[f"lstm.{name}"].grad[fold], p.grad)
