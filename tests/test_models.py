"""The networks against slow references written from the papers' equations, and what their parts must obey.

    python -m pytest tests/test_models.py

The references use the models' own weights, but sizes, strides, heads and axes as the papers state them.
Comparisons run in float64, where both sides round at 1e-16 and a tolerance of 1e-9 leaves no room for error.
"""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import models
import stack

# Which parts each network has: T-Trans, F-Trans, TF-Trans, F- and T-Attention, F- and T-Encoder
TFT_PARTS = {"tft": "T F TF", "tft-t+f": "T F", "tft-t+tf": "T TF", "tft-f+tf": "F TF"}  # TFT Table 5
ATFNN_PARTS = {"atfnn": "FA FE TA TE", "afnn": "FA FE", "atnn": "TA TE", "tfnn": "FE TE"}  # ATFNN Table III
PARTS = {name: set(parts.split()) for name, parts in (TFT_PARTS | ATFNN_PARTS).items()}
MODULES = {  # part -> what only it brings into the network
    "T": {"conv_time", "time_encoder", "map_time"},
    "F": {"conv_frequency", "frequency_encoder", "map_frequency"},
    "TF": {"conv_joint", "joint_encoder"},
    "FA": {"f_attention"}, "FE": {"f_encoder"}, "TA": {"t_attention"}, "TE": {"t_encoder"},
}  # fmt: skip
BEFORE_BATCH_NORM = {
    f"conv_{where}.layers.{layer}.bias" for where in ("time", "frequency", "joint") for layer in (0, 3)
}


@pytest.fixture(autouse=True)
def one_thread_one_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def shaken(module):
    """The module in float64 with every weight and running statistic moved, so that none is 0 or 1 by default."""
    module = module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer += 0.3 * torch.rand_like(buffer)
    return module


def network(name, classes=4):
    """A shaken network and an input (2, 1, f, d) with f != d, the smallest that every part accepts."""
    bands, frames = (16, 32) if name in TFT_PARTS else (20, 16)
    model = shaken(models.build(name, classes, bands=bands, frames=frames))
    return model, torch.randn(2, 1, bands, frames).double()


def agree(ours, reference, tolerance=1e-9):
    """Equal up to a part of the largest entry."""
    assert ours.shape == reference.shape
    error, scale = (ours.double() - reference).abs().max().item(), reference.abs().max().item()
    assert error <= tolerance * max(scale, 1e-6), f"{error} of {scale}"


# ----------------------------------------------------------------------------------- slow references


def linear(x, layer):
    return torch.einsum("...i,oi->...o", x, layer.weight) + layer.bias


def layer_norm(x, layer):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def batch_norm(x, layer):
    mean, variance = layer.running_mean, layer.running_var
    if layer.training:
        mean = x.mean((0, 2, 3))
        variance = (x - mean[:, None, None]).square().mean((0, 2, 3))
    scale = layer.weight / (variance + 1e-5).sqrt()
    return scale[:, None, None] * (x - mean[:, None, None]) + layer.bias[:, None, None]


def convolve(x, weight, bias, stride, padding):
    """(b, i, h, w) -> (b, o, ...), tap by tap."""
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = ((n - k) // s + 1 for n, k, s in zip(padded.shape[2:], weight.shape[2:], stride))
    y = bias[:, None, None]
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            tap = padded[:, :, i :: stride[0], j :: stride[1]][:, :, :rows, :columns]
            y = y + torch.einsum("bihw,oi->bohw", tap, weight[:, :, i, j])
    return y


def attention(q, k, v, layer, heads):
    """Scaled dot-product attention of (n, tokens, e)."""
    projected = [
        (torch.einsum("nti,oi->nto", x, weight) + bias).unflatten(-1, (heads, -1))
        for x, weight, bias in zip((q, k, v), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3))
    ]
    scores = torch.einsum("nqhc,nkhc->nhqk", *projected[:2]) / math.sqrt(projected[0].shape[-1])
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    return linear(torch.einsum("nhqk,nkhc->nqhc", weights, projected[2]).flatten(2), layer.out_proj)


def encoder(q, k, v, layer, heads):
    x = layer_norm(attention(q, k, v, layer.attention, heads) + v, layer.norm_attention)
    return layer_norm(linear(linear(x, layer.mlp[0]).clamp(min=0), layer.mlp[2]) + x, layer.norm_mlp)


def conv_encoder(x, layer, stride, padding):
    for conv, norm in ((layer.layers[0], layer.layers[1]), (layer.layers[3], layer.layers[4])):
        x = batch_norm(convolve(x, conv.weight, conv.bias, stride, padding), norm).clamp(min=0)
    return x.mean(1)


def tft(model, x, parts):
    """TFT eqs. 1-11 and our reading of Table 5; x (b, 1, f, d), r = f/4 rows, c = d/4 columns."""
    maps = {}
    if "T" in parts:
        frames = torch.einsum("brd->bdr", conv_encoder(x, model.conv_time, (2, 1), (2, 0)))
        frames = encoder(frames, frames, frames, model.time_encoder, heads=2)
        maps["q"] = torch.einsum("bdr,cd->brc", frames, model.map_time.weight) + model.map_time.bias
    if "F" in parts:
        bands = conv_encoder(x, model.conv_frequency, (1, 2), (0, 2))  # (b, f, c)
        bands = encoder(bands, bands, bands, model.frequency_encoder, heads=2)
        mapped = torch.einsum("bfc,rf->brc", bands, model.map_frequency.weight)
        maps["k"] = mapped + model.map_frequency.bias[:, None]
    if "TF" in parts:
        v = conv_encoder(x, model.conv_joint, (2, 2), (2, 2))
        maps = {"y": encoder(maps.get("q", v), maps.get("k", v), v, model.joint_encoder, heads=4)}
    pooled = []
    for y in maps.values():  # (b, r, c) over the rows
        mean = sum(y[:, row] for row in range(y.shape[1])) / y.shape[1]
        pooled += [mean, (((y - mean[:, None]) ** 2).sum(1) / (y.shape[1] - 1) + 1e-5).sqrt()]
    return linear(torch.cat(pooled, 1), model.classifier)


def gate(x, layer, bands, frames, activation="sigmoid"):
    """Weights (b, 1, f, t) of groups of so many bands and frames, one group at a time."""
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


def frequency_encoder(x, layer):
    """(b, 1, f, t) -> (b, t, f, c), frame by frame."""
    encoded = []
    for frame in x[:, 0].unbind(-1):  # (b, f)
        tokens = linear(frame[..., None], layer.lift)  # (b, f, c)
        tokens = tokens + attention(tokens, tokens, tokens, layer.attention, heads=2)
        tokens = layer_norm(tokens, layer.norm_attention)
        y = tokens.transpose(1, 2)[:, :, None]  # (b, c, 1, f)
        y = convolve(y, layer.convolutions[0].weight, layer.convolutions[0].bias, (1, 1), (0, 2)).clamp(min=0)
        y = convolve(y, layer.convolutions[2].weight, layer.convolutions[2].bias, (1, 1), (0, 2))
        encoded.append(layer_norm(tokens + y[:, :, 0].transpose(1, 2), layer.norm_convolution))
    return torch.stack(encoded, 1)


def bilstm(x, lstm):
    """Three bidirectional layers over (b, t, i): the last forward and the last backward state (b, 256)."""
    for layer in range(3):
        directions, last = [], []
        for suffix, order in ((f"l{layer}", 1), (f"l{layer}_reverse", -1)):
            weight_x, weight_h, bias_x, bias_h = (
                getattr(lstm, f"{kind}_{suffix}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            h = c = x.new_zeros(len(x), 128)
            states = []
            for step in x.unbind(1)[::order]:
                i, f, g, o = (step @ weight_x.T + bias_x + h @ weight_h.T + bias_h).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                states.append(h)
            directions.append(torch.stack(states[::order], 1))
            last.append(h)
        x = torch.cat(directions, 2)
    return torch.cat(last, 1)


def atfnn(model, x, parts):
    """ATFNN eqs. 1 and 2 and Table III: F-Attention, F-Encoder, T-Attention of the raw x, T-Encoder."""
    y = x + gate(x, model.f_attention, 5, 1) * x if "FA" in parts else x
    y = frequency_encoder(y, model.f_encoder) if "FE" in parts else torch.einsum("bcft->btfc", y)
    if "TA" in parts:
        y = y + torch.einsum("bcft->btfc", gate(x, model.t_attention, 1, 8)) * y
    frames = torch.stack([frame.reshape(len(x), -1) for frame in y.unbind(1)], 1)  # (b, t, f * c)
    h = bilstm(frames, model.t_encoder.lstm) if "TE" in parts else sum(frames.unbind(1)) / frames.shape[1]
    return linear(h, model.classifier)


# ------------------------------------------------------------------------------------ whole networks


@pytest.mark.parametrize("name, count", [("tft", 239464), ("atfnn", 1583092)])
def test_parameter_counts_for_four_classes(name, count):
    assert sum(parameter.numel() for parameter in models.build(name, 4).parameters()) == count


def test_the_registry_holds_both_papers_and_their_ablations():
    assert set(models.MODELS) == set(PARTS)


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("classes", [4, 6])
def test_one_logit_per_class_at_the_papers_sizes(name, classes):
    frames = 80 if name in TFT_PARTS else 128
    with torch.no_grad():
        assert models.build(name, classes)(torch.randn(2, 1, 80, frames)).shape == (2, classes)


@pytest.mark.parametrize("name", PARTS)
def test_forward_equals_the_reference(name):
    model, x = network(name)
    reference = tft if name in TFT_PARTS else atfnn
    with torch.no_grad():
        agree(model(x), reference(model, x, PARTS[name]))


@pytest.mark.parametrize("name", PARTS)
def test_gradients_in_training_equal_the_reference(name):
    model, x = network(name)
    model.train()
    reference, upstream = (tft if name in TFT_PARTS else atfnn), torch.randn(len(x), 4).double()
    told = []
    for logits in (model(x), reference(model, x, PARTS[name])):
        gradients = torch.autograd.grad(logits, list(model.parameters()), upstream, allow_unused=True)
        told.append([torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), gradients)])
    for ours, theirs, (parameter, _) in zip(*told, model.named_parameters()):
        if reference is tft and parameter in BEFORE_BATCH_NORM:  # which takes a constant away
            assert max(ours.abs().max(), theirs.abs().max()) < 1e-9
        else:
            assert theirs.abs().max() > 1e-6, parameter
            agree(ours, theirs)


@pytest.mark.parametrize("name", PARTS)
def test_initial_weights_are_torchs_own(name):
    """Each layer's weights drawn once more by the layer itself, in the order in which the layers are made."""

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


@pytest.mark.parametrize("name", PARTS)
def test_a_network_has_the_modules_of_its_parts_and_no_other(name):
    modules = {name for name, child in network(name)[0].named_children() if list(child.parameters())}
    assert modules == {"classifier"}.union(*(MODULES[part] for part in PARTS[name]))


@pytest.mark.parametrize("name", PARTS)
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(name):
    model, x = network(name)
    with torch.no_grad():
        agree(model(x), torch.cat([model(one[None]) for one in x]))


@pytest.mark.parametrize("name", PARTS)
def test_nothing_is_drawn_at_random_in_training(name):
    model, x = network(name)
    model.train()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("name", PARTS)
def test_logits_are_before_the_softmax(name):
    model, x = network(name)
    with torch.no_grad():
        logits = model(x)
        model.classifier.bias += 3  # a softmax would not notice
        agree(model(x), logits + 3)
    assert (logits.sum(1) - 1).abs().min() > 1e-3


@pytest.mark.parametrize("name, blind", [("afnn", True), ("atfnn", False), ("tfnn", False)])
def test_only_the_mean_over_frames_is_blind_to_their_order(name, blind):
    model, x = network(name)
    with torch.no_grad():
        change = (model(x) - model(x.flip(-1))).abs().max()
    assert (change < 1e-12) if blind else (change > 1e-3)


@pytest.mark.parametrize("name", PARTS)
def test_maps_on_request_change_nothing_and_have_their_shapes(name):
    model, x = network(name)
    f, d, maps, parts = x.shape[2], x.shape[3], {}, PARTS[name]
    with torch.no_grad():
        agree(model(x, maps), model(x))
    shapes = {"T": ("T-Trans", 2, d, d), "F": ("F-Trans", 2, f, f), "TF": ("TF-Trans", 4, f // 4, f // 4)}
    shapes |= {"FA": ("F-Attention", 1, f, d), "TA": ("T-Attention", 1, f, d)}
    assert {key: value.shape for key, value in maps.items()} == {
        shapes[part][0]: (2, *shapes[part][1:]) for part in parts if part in shapes
    }
    for key, value in maps.items():
        assert (0 < value).all() and (value < 1).all()
        if "Trans" in key:
            agree(value.sum(-1), torch.ones(value.shape[:-1]).double())


# -------------------------------------------------------------------------------------- parts of TFT


def test_a_transformer_encoder_knows_no_order_of_tokens():
    layer, x, order = shaken(models.TransformerEncoder(20, 2, 512)), torch.randn(2, 12, 20).double(), torch.randperm(12)
    with torch.no_grad():
        agree(layer(x[:, order], x[:, order], x[:, order]), layer(x, x, x)[:, order])


def test_pooling_equal_rows_has_a_finite_gradient():
    y = torch.ones(2, 5, 4, requires_grad=True)
    pooled = models.pool_rows(y)
    pooled.sum().backward()
    assert pooled.shape == (2, 8) and torch.isfinite(y.grad).all()
    assert (pooled[:, :4] == 1).all() and (pooled[:, 4:] < 0.01).all()


# ------------------------------------------------------------------------------------ parts of ATFNN


def attend_slowly(layer, x):
    """What `attend` must equal: torch's attention over the lifted tokens."""
    tokens = layer.lift(x[..., None]).flatten(0, 1)  # (b * t, f, c)
    return layer.attention(tokens, tokens, tokens, need_weights=False)[0].view(*x.shape, -1)


def gradients(attend, layer, x, upstream):
    """Output of attend(layer, x) and its gradients by input and weights."""
    layer, x = copy.deepcopy(layer), x.clone().requires_grad_()
    output = attend(layer, x)
    output.backward(upstream)
    by_weight = {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return by_weight | {"output": output, "input": x.grad}


INPUTS = {  # (b, t, f), more rows than one block of ScalarAttention holds
    "normal": lambda: torch.randn(2, 40, 30),
    "loud": lambda: 20 * torch.randn(2, 40, 30),
    "extreme": lambda: 50 * torch.randn(2, 40, 30).sign(),
    "constant rows": lambda: 3 * torch.randn(2, 40, 1).repeat(1, 1, 30),
}


# in blocks of rows, and as stack.py takes it
WRITTEN = pytest.mark.parametrize("operators", [None, stack], ids=["own", "stack"])


@pytest.mark.parametrize("kind", INPUTS)
@WRITTEN
def test_scalar_attention_is_attention_of_the_lifted_tokens(kind, operators, monkeypatch):
    """Scores reach some 1e4 here, and exp turns rounding of a score into a relative error: 1e-9 in float64.

    In float32 that error is large on both sides; ours must be of the size of torch's own, or of rounding.
    """
    monkeypatch.setattr(models, "OPERATORS", operators)
    layer, x = shaken(models.FrequencyEncoder()), INPUTS[kind]().double()
    upstream = torch.randn(*x.shape, 8).double()
    exact = gradients(attend_slowly, layer, x, upstream)
    ours = gradients(models.FrequencyEncoder.attend, layer, x, upstream)
    assert ours.keys() == exact.keys() and len(ours) == 8
    single = [
        gradients(attend, layer.float(), x.float(), upstream.float())
        for attend in (models.FrequencyEncoder.attend, attend_slowly)
    ]
    for name in exact:
        agree(ours[name], exact[name])
        error, of_torch = ((by_name[name] - exact[name]).abs().max() for by_name in single)
        assert error <= 5 * of_torch + 1e-5 * exact[name].abs().max(), name


@WRITTEN
def test_gradients_of_scalar_attention_against_differences(operators, monkeypatch):
    monkeypatch.setattr(models, "OPERATORS", operators)
    x, slope, offset = torch.randn(3, 6).double(), torch.randn(2).double(), torch.randn(2).double()
    inputs = [tensor.requires_grad_() for tensor in (x, slope, offset)]
    assert torch.autograd.gradcheck(models.scalar_attention, inputs)
    (first,) = torch.autograd.grad(models.scalar_attention(*inputs).sum(), inputs[:1], create_graph=True)
    with pytest.raises(
        RuntimeError, match="does not require grad|no autograd formula"
    ):  # rather than a wrong second derivative
        first.sum().backward()


@pytest.mark.parametrize("shape", [(1, 8), (3, 5, 7, 6), (2, 10_001, 8)])  # the last is more than one block
@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
def test_layer_norm_over_few_channels_is_layer_norm(shape, precision):
    norm = shaken(torch.nn.LayerNorm(shape[-1]))
    x, upstream = 3 + 5 * torch.randn(*shape).double(), torch.randn(*shape).double()
    x[..., 0, :] = 1  # no variance: epsilon alone is left
    exact = gradients(lambda layer, x: layer(x), norm, x, upstream)
    ours = gradients(models.layer_norm, norm.to(precision), x.to(precision), upstream.to(precision))
    assert ours.keys() == exact.keys() and len(ours) == 4
    for name in exact:
        agree(ours[name], exact[name], 1e-9 if precision == torch.float64 else 1e-4)


def test_attention_over_bands_knows_no_order_and_no_other_frame():
    layer, x, order = shaken(models.FrequencyEncoder()), torch.randn(2, 6, 30).double(), torch.randperm(30)
    with torch.no_grad():
        y = layer.attend(x)
        agree(layer.attend(x[..., order]), y[:, :, order])
        x[1, 4] += 1
        changed = (layer.attend(x) != y).flatten(2).any(2)
    assert changed.nonzero().tolist() == [[1, 4]]


def test_convolutions_run_along_the_bands_of_each_frame():
    layers, x = shaken(models.FrequencyEncoder()).convolutions, torch.randn(2, 8, 3, 30).double()
    for frame, ours in zip(x.unbind(2), layers(x).unbind(2)):  # (b, c, f)
        y = F.conv1d(frame, layers[0].weight.squeeze(2), layers[0].bias, padding=2).relu()
        agree(ours, F.conv1d(y, layers[2].weight.squeeze(2), layers[2].bias, padding=2))


def test_time_encoder_gives_the_last_state_of_each_direction():
    layer, x = shaken(models.TimeEncoder(12)), torch.randn(2, 9, 12).double()
    with torch.no_grad():
        h, outputs = layer(x), layer.lstm(x)[0]
        agree(h, bilstm(x, layer.lstm))
    assert torch.equal(h[:, :128], outputs[:, -1, :128]) and torch.equal(h[:, 128:], outputs[:, 0, 128:])
    assert (h[:, 128:] - outputs[:, -1, 128:]).abs().max() > 1e-2


# ------------------------------------------------------------------- options that the papers leave open


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
def test_scalar_attention_is_exact_for_every_number_of_heads(heads):
    layer, x = shaken(models.FrequencyEncoder(heads=heads)), torch.randn(2, 40, 30).double()
    upstream = torch.randn(*x.shape, 8).double()
    exact = gradients(attend_slowly, layer, x, upstream)  # nn.MultiheadAttention
    ours = gradients(models.FrequencyEncoder.attend, layer, x, upstream)
    for name in exact:
        agree(ours[name], exact[name])
    with torch.no_grad():
        tokens = linear(x[..., None], layer.lift).flatten(0, 1)
        agree(layer.attend(x), attention(tokens, tokens, tokens, layer.attention, heads).view(*x.shape, -1))
    built = models.build("afnn", 4, f_encoder_heads=heads).f_encoder.attention
    assert built.num_heads == heads


def test_dropout_of_an_encoder_is_that_of_torchs():
    ours, x = models.TransformerEncoder(20, 2, 64, dropout=0.4).train(), torch.randn(3, 12, 20)
    theirs = torch.nn.TransformerEncoderLayer(20, 2, 64, dropout=0.4, batch_first=True).train()
    pairs = ((ours.attention, theirs.self_attn), (ours.norm_attention, theirs.norm1), (ours.norm_mlp, theirs.norm2),
             (ours.mlp[0], theirs.linear1), (ours.mlp[2], theirs.linear2))  # fmt: skip
    for our_layer, their_layer in pairs:
        their_layer.load_state_dict(our_layer.state_dict())
    outputs = []
    for encoder_layer in (lambda x: ours(x, x, x), theirs):
        torch.manual_seed(3)  # the same masks in the same order
        outputs.append(encoder_layer(x))
    agree(outputs[0], outputs[1].double(), 1e-5)
    assert (ours(x, x, x) - outputs[0]).abs().max() > 0.1  # other masks


@pytest.mark.parametrize("name", PARTS)
def test_dropout_acts_in_training_alone(name):
    plain, x = network(name)
    bands, frames = x.shape[2:]
    model = models.build(name, 4, bands=bands, frames=frames, dropout=0.4).double()
    model.load_state_dict(plain.state_dict())
    places = sum(isinstance(part, torch.nn.Dropout) and part.p == 0.4 for part in model.modules())
    assert places == (2 * len({"T", "F", "TF"} & PARTS[name]) if name in TFT_PARTS else 1)
    lstms = [part.dropout for part in model.modules() if isinstance(part, torch.nn.LSTM)]
    assert lstms == ([0.4] if "TE" in PARTS[name] else [])
    with torch.no_grad():
        assert torch.equal(model.eval()(x), plain.eval()(x))
        assert (model.train()(x) - model(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["atfnn", "afnn"])
def test_dropout_of_atfnn_precedes_the_classifier(name):
    bands, frames, heard = 20, 16, []
    model = models.build(name, 4, bands=bands, frames=frames, dropout=0.5).train()
    model.classifier.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    x = torch.randn(8, 1, bands, frames)
    model(x), model.eval()(x)
    dropped, whole = heard
    assert 0.4 < (dropped == 0).float().mean() < 0.6
    if name == "afnn":  # nothing else is dropped there
        kept = dropped != 0
        agree(dropped[kept], 2 * whole[kept].double(), 1e-5)


@pytest.mark.parametrize("activation", models.GATES)
@pytest.mark.parametrize("inputs", [1, 8])
@pytest.mark.parametrize("group, axis", [((5, 1), 2), ((1, 8), 3)])
def test_a_gate_equals_its_formula(group, axis, inputs, activation):
    layer, x = shaken(models.Gate(group, 8, inputs, activation)), 3 * torch.randn(2, inputs, 20, 16).double()
    with torch.no_grad():
        weight = layer(x)
        agree(weight, gate(x, layer, *group, activation))
    if activation == "softmax":  # over the groups of a frame or band
        each = weight.unflatten(axis, (-1, max(group))).select(axis + 1, 0)
        agree(each.sum(axis), torch.ones_like(each.sum(axis)))
    elif activation == "none":
        assert weight.min() < 0 and weight.max() > 1


@pytest.mark.parametrize(
    "name, options",
    [
        *((name, {}) for name in ("atfnn", "afnn", "atnn", "tfnn")),
        ("atfnn", dict(t_attention_input="encoded", f_encoder_heads=4)),
        ("atfnn", dict(gate="softmax")),
    ],
)
def test_written_out_networks_are_the_same_networks(name, options, monkeypatch):
    network, x = shaken(models.build(name, 4, bands=20, frames=16, **options)), torch.randn(3, 1, 20, 16).double()
    told = []
    for operators in (None, stack):
        monkeypatch.setattr(models, "OPERATORS", operators)
        told.append(gradients(lambda network, x: network(x), network, x, torch.ones(3, 4).double()))
    assert told[0].keys() == told[1].keys() and len(told[0]) == len(list(network.parameters())) + 2
    for part in told[0]:
        agree(told[1][part], told[0][part])


@pytest.mark.parametrize("name", ["atfnn", "afnn", "atnn"])
@pytest.mark.parametrize("activation", models.GATES)
def test_all_gates_of_a_network_have_its_activation(name, activation):
    model = models.build(name, 4, gate=activation)
    gates = [part.activation for part in model.modules() if isinstance(part, models.Gate)]
    assert gates == [activation] * len({"FA", "TA"} & PARTS[name])


def test_t_attention_of_the_encoded_input_follows_equation_4():
    model = shaken(models.build("atfnn", 4, bands=20, frames=16, t_attention_input="encoded"))
    x, maps = torch.randn(2, 1, 20, 16).double(), {}
    with torch.no_grad():
        ours = model(x, maps)
        y = frequency_encoder(x + gate(x, model.f_attention, 5, 1) * x, model.f_encoder)  # (b, t, f, c)
        weight = gate(torch.einsum("btfc->bcft", y), model.t_attention, 1, 8)  # (b, 1, f, t)
        agree(maps["T-Attention"], weight)
        frames = (y + torch.einsum("bcft->btfc", weight) * y).flatten(2)
        agree(ours, linear(bilstm(frames, model.t_encoder.lstm), model.classifier))


@pytest.mark.parametrize("name", TFT_PARTS)
def test_batch_norm_forgets_as_fast_as_its_momentum(name):
    x, told = 2 + torch.randn(4, 1, 16, 32), []
    for momentum in (0.1, 0.5):
        torch.manual_seed(0)
        model = models.build(name, 4, bands=16, frames=32, bn_momentum=momentum).train()
        model(x)
        norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        told.append([(norm.running_mean, norm.running_var - 1) for norm in norms])
    assert len(told[0]) == 2 * len(PARTS[name])
    for slow, fast in zip(*told):
        for ours, theirs in zip(slow, fast):
            torch.testing.assert_close(5 * ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "kernel, stride, padding", [((5, 1), (2, 1), (2, 0)), ((1, 5), (1, 2), (0, 2)), ((5, 5), (2, 2), (2, 2))]
)
@pytest.mark.parametrize("on_gpu", [False, True])  # as a convolution, and as a product of patches
def test_folding_batch_norm_into_the_first_convolution_changes_nothing(kernel, stride, padding, on_gpu, monkeypatch):
    monkeypatch.setattr(models, "on_gpu", lambda x: on_gpu)
    plain = shaken(models.ConvEncoder(kernel, stride, padding, channels=6)).train()
    folded = copy.deepcopy(plain)
    for shift in (0, 5):  # two steps, so that the running statistics move on from what they have become
        x = shift + 2 * torch.randn(3, 1, 16, 24).double()
        expected, ours = plain.layers(x).mean(1), folded(x)
        agree(ours, expected)
        upstream = torch.randn_like(expected)
        expected.backward(upstream), ours.backward(upstream)
    of_plain, of_folded = dict(plain.named_parameters()), dict(folded.named_parameters())
    for name, parameter in of_plain.items():
        if name in ("layers.0.bias", "layers.3.bias"):  # batch norm cancels them: no gradient here, rounding there
            assert of_folded[name].grad is None and parameter.grad.abs().max() < 1e-12
        else:
            agree(of_folded[name].grad, parameter.grad)
    for name, value in plain.state_dict().items():
        agree(folded.state_dict()[name], value)
    with torch.no_grad():
        agree(folded.eval()(x), plain.eval().layers(x).mean(1))
