"""The fast forms of modules against the plain modules, all on a CPU."""

import copy
import platform
import resource
from functools import partial

import numpy as np
import pytest
import torch
from helpers import shaken
from torch.func import functional_call
from torch.nn.functional import cross_entropy, max_pool2d

import features
import models
from common import methods
from comparisons import cnn_gru_seqcap
from fast import layers, memory, modules
from training import trainer

NETWORKS = [
    *((name, {}) for name in models.MODELS),
    ("atfnn", dict(gate="softmax", f_encoder_heads=4)),
    ("atfnn", dict(gate="none", f_encoder_heads=1, t_attention_input="encoded")),
]
OF_ATFNN = [(name, options) for name, options in NETWORKS if models.MODELS[name][0] is models.ATFNN]
SIZES = {"cnn-lstm": (80, 20), "cnn-gru-seqcap": (48, 80), "fcn-attention": (67, 99)}  # of networks in comparisons/


def sizes_of(name):
    """Small n_mels and frames of a network, which differ."""
    return SIZES.get(name) or ((16, 32) if models.MODELS[name][0] is models.TFT else (20, 16))


def build(name, **options):
    """Small network of 4 classes."""
    return (methods.find(name).build or partial(models.build, name))(4, *sizes_of(name), **options)


CASES = [  # where a form changes a module
    (form, name, options)
    for name, options in (*NETWORKS, *((name, {}) for name in SIZES))
    for classes in [{type(module) for module in build(name, **options).modules()}]
    for form, fast_classes in modules.FORMS.items()
    if fast_classes.keys() & classes
]


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def network(name, batch=5, **options):
    """A shaken network and an input (batch, 1, n_mels, frames)."""
    return shaken(build(name, **options)), torch.randn(batch, 1, *sizes_of(name)).double()


def agree(ours, reference, tolerance=1e-9):
    """Equal up to a part of the largest entry."""
    atol = tolerance * max(float(reference.detach().abs().max()), 1e-3)
    torch.testing.assert_close(ours.to(reference.dtype), reference, rtol=0, atol=atol)


def forward(module, x):
    return module(x)


def gradients(function, module, x, by_input=True):
    """The output y of function(module, x) and the gradients of the sum of y^2 by the weights and x; 0 where none."""
    x = x.clone().requires_grad_(by_input)
    output = function(module, x)
    inputs = dict(module.named_parameters(), **({"x": x} if by_input else {}))
    grads = torch.autograd.grad(output.square().sum(), list(inputs.values()), allow_unused=True)
    grads = {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(inputs.items(), grads)}
    return grads | {"output": output.detach()}


@pytest.mark.parametrize("form, name, options", CASES)
def test_a_fast_form_equals_the_plain_network(form, name, options):
    plain, x = network(name, **options)  # 5 segments of 16 frames: more rows than one block of the attention
    fast, results = modules.accelerate(copy.deepcopy(plain), form), []
    assert modules.FORMS[form].keys().isdisjoint(type(module) for module in fast.modules())
    for model in (plain, fast):
        result = {}
        for step, segments in enumerate((x, 5 + 2 * x)):  # two, so that running statistics move on from where they are
            found = gradients(forward, model, segments, by_input=False)
            result |= {(step, key): value for key, value in found.items()}
        result |= gradients(forward, model, x)
        with torch.no_grad():
            if trainer.takes_maps(model):
                result |= model.eval()(x, return_maps=True)[1]
            result["scored"] = model.eval()(x)
        results.append(result | dict(model.named_buffers()))
    assert results[0].keys() == results[1].keys()
    for key, value in results[0].items():
        agree(results[1][key], value)


@pytest.mark.parametrize("name, options", OF_ATFNN)
def test_stacked_networks_under_vmap_are_the_networks_alone(name, options):
    alone = [network(name, **options)[0] for _ in range(3)]
    x = torch.stack([network(name)[1] for _ in range(3)])  # (networks, b, 1, n_mels, frames)
    model = modules.accelerate(copy.deepcopy(alone[0]).to("meta"), "stacked")
    weights = {
        key: torch.stack([part.state_dict()[key] for part in alone]).requires_grad_() for key in model.state_dict()
    }
    logits = torch.vmap(lambda weights, x: functional_call(model, weights, (x,)))(weights, x)
    logits.square().sum().backward()
    for number, part in enumerate(alone):
        expected = part(x[number])
        expected.square().sum().backward()
        agree(logits[number], expected)
        for key, parameter in part.named_parameters():
            agree(weights[key].grad[number], parameter.grad)


def test_a_stacked_lstm_has_dropout_between_its_layers():
    plain, x = models.TimeEncoder(6, dropout=1.0), torch.randn(2, 5, 6)  # all is dropped, so no mask is random
    fast = modules.accelerate(copy.deepcopy(plain), "stacked")
    agree(fast(x), plain(x), 1e-5)
    assert not torch.allclose(fast(x), fast.eval()(x))


@pytest.mark.parametrize("form", ["cpu", "cuda", "stacked"])
def test_attention_norms_and_statistics_stay_in_float32_under_bfloat16(form):
    """What follows them in bfloat16 is set to 0, so that the output has the bits of float32."""

    def outputs(module, x):
        y = module(x, x, x)[0] if isinstance(module, models.TransformerEncoder) else module(x)
        return module.layers[1].running_mean.clone() if isinstance(module, models.ConvEncoder) else y

    transformer, frequency = models.TransformerEncoder(20, 2, 32), models.FrequencyEncoder()
    for layer in (transformer.mlp[2], frequency.convolutions[2]):
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    convolutions = models.ConvEncoder((5, 1), (2, 1), (2, 0))
    inputs = [(transformer, (3, 12, 20)), (frequency, (2, 1, 20, 16)), (models.TimeEncoder(24), (2, 9, 24)),
              (convolutions, (2, 1, 16, 32))]  # fmt: skip
    tested = [(module, torch.randn(shape)) for module, shape in inputs if type(module) in modules.FORMS[form]]
    assert len(tested) == {"cpu": 3, "cuda": 4, "stacked": 2}[form]
    for plain, x in tested:
        fast = modules.accelerate(copy.deepcopy(plain), form)
        expected = outputs(copy.deepcopy(fast), x)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            result, rounded = outputs(fast, x), outputs(plain, x)
        assert result.dtype == torch.float32 and torch.equal(result, expected)
        assert not torch.equal(rounded, expected)


INPUTS = {  # (b, 1, f, t)
    "loud": lambda: 20 * torch.randn(2, 1, 30, 40),
    "extreme": lambda: 50 * torch.randn(2, 1, 30, 40).sign(),
    "constant": lambda: 3 * torch.randn(2, 1, 1, 40).repeat(1, 1, 30, 1),
}


@pytest.mark.parametrize("form", ["cpu", "stacked"])
@pytest.mark.parametrize("kind", INPUTS)
def test_attention_in_scalars_is_as_exact_as_pytorchs(kind, form):
    """Scores reach some 1e4 here, and exp turns the rounding of a score into a relative error.

    In float32 that error is large on both sides; ours must be of the size of PyTorch's own, or of rounding.
    """

    def by_vectors(layer, x):
        tokens = layer.lift(x[:, 0].transpose(1, 2)[..., None])  # (b, t, f, c)
        rows = tokens.flatten(0, 1)
        return tokens + layer.attention(rows, rows, rows, need_weights=False)[0].view_as(tokens)

    def in_scalars(layer, x):
        return layer.lift_and_attend(x[:, 0].transpose(1, 2).contiguous())

    layer, x = modules.accelerate(shaken(models.FrequencyEncoder()), form), INPUTS[kind]().double()
    exact, ours = gradients(by_vectors, layer, x), gradients(in_scalars, layer, x)
    single = [gradients(function, layer.float(), x.float()) for function in (in_scalars, by_vectors)]
    for key in exact:
        agree(ours[key], exact[key])
        error, pytorchs = ((result[key] - exact[key]).abs().max() for result in single)
        assert error <= 5 * pytorchs + 1e-5 * exact[key].abs().max(), key


@pytest.mark.parametrize(
    "attend",
    [
        lambda *inputs: modules.ScalarAttention.apply(*inputs, 2),  # of 3 rows 2 at a time
        lambda *inputs: modules.scalar_attention(*(part[None] for part in inputs))[0][0],
    ],
)
def test_gradients_of_scalar_attention_against_differences(attend):
    inputs = [torch.randn(*shape).double().requires_grad_() for shape in ((3, 6), (2,), (2,))]
    assert torch.autograd.gradcheck(attend, inputs)
    (first,) = torch.autograd.grad(attend(*inputs).sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad|no autograd formula"):  # not a wrong second one
        first.sum().backward()


@pytest.mark.parametrize("size", [None, 4])  # rows at a time: all, or blocks with a shorter last block
@pytest.mark.parametrize("precision, tolerance", [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_narrow_layer_norm_is_layer_norm(precision, tolerance, size):
    def narrow(norm, x):
        return modules.NarrowLayerNorm.apply(x, norm.weight, norm.bias, norm.eps, size)

    norm = shaken(torch.nn.LayerNorm(6))
    x = 3 + 5 * torch.randn(3, 5, 7, 6).double()
    x[..., 0, :] = 1  # no variance: epsilon alone remains
    exact = gradients(forward, norm, x)
    ours = gradients(narrow, norm.to(precision), x.to(precision))
    for key in exact:
        agree(ours[key], exact[key], tolerance)


# ------------------------------------------------------------------------------ networks of comparisons/


@pytest.mark.parametrize("size, beta", [(5, 0.75), (3, 0.75), (5, 0.5)])
@pytest.mark.parametrize("shape", [(2, 7, 3, 5), (2, 9, 40, 21), (1, 2, 4, 4)])  # the second has two blocks of rows
def test_local_response_normalisation_is_that_of_torch(shape, size, beta):
    norm = torch.nn.LocalResponseNorm(size, alpha=1e-4, beta=beta, k=2.0)
    x = 300 * torch.randn(shape).double()  # so large that neighbours matter
    assert (norm(x) / x).std() > 0.05
    expected = gradients(forward, norm, x)
    for key, value in gradients(forward, modules.accelerate(norm, "cpu"), x).items():
        agree(value, expected[key])


def test_the_larger_of_two_is_a_pool_and_a_relu():
    x = torch.randint(-2, 3, (2, 3, 8, 5)).double().requires_grad_()  # many are equal
    upstream = torch.randn(2, 3, 4, 5).double()
    outputs = layers.LargerOrZero.apply(x[:, :, ::2], x[:, :, 1::2]), max_pool2d(x, (2, 1)).relu()
    agree(*outputs)
    agree(*(torch.autograd.grad(y, x, upstream)[0] for y in outputs))


@pytest.mark.parametrize("name", SIZES)
def test_bfloat16_is_near_float32(name):
    plain, x = build(name), torch.randn(5, 1, *sizes_of(name))
    fast = modules.accelerate(copy.deepcopy(plain), "cpu")
    with torch.autocast("cpu", torch.bfloat16):
        logits = fast(x)
    expected = plain(x)
    assert logits.dtype == torch.float32 and not torch.equal(logits, expected)
    agree(logits, expected, 0.01)
    for y in (logits, expected):
        cross_entropy(y, torch.arange(5) % 4).backward()
    for (key, part), other in zip(plain.named_parameters(), fast.parameters()):
        assert (other.grad - part.grad).norm() < 0.35 * part.grad.norm(), key  # other maxima of the pools


def test_a_run_has_the_form_of_its_comparison_network_but_not_of_a_users_file():
    settings = dict(seed=0, front_end=features.FRONT_ENDS["spectrum-20"].as_settings())
    make = partial(trainer.make_model, classes=4, device="cpu", form="cpu", build=cnn_gru_seqcap.build)
    assert type(make(settings)) is layers.FastSeqCap
    assert type(make(settings | dict(method_sha256=""))) is cnn_gru_seqcap.SeqCap


# -------------------------------------------------------------------------------------------- memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is a setting of glibc")
def test_freed_memory_is_used_again():
    def page_faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        np.ones(1 << 23)  # 64 MB, freed at once
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    memory.keep_freed_memory()
    page_faults()
    assert page_faults() < 8  # at least 32 by default, in pages of 2 MB
