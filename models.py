"""The two networks and their ablations in plain PyTorch: the Time-Frequency Transformer and the ATFNN.

    >>> import torch
    >>> from models import build
    >>> model = build("tft", classes=4)  # 239 464 parameters
    >>> x = torch.randn(2, 1, 80, 80)  # (b, 1, n_mels, frames): log-Mel segments
    >>> logits = model(x)  # (b, classes), before the softmax
    >>> logits, maps = model(x, return_maps=True)  # the same logits, and {name: attention map}

Letters as in the papers: b segments, f Mel bands, d or t frames, c channels. Section, equation and table
numbers refer to "Time-Frequency Transformer" (TFT) and "Attentive Time-Frequency Neural Network" (ATFNN).
What the papers do not state is absent: no positional encoding, no dropout by default. This file imports
nothing of the project; faster forms of these modules, with the same weights and results, are in `fast/modules.py`.
"""

import torch
from torch import nn

POOL_EPSILON = 1e-5  # inside the root of TFT's pooled standard deviation, whose gradient at 0 is infinite


# ------------------------------------------------------------------------------------------------ TFT


class ConvEncoder(nn.Module):
    """Two convolutions, each with batch norm and ReLU (TFT eqs. 1, 4 and 7), then the mean over the channels.

    (b, 1, f, d) -> (b, f/4 or f, d/4 or d), by the strides. Kernel, stride and padding of both: TFT Table 2.
    """

    def __init__(self, kernel, stride, padding, channels=64, momentum=0.1):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, channels, kernel, stride, padding),
            nn.BatchNorm2d(channels, momentum=momentum),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, kernel, stride, padding),
            nn.BatchNorm2d(channels, momentum=momentum),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.layers(x).mean(1)


class TransformerEncoder(nn.Module):
    """Post-norm encoder layer; with q = k = v TFT eqs. 2-3 and 5-6, else the CO-Transformer, eqs. 8-9.

    q, k, v (b, tokens, embedding) -> the encoded tokens (b, tokens, embedding) and, with `return_map`, the attention
    weights (b, heads, tokens, tokens), whose rows are the queries; else None. The residual is the value, as in
    eq. 8; for self-attention that is the token itself. `dropout` acts where nn.TransformerEncoderLayer has it: on the
    attention weights, after the attention, inside and after the MLP.
    """

    def __init__(self, embedding, heads, feed_forward, dropout=0.0):
        super().__init__()
        self.attention = nn.MultiheadAttention(embedding, heads, dropout, batch_first=True)
        self.norm_attention = nn.LayerNorm(embedding)
        self.mlp = nn.Sequential(
            nn.Linear(embedding, feed_forward),
            nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(dropout)),
            nn.Linear(feed_forward, embedding),
        )
        self.norm_mlp = nn.LayerNorm(embedding)
        self.dropout = nn.Dropout(dropout)

    def forward(self, q, k, v, return_map=False):
        attended, weights = self.attention(q, k, v, need_weights=return_map, average_attn_weights=False)
        p = self.norm_attention(self.dropout(attended) + v)  # eqs. 2, 5, 8
        return self.norm_mlp(self.dropout(self.mlp(p)) + p), weights  # eqs. 3, 6, 9


def pool_rows(y):
    """Mean and standard deviation (divisor f/4 - 1) over the frequency rows: (b, f/4, d/4) -> (b, d/2), TFT eq. 10."""
    return torch.cat([y.mean(1), (y.var(1) + POOL_EPSILON).sqrt()], 1)


class TFT(nn.Module):
    """Time-Frequency Transformer, (b, 1, f, d) -> (b, classes) logits.

    `time`, `frequency` and `joint` switch T-Trans, F-Trans and TF-Trans. The paper does not define the rows of its
    Table 5; here the query is v without T-Trans, the key is v without F-Trans, and without TF-Trans q and k are both
    pooled and concatenated. `dropout` acts in the encoders; `bn_momentum` is that of batch norm's running statistics.
    Maps: T-Trans (b, 2, d, d), F-Trans (b, 2, f, f), TF-Trans (b, 4, f/4, f/4).
    Raises ValueError unless f = n_mels is a multiple of 8 and d = frames of 16.
    """

    def __init__(
        self, classes, n_mels=80, frames=80, time=True, frequency=True, joint=True, dropout=0.0, bn_momentum=0.1
    ):
        super().__init__()
        if n_mels % 8 or frames % 16:
            raise ValueError(f"TFT: n_mels must be a multiple of 8 and frames of 16, not {n_mels} and {frames}")
        rows, columns = n_mels // 4, frames // 4  # f/4 and d/4
        if time:
            self.conv_time = ConvEncoder((5, 1), (2, 1), (2, 0), momentum=bn_momentum)
            self.time_encoder = TransformerEncoder(rows, heads=2, feed_forward=512, dropout=dropout)
            self.map_time = nn.Linear(frames, columns)
        if frequency:
            self.conv_frequency = ConvEncoder((1, 5), (1, 2), (0, 2), momentum=bn_momentum)
            self.frequency_encoder = TransformerEncoder(columns, heads=2, feed_forward=512, dropout=dropout)
            self.map_frequency = nn.Linear(n_mels, rows)
        if joint:
            self.conv_joint = ConvEncoder((5, 5), (2, 2), (2, 2), momentum=bn_momentum)
            self.joint_encoder = TransformerEncoder(columns, heads=4, feed_forward=1024, dropout=dropout)
        self.time, self.frequency, self.joint = time, frequency, joint
        self.classifier = nn.Linear(2 * columns if joint else 4 * columns, classes)

    def forward(self, x, return_maps=False):
        maps, q, k = {}, None, None
        if self.time:
            q, maps["T-Trans"] = self.encode_time(x, return_maps)  # (b, f/4, d/4)
        if self.frequency:
            k, maps["F-Trans"] = self.encode_frequency(x, return_maps)  # (b, f/4, d/4)
        if self.joint:
            v = self.conv_joint(x)  # (b, f/4, d/4), eq. 7
            q, k = v if q is None else q, v if k is None else k
            y, maps["TF-Trans"] = self.joint_encoder(q, k, v, return_maps)  # eqs. 8-9
            pooled = pool_rows(y)  # (b, d/2), eq. 10
        else:
            pooled = torch.cat([pool_rows(q), pool_rows(k)], 1)  # (b, d)
        logits = self.classifier(pooled)  # eq. 11; the softmax of eq. 12 belongs to the loss
        return (logits, maps) if return_maps else logits

    def encode_time(self, x, return_map=False):
        """T-Trans, whose tokens are the frames: x (b, 1, f, d) -> q (b, f/4, d/4) and its map or None."""
        s = self.conv_time(x).transpose(1, 2)  # (b, d, f/4), eq. 1
        q, weights = self.time_encoder(s, s, s, return_map)  # (b, d, f/4), eqs. 2-3
        return self.map_time(q.transpose(1, 2)), weights  # the linear map shrinks d frames to d/4

    def encode_frequency(self, x, return_map=False):
        """F-Trans, whose tokens are the bands: x (b, 1, f, d) -> k (b, f/4, d/4) and its map or None."""
        s = self.conv_frequency(x)  # (b, f, d/4), eq. 4
        k, weights = self.frequency_encoder(s, s, s, return_map)  # (b, f, d/4), eqs. 5-6
        return self.map_frequency(k.transpose(1, 2)).transpose(1, 2), weights  # the linear map shrinks f bands to f/4


# ---------------------------------------------------------------------------------------------- ATFNN


GATES = {  # what the weights of a group attention go through, on the axis of the groups; the paper names nothing
    "sigmoid": lambda weight, axis: weight.sigmoid(),
    "softmax": lambda weight, axis: weight.softmax(axis),  # the weights of a frame or band sum to 1
    "none": lambda weight, axis: weight,
}


class GroupAttention(nn.Module):
    """F-Attention or T-Attention: a weight for each group of 5 bands or 8 frames (ATFNN Figs. 3 and 4).

    (b, inputs, f, t) -> (b, 1, f, t): the mean over the channels of activation(conv), each group's weight repeated
    over its bands or frames. The caller adds weight * features to the features (eqs. 1 and 2).
    `group` is (5, 1) or (1, 8); `activation` is a name in GATES.
    """

    def __init__(self, group, channels=8, inputs=1, activation="sigmoid"):
        super().__init__()
        self.group = group
        self.axis = 2 if group[0] > 1 else 3
        self.conv = nn.Conv2d(inputs, channels, group, stride=group)
        self.activation = activation

    def forward(self, x):
        weight = self.conv(x)  # (b, c, f/5, t) or (b, c, f, t/8)
        weight = GATES[self.activation](weight, self.axis).mean(1, keepdim=True)
        return weight.repeat_interleave(max(self.group), self.axis)


class FrequencyEncoder(nn.Module):
    """F-Encoder (ATFNN section II-A1, Fig. 2): self-attention over the bands of each frame, then convolutions.

    (b, 1, f, t) -> (b, t, f, c). A linear layer lifts each bin from 1 to c numbers. The convolutions run along the
    bands: two Conv1d of each frame, written as (1, 5) kernels over (t, f). The paper states neither the number of heads
    nor the ReLU between them.
    """

    def __init__(self, channels=8, hidden=32, heads=2, kernel=5):
        super().__init__()
        self.lift = nn.Linear(1, channels)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm_attention = nn.LayerNorm(channels)
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, hidden, (1, kernel), padding=(0, kernel // 2)),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, (1, kernel), padding=(0, kernel // 2)),
        )
        self.norm_convolution = nn.LayerNorm(channels)

    def forward(self, x):
        tokens = self.lift(x.permute(0, 3, 2, 1))  # (b, t, f, c)
        rows = tokens.flatten(0, 1)  # (b * t, f, c): each frame attends to its own bands
        attended, _ = self.attention(rows, rows, rows, need_weights=False)
        y = self.norm_attention(tokens + attended.view_as(tokens))  # (b, t, f, c)
        z = self.convolutions(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # over (b, c, t, f), back to (b, t, f, c)
        return self.norm_convolution(y + z)


class TimeEncoder(nn.Module):
    """T-Encoder: three-layer BiLSTM, (b, t, features) -> (b, 256), the last hidden state of each direction.

    The backward direction ends at the first frame: its last state is not the output at the last frame
    (ATFNN section II-A2). `dropout` acts between the layers.
    """

    def __init__(self, features, hidden=128, layers=3, dropout=0.0):
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, layers, batch_first=True, dropout=dropout, bidirectional=True)

    def forward(self, x):
        _, (states, _) = self.lstm(x)  # (2 * layers, b, hidden)
        return torch.cat([states[-2], states[-1]], 1)


class ATFNN(nn.Module):
    """Attentive Time-Frequency Neural Network, (b, 1, f, t) -> (b, classes) logits.

    `f_attention`, `f_encoder`, `t_attention` and `t_encoder` switch the parts (Table III). Without F-Encoder the
    BiLSTM reads the f bands of a frame; without T-Encoder the mean over the frames is classified.
    `t_attention_input` is what T-Attention computes its weight from: the log-Mel x ("log-mel": eq. 2, Fig. 4), or the
    c channels of the F-Encoder's output ("encoded": eq. 4). `gate` is the activation of both attentions, a name in
    GATES. `dropout` acts between the BiLSTM's layers and before the classifier.
    Maps: F-Attention and T-Attention, both (b, 1, f, t).
    Raises ValueError unless f = n_mels is a multiple of 5 for F-Attention, and t = frames of 8 for T-Attention.
    """

    def __init__(
        self, classes, n_mels=80, frames=128, channels=8,
        f_attention=True, f_encoder=True, t_attention=True, t_encoder=True,
        dropout=0.0, f_encoder_heads=2, gate="sigmoid", t_attention_input="log-mel",
    ):  # fmt: skip
        super().__init__()
        if (f_attention and n_mels % 5) or (t_attention and frames % 8):
            raise ValueError(f"ATFNN: n_mels must be a multiple of 5 and frames of 8, not {n_mels} and {frames}")
        features = n_mels * channels if f_encoder else n_mels
        self.t_attention_encoded = t_attention_input == "encoded"
        inputs = channels if self.t_attention_encoded else 1
        self.f_attention = GroupAttention((5, 1), channels, activation=gate) if f_attention else None
        self.f_encoder = FrequencyEncoder(channels, heads=f_encoder_heads) if f_encoder else None
        self.t_attention = GroupAttention((1, 8), channels, inputs, gate) if t_attention else None
        self.t_encoder = TimeEncoder(features, dropout=dropout) if t_encoder else None
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(256 if t_encoder else features, classes)

    def forward(self, x, return_maps=False):
        maps, y = {}, x  # (b, 1, f, t)
        if self.f_attention:
            weight = maps["F-Attention"] = self.f_attention(x)  # (b, 1, f, t)
            y = x + weight * x  # eq. 1
        y = self.f_encoder(y) if self.f_encoder else y.permute(0, 3, 2, 1)  # (b, t, f, c), without F-Encoder c = 1
        if self.t_attention:
            source = y.permute(0, 3, 2, 1) if self.t_attention_encoded else x  # (b, c, f, t) or (b, 1, f, t)
            weight = maps["T-Attention"] = self.t_attention(source)  # (b, 1, f, t)
            y = y + weight.permute(0, 3, 2, 1) * y  # eq. 2
        y = y.flatten(2)  # (b, t, f * c)
        h = self.t_encoder(y) if self.t_encoder else y.mean(1)  # (b, 256) or (b, f * c)
        logits = self.classifier(self.dropout(h))
        return (logits, maps) if return_maps else logits


# ------------------------------------------------------------------------------------------- registry


MODELS = {  # name -> class and switches: TFT Table 5, ATFNN Table III
    "tft": (TFT, {}),
    "tft-t+f": (TFT, dict(joint=False)),
    "tft-t+tf": (TFT, dict(frequency=False)),
    "tft-f+tf": (TFT, dict(time=False)),
    "atfnn": (ATFNN, {}),
    "afnn": (ATFNN, dict(t_attention=False, t_encoder=False)),
    "atnn": (ATFNN, dict(f_attention=False, f_encoder=False)),
    "tfnn": (ATFNN, dict(f_attention=False, t_attention=False)),
}

OPTIONS = ("dropout", "bn_momentum", "f_encoder_heads", "gate", "t_attention_input")  # of TFT, ATFNN or both


def build(name, classes, n_mels=80, frames=None, **options):
    """Build the network `name`, a key of MODELS, for that many classes, with PyTorch's initial weights.

    It takes segments (b, 1, n_mels, frames); without `frames` those of its paper, 80 or 128. `options` are those in
    OPTIONS that the network has. Raises ValueError for sizes that do not divide into its groups or heads.
    """
    network, switches = MODELS[name]
    if frames is not None:
        options["frames"] = frames
    return network(classes, n_mels, **options, **switches)
