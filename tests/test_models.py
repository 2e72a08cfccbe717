"""The plain networks against slow references written from the papers' equations, and properties of their parts.

The references use the models' own weights, but sizes, strides, heads and axes as the papers state them. They run in
float64, where both sides round at 1e-16, on inputs with f != d, so that a transposed axis cannot pass.
"""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers import shaken

import models

# Parts of each network: T-, F-, TF-Trans (TFT Table 5), F- and T-Attention, F- and T-Encoder (ATFNN Table III)
TFT_PARTS = {"tft": "T F TF", "tft-t+f": "T F", "tft-t+tf": "T TF", "tft-f+tf": "F TF"}
ATFNN_PARTS = {"atfnn": "FA FE TA TE", "afnn": "FA FE", "atnn": "TA TE", "tfnn": "FE TE"}
PARTS = {name: set(parts.split()) for name, parts in (TFT_PARTS | ATFNN_PARTS).items()}
MODULES = {  # part -> the modules that it alone brings
    "T": {"conv_time", "time_encoder", "map_time"},
    "F": {"conv_frequency", "frequency_encoder", "map_frequency"},
    "TF": {"conv_joint", "joint_encoder"},
    "FA": {"f_attention"}, "FE": {"f_encoder"}, "TA": {"t_attention"}, "TE": {"t_encoder"},
}  # fmt: skip
all_networks = pytest.mark.parametrize("name", PARTS)


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def network(name, **options):
    """A shaken network and an input (2, 1, f, d) with f != d, the smallest that all parts accept."""
    n_mels, frames = (16, 32) if name in TFT_PARTS else (20, 16)
    model = shaken(models.build(name, 4, n_mels, frames, **options)).eval()
    return model, torch.randn(2, 1, n_mels, frames).double()


def agree(ours, reference, tolerance=1e-9):
    """Equal up to a part of the largest entry."""
    atol = tolerance * max(float(reference.detach().abs().max()), 1e-6)
    torch.testing.assert_close(ours, reference, rtol=0, atol=atol)


# ----------------------------------------------------------------------------------- slow references


def linear(x, layer):
    return torch.einsum("...i,oi->...o", x, layer.weight) + layer.bias


def layer_norm(x, layer):
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)


def attention(q, k, v, layer, heads):
    """Scaled dot-product attention of (n, tokens, e): the output and the weights (n, heads, tokens, tokens)."""
    projected = [
        (torch.einsum("nti,oi->nto", x, weight) + bias).unflatten(-1, (heads, -1))
        for x, weight, bias in zip((q, k, v), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3))
    ]
    scores = torch.einsum("nqhc,nkhc->nhqk", *projected[:2]) / math.sqrt(projected[0].shape[-1])
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return linear(torch.einsum("nhqk,nkhc->nqhc", weights, projected[2]).flatten(2), layer.out_proj), weights


def encoder(q, k, v, layer, heads):
    attended, weights = attention(q, k, v, layer.attention, heads)
    x = layer_norm(attended + v, layer.norm_attention)
    return layer_norm(linear(linear(x, layer.mlp[0]).clamp(min=0), layer.mlp[2]) + x, layer.norm_mlp), weights


def conv_encoder(x, layer, stride, padding):
    for conv, norm in ((layer.layers[0], layer.layers[1]), (layer.layers[3], layer.layers[4])):
        x = F.conv2d(x, conv.weight, conv.bias, stride, padding)
        mean, variance = norm.running_mean, norm.running_var
        if norm.training:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        scale = norm.weight / (variance + 1e-5).sqrt()
        x = (scale[:, None, None] * (x - mean[:, None, None]) + norm.bias[:, None, None]).clamp(min=0)
    return x.mean(1)


def tft(model, x, parts):
    """TFT eqs. 1-11 and our reading of Table 5; x (b, 1, f, d), r = f/4 rows, c = d/4 columns."""
    inputs, maps = {}, {}
    if "T" in parts:
        frames = torch.einsum("brd->bdr", conv_encoder(x, model.conv_time, (2, 1), (2, 0)))
        frames, maps["T-Trans"] = encoder(frames, frames, frames, model.time_encoder, heads=2)
        inputs["q"] = torch.einsum("bdr,cd->brc", frames, model.map_time.weight) + model.map_time.bias
    if "F" in parts:
        bands = conv_encoder(x, model.conv_frequency, (1, 2), (0, 2))  # (b, f, c)
        bands, maps["F-Trans"] = encoder(bands, bands, bands, model.frequency_encoder, heads=2)
        mapped = torch.einsum("bfc,rf->brc", bands, model.map_frequency.weight)
        inputs["k"] = mapped + model.map_frequency.bias[:, None]
    if "TF" in parts:
        v = conv_encoder(x, model.conv_joint, (2, 2), (2, 2))
        y, maps["TF-Trans"] = encoder(inputs.get("q", v), inputs.get("k", v), v, model.joint_encoder, heads=4)
        inputs = {"y": y}
    pooled = []
    for y in inputs.values():  # (b, r, c) over the rows
        mean = sum(y[:, row] for row in range(y.shape[1])) / y.shape[1]
        pooled += [mean, (((y - mean[:, None]) ** 2).sum(1) / (y.shape[1] - 1) + 1e-5).sqrt()]
    return linear(torch.cat(pooled, 1), model.classifier), maps


def group_attention(x, layer, bands, frames, activation="sigmoid"):
    """Weights (b, 1, f, t) of groups of so many bands and frames, group by group."""
    rows, columns = x.shape[2] // bands, x.shape[3] // frames
    raw = x.new_zeros(len(x), 8, rows, columns)
    for i in range(rows):
        for j in range(columns):
            group = x[:, :, i * bands : (i + 1) * bands, j * frames : (j + 1) * frames]
            raw[:, :, i, j] = torch.einsum("bkij,ckij->bc", group, layer.conv.weight) + layer.conv.bias
    if activation == "sigmoid":
        raw = 1 / (1 + (-raw).exp())
    elif activation == "softmax":
        raw = raw.exp() / raw.exp().sum(2 if bands > 1 else 3, keepdim=True)
    return torch.kron(raw.mean(1, keepdim=True), x.new_ones(bands, frames))


def frequency_encoder(x, layer, heads=2):
    """(b, 1, f, t) -> (b, t, f, c), frame by frame, with Conv1d along the bands."""
    first, _, second = layer.convolutions
    encoded = []
    for frame in x[:, 0].unbind(-1):  # (b, f)
        tokens = linear(frame[..., None], layer.lift)  # (b, f, c)
        tokens = layer_norm(tokens + attention(tokens, tokens, tokens, layer.attention, heads)[0], layer.norm_attention)
        y = F.conv1d(tokens.transpose(1, 2), first.weight.squeeze(2), first.bias, padding=2).clamp(min=0)
        y = F.conv1d(y, second.weight.squeeze(2), second.bias, padding=2)
        encoded.append(layer_norm(tokens + y.transpose(1, 2), layer.norm_convolution))
    return torch.stack(encoded, 1)


def atfnn(model, x, parts, gate="sigmoid", t_attention_input="log-mel", f_encoder_heads=2):
    """ATFNN eqs. 1 and 2 (or 4) and Table III."""
    y, maps = x, {}
    if "FA" in parts:
        maps["F-Attention"] = group_attention(x, model.f_attention, 5, 1, gate)
        y = x + maps["F-Attention"] * x
    y = frequency_encoder(y, model.f_encoder, f_encoder_heads) if "FE" in parts else torch.einsum("bcft->btfc", y)
    if "TA" in parts:
        source = x if t_attention_input == "log-mel" else torch.einsum("btfc->bcft", y)
        maps["T-Attention"] = group_attention(source, model.t_attention, 1, 8, gate)
        y = y + torch.einsum("bcft->btfc", maps["T-Attention"]) * y
    frames = torch.stack([frame.reshape(len(x), -1) for frame in y.unbind(1)], 1)  # (b, t, f * c)
    if "TE" in parts:  # the last state of each direction; the backward direction ends at the first frame
        states = model.t_encoder.lstm(frames)[0]
        h = torch.cat([states[:, -1, :128], states[:, 0, 128:]], 1)
    else:
        h = sum(frames.unbind(1)) / frames.shape[1]
    return linear(h, model.classifier), maps


# ------------------------------------------------------------------------------------ whole networks


@pytest.mark.parametrize("name, count", [("tft", 239_464), ("atfnn", 1_583_092)])
def test_parameter_counts_for_four_classes(name, count):
    assert sum(parameter.numel() for parameter in models.build(name, 4).parameters()) == count


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {}) for name in PARTS),
        ("atfnn", dict(gate="softmax", t_attention_input="encoded", f_encoder_heads=4)),
        ("atnn", dict(gate="none")),
    ],
)
def test_logits_gradients_and_maps_follow_the_equations(name, options, training):
    model, x = network(name, **options)
    model.train(training)
    reference, upstream = (tft if name in TFT_PARTS else atfnn), torch.randn(len(x), 4).double()
    agree(model(x), model(x, return_maps=True)[0])
    results = []
    for logits, maps in (model(x, return_maps=True), reference(model, x, PARTS[name], **options)):
        results.append((logits, maps, torch.autograd.grad(logits, list(model.parameters()), upstream)))
    (ours, our_maps, our_gradients), (logits, maps, gradients) = results
    agree(ours, logits)
    assert our_maps.keys() == maps.keys()
    for key in maps:
        agree(our_maps[key], maps[key])
    cancelled = r"_attention\.conv\.bias" if options.get("gate") == "softmax" else "nothing"
    cancelled = r"conv_.*layers\.[03]\.bias" if training and reference is tft else cancelled  # by batch norm
    for parameter, gradient, expected in zip(dict(model.named_parameters()), our_gradients, gradients):
        if re.search(cancelled, parameter):
            assert max(gradient.abs().max(), expected.abs().max()) < 1e-9
        else:
            assert expected.abs().max() > 1e-7, parameter
            agree(gradient, expected)


@all_networks
@pytest.mark.parametrize("classes", [4, 6])
def test_logits_and_maps_at_the_sizes_of_the_papers(name, classes):
    frames = 80 if name in TFT_PARTS else 128
    with torch.no_grad():
        logits, maps = models.build(name, classes)(torch.randn(2, 1, 80, frames), return_maps=True)
    assert logits.shape == (2, classes)
    shapes = {"T": ("T-Trans", 2, 80, 80), "F": ("F-Trans", 2, 80, 80), "TF": ("TF-Trans", 4, 20, 20)}
    shapes |= {"FA": ("F-Attention", 1, 80, 128), "TA": ("T-Attention", 1, 80, 128)}
    expected = {shapes[part][0]: (2, *shapes[part][1:]) for part in PARTS[name] if part in shapes}
    assert {key: value.shape for key, value in maps.items()} == expected
    for key, value in maps.items():
        assert (0 < value).all() and (value < 1).all()
        if "Trans" in key:
            agree(value.sum(-1), torch.ones(value.shape[:-1]), 1e-5)


@all_networks
def test_initial_weights_are_pytorchs_and_depend_on_the_seed_alone(name):
    """The layers, in the order of their construction, draw their weights once more."""

    def draw_again(module):
        for child in module.children():
            draw_again(child)
        for reset in ("reset_parameters", "_reset_parameters"):
            if hasattr(module, reset):
                getattr(module, reset)()

    torch.manual_seed(7)
    model = models.build(name, 4)
    again = copy.deepcopy(model)
    torch.manual_seed(7)
    draw_again(again)
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@all_networks
def test_a_network_has_the_modules_of_its_parts_and_no_other(name):
    modules = {name for name, child in network(name)[0].named_children() if list(child.parameters())}
    assert modules == {"classifier"}.union(*(MODULES[part] for part in PARTS[name]))


@all_networks
def test_a_segment_is_classified_alike_in_any_batch(name):
    model, x = network(name)
    with torch.no_grad():
        agree(model(x), torch.cat([model(x[:1]), model(x[1:])]))


@pytest.mark.parametrize("name, blind", [("afnn", True), ("atfnn", False), ("tfnn", False)])
def test_only_the_mean_over_frames_is_blind_to_their_order(name, blind):
    model, x = network(name)
    with torch.no_grad():
        change = (model(x) - model(x.flip(-1))).abs().max()
    assert (change < 1e-12) if blind else (change > 1e-3)


@pytest.mark.parametrize("name, sizes", [("tft", (20, 16)), ("tft", (16, 24)), ("afnn", (16, 16)), ("atnn", (20, 12))])
def test_sizes_that_do_not_divide_are_refused(name, sizes):
    with pytest.raises(ValueError, match=f"must be a multiple of .* not {sizes[0]} and {sizes[1]}"):
        models.build(name, 4, *sizes)


def test_the_networks_are_plain_pytorch():
    text = Path(models.__file__).read_text()
    assert len(text.splitlines()) <= 300
    assert not re.search(r"cuda|cpu|gpu|device|autocast|autograd|float16|global ", text, re.IGNORECASE)


# ------------------------------------------------------------------------------------------- parts


def test_a_transformer_encoder_ignores_the_order_of_tokens():
    layer = shaken(models.TransformerEncoder(20, 2, 512)).eval()
    x, order = torch.randn(2, 12, 20).double(), torch.randperm(12)
    with torch.no_grad():
        agree(layer(x[:, order], x[:, order], x[:, order])[0], layer(x, x, x)[0][:, order])


def test_pooling_equal_rows_has_a_finite_gradient():
    y = torch.ones(2, 5, 4, requires_grad=True)
    pooled = models.pool_rows(y)
    pooled.sum().backward()
    assert pooled.shape == (2, 8) and torch.isfinite(y.grad).all()
    assert (pooled[:, :4] == 1).all() and (pooled[:, 4:] < 0.01).all()


def test_dropout_of_an_encoder_is_that_of_pytorchs():
    ours, x = models.TransformerEncoder(20, 2, 64, dropout=0.4), torch.randn(3, 12, 20)
    theirs = torch.nn.TransformerEncoderLayer(20, 2, 64, dropout=0.4, batch_first=True)
    pairs = ((ours.attention, theirs.self_attn), (ours.norm_attention, theirs.norm1), (ours.norm_mlp, theirs.norm2),
             (ours.mlp[0], theirs.linear1), (ours.mlp[2], theirs.linear2))  # fmt: skip
    for our_layer, their_layer in pairs:
        their_layer.load_state_dict(our_layer.state_dict())
    outputs = []
    for encoder_layer in (lambda x: ours(x, x, x)[0], theirs):
        torch.manual_seed(3)  # the same masks in the same order
        outputs.append(encoder_layer(x))
    agree(*outputs, 1e-5)
    assert (ours(x, x, x)[0] - outputs[0]).abs().max() > 0.1  # other masks


@all_networks
def test_dropout_acts_in_training_alone(name):
    (plain, x), (model, _) = network(name), network(name, dropout=0.4)
    model.load_state_dict(plain.state_dict())
    layers = sum(isinstance(part, torch.nn.Dropout) and part.p == 0.4 for part in model.modules())
    assert layers == (2 * len({"T", "F", "TF"} & PARTS[name]) if name in TFT_PARTS else 1)
    lstms = [part.dropout for part in model.modules() if isinstance(part, torch.nn.LSTM)]
    assert lstms == ([0.4] if "TE" in PARTS[name] else [])
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain.eval()(x))
        assert torch.equal(plain.train()(x), plain(x))  # nothing is drawn at random without it
        assert (model.train()(x) - model(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", TFT_PARTS)
def test_running_statistics_move_by_their_momentum(name):
    x, statistics = 2 + torch.randn(4, 1, 16, 32), []
    for momentum in (0.1, 0.5):
        torch.manual_seed(0)
        model = models.build(name, 4, 16, 32, bn_momentum=momentum).train()
        model(x)
        norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        statistics.append([value for norm in norms for value in (norm.running_mean, norm.running_var - 1)])
    assert len(statistics[0]) == 4 * len(PARTS[name])
    for slow, fast in zip(*statistics):
        torch.testing.assert_close(5 * slow, fast, rtol=1e-3, atol=1e-5)
