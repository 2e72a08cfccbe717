"""GerDA: a deep network that maps functionals to a few discriminative numbers, and Gaussians of the classes.

Stuhlsatz, Meyer, Eyben, Zielke, Meier, Schuller, ICASSP 2011. Its abstract states a deep network that learns few
features from many acoustic ones, and a linear classifier. Start from restricted Boltzmann machines and the trace
criterion are recalled, not read. Ours: the 6552 numbers by our own hand, layers, training, a last layer that starts
from LDA, a criterion that weighs pairs of classes by their shares alone, and a Gaussian of each class with the same
covariance and prior.

On CASIA most of the first units saturate, and the criterion reaches its maximum on the training fold.
"""

from typing import NamedTuple

import numpy as np

from comparisons import classifiers

DESCRIPTORS = "openear"
SETTINGS = dict(normalization="fold")
SEEDED = True
PUBLISHED = ("GerDA",)
EXTENT = "reading"
NOTE = "layers are ours, and so are the features: our own computation of the 6552 numbers"

HIDDEN = (512, 128)  # sigmoid layers, before classes - 1 linear outputs
RBM_EPOCHS, RBM_BATCH, MOMENTUM = 50, 100, 0.9
RATES = (1e-3, 0.05)  # of the machine of Gaussian and of those of Bernoulli inputs
RIDGE = 1e-3  # on the total scatter
LBFGS_STEPS = 200


class Gerda(NamedTuple):
    """A trained method."""

    layers: list  # of weights and bias, arrays (inputs, outputs) and (outputs,)
    whitening: classifiers.Projection  # of the outputs, to unit covariance within a class
    means: np.ndarray  # (classes, classes - 1) of the whitened outputs


def fit(x, labels, classes, seed):
    """Train on vectors x (n, D).

    Machines and network see the vectors in an orthonormal basis of the n training vectors. As all gradients lie in
    their span, a rotation changes nothing, and the products are shorter where D exceeds n. What the first weights have
    outside of the span, where no training vector is, stays 0.
    """
    basis, coordinates = np.linalg.qr(x.T)  # (D, r), (r, n)
    layers = train_layers(coordinates.T, labels, classes, seed)
    weights, bias = layers[0]
    layers[0] = basis @ weights, bias
    z = outputs(layers, x)
    whitening = classifiers.fit_lda(z, labels, classes)
    return Gerda(layers, whitening, classifiers.class_means(whitening(z), labels, classes))


def scores(model, x):
    """Scores (n, classes) of vectors x (n, D): posteriors of the Gaussians."""
    return classifiers.nearest_mean_scores(model.means, model.whitening(outputs(model.layers, x)))


def outputs(layers, x):
    """Outputs of the network (n, classes - 1) for vectors x (n, D), float64."""
    import torch

    layers = [[torch.from_numpy(part) for part in layer] for layer in layers]
    return forward(layers, torch.from_numpy(x)).double().numpy()


def forward(layers, x):
    """Tensors x (n, D) through sigmoid layers and a last layer that is linear."""
    *hidden, (weights, bias) = layers
    for w, b in hidden:
        x = (x @ w + b).sigmoid()
    return x @ weights + bias


def train_layers(x, labels, classes, seed):
    """Layers of the network for vectors x (n, D): Boltzmann machines, LDA of their last outputs, then the criterion."""
    import torch  # takes a second; tables and the audit do without it

    x, targets = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(labels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers, v = [], x
        for number, size in enumerate(HIDDEN):
            w, b = train_rbm(v, size, is_gaussian=number == 0)
            layers.append((w, b))
            v = (v @ w + b).sigmoid()
    lda = classifiers.fit_lda(v.double().numpy(), labels, classes)
    layers.append(tuple(torch.tensor(part.copy(), dtype=x.dtype) for part in (lda.matrix, -lda.mean @ lda.matrix)))
    parameters = [part.requires_grad_() for layer in layers for part in layer]
    optimizer = torch.optim.LBFGS(parameters, max_iter=LBFGS_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = -criterion(forward(layers, x), targets, classes)
        value.backward()
        return value

    optimizer.step(loss)
    return [tuple(part.detach().numpy() for part in layer) for layer in layers]


def train_rbm(v, size, is_gaussian):
    """Weights (D, size), bias (size,) of a restricted Boltzmann machine of inputs v (n, D), by CD-1 with momentum."""
    import torch

    parameters = [0.01 * torch.randn(v.shape[1], size), torch.zeros(v.shape[1]), torch.zeros(size)]
    velocities = [torch.zeros_like(part) for part in parameters]
    rate = RATES[0] if is_gaussian else RATES[1]
    for _ in range(RBM_EPOCHS):
        for batch in torch.randperm(len(v)).split(RBM_BATCH):
            noise = torch.rand(len(batch), size)
            gradients = cd_gradients(v[batch], *parameters, noise, is_gaussian)
            for part, velocity, gradient in zip(parameters, velocities, gradients):
                part += velocity.mul_(MOMENTUM).add_(gradient, alpha=rate)
    weights, _, bias = parameters
    return weights, bias


def cd_gradients(v, weights, visible_bias, hidden_bias, noise, is_gaussian):
    """Gradients of weights, visible and hidden bias by contrastive divergence of a step (CD-1), means over v (b, D).

    p(h_j = 1 | v) = sigmoid(c_j + sum_i W_ij v_i); a hidden unit is 1 where its noise (b, size) in 0..1 is below that.
    The inputs are then given their mean, b + W h, or its sigmoid for Bernoulli inputs.
    """
    h = (v @ weights + hidden_bias).sigmoid()
    again = (noise < h).to(v.dtype) @ weights.T + visible_bias
    again = again if is_gaussian else again.sigmoid()
    h_again = (again @ weights + hidden_bias).sigmoid()
    return (v.T @ h - again.T @ h_again) / len(v), (v - again).mean(0), (h - h_again).mean(0)


def criterion(z, labels, classes):
    """Trace of (S_T + ridge)^-1 S_B, the total and between-class scatter of outputs z (n, d): in 0..d, float64.

    S_B = 1/2 sum over classes k, l of p_k p_l (m_k - m_l)(m_k - m_l)^T, m the class means and p the classes' shares,
    written here as sum of p_k (m_k - m)(m_k - m)^T.
    """
    import torch

    z = z.double()
    z = z - z.mean(0)
    members = torch.nn.functional.one_hot(labels, classes).to(z.dtype)  # (n, classes)
    sums, counts = members.T @ z, members.sum(0)[:, None]
    between = sums.T @ (sums / counts) / len(z)
    total = z.T @ z / len(z) + RIDGE * torch.eye(z.shape[1], dtype=z.dtype)
    return torch.linalg.solve(total, between).trace()
