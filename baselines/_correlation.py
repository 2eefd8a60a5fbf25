"""The correlation loss of deep CCA and its autoencoder, their networks, which end in a linear CCA, and its whitening."""

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from baselines._backbones import trunk
from xmbench import PairedSet

_BLOCK = 4096  # pairs that are embedded at once
_LEAST_CORRELATION = 1e-6  # directions below it are rounding errors of outputs that do not fill the space


def whitened(cross: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """L_1^-1 C L_2^-T for matrices C and covariances L_1 L_1', L_2 L_2', all (..., o, o); no inverse is formed."""
    left = torch.linalg.solve_triangular(torch.linalg.cholesky(first), cross, upper=False)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(second), left.mT, upper=False).mT


def covariances(outputs: Tensor, ridge: float) -> Tensor:
    """S_ij = E[h_i h_j'] + [i = j] r I in float64, (m, m, o, o), of the outputs h_i (m, n, o) of m modalities.

    Small matrices whose inverses are needed: float64, which not every device has, so on the CPU.
    """
    h = outputs.cpu().double()
    h = h - h.mean(dim=1, keepdim=True)
    m, n, o = h.shape
    cov = torch.einsum("ina,jnb->ijab", h, h) / max(n - 1, 1)
    return cov + ridge * torch.eye(o, dtype=h.dtype) * torch.eye(m, dtype=h.dtype)[:, :, None, None]


def correlation_loss(outputs: Tensor, ridge: float, norm: str) -> Tensor:
    """Minus the total correlation of paired outputs, summed over all pairs of modalities i < j.

    T_ij = S_ii^(-1/2) S_ij S_jj^(-1/2), with Cholesky factors for roots, which changes no singular value (the canonical
    correlations rho) and leaves eigenvectors out of the gradient.

    Args:
        outputs: (m, n, o); item j of every modality is one instance.
        ridge: r, added to the diagonal of every covariance.
        norm: "frobenius" for -sum rho^2, "trace" for -sum rho.
    """
    cov = covariances(outputs, ridge)
    first, second = (list(side) for side in zip(*combinations(range(len(outputs)), 2), strict=True))
    t = whitened(cov[first, second], cov[first, first], cov[second, second])
    total = (t**2).sum() if norm == "frobenius" else torch.linalg.svdvals(t).sum()
    return -total.to(outputs.device, outputs.dtype)


class View(nn.Module):
    """Encoder of one modality: features to zero mean and unit variance, a trunk, and after it a linear map of its outputs."""

    mean: Tensor
    scale: Tensor
    offset: Tensor
    weights: Tensor

    def __init__(self, vectors: np.ndarray, hidden: int, dim: int) -> None:
        super().__init__()
        mean, deviation = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
        deviation[np.ptp(vectors, axis=0) == 0] = 1.0  # constant features stay 0
        self.register_buffer("mean", torch.from_numpy(mean).float())
        self.register_buffer("scale", torch.from_numpy(1.0 / deviation).float())
        self.register_buffer("offset", torch.zeros(dim))
        self.register_buffer("weights", torch.eye(dim))
        self.trunk = trunk(vectors.shape[1], hidden, dim)

    def standardised(self, vectors: Tensor) -> Tensor:
        """Features (n, d) at zero mean and unit variance over the training split."""
        return (vectors - self.mean) * self.scale

    def output(self, vectors: Tensor) -> Tensor:
        """Outputs (n, o) of the trunk."""
        return self.trunk(self.standardised(vectors))

    def forward(self, vectors: Tensor) -> Tensor:
        """Projections (n, o): the trunk's outputs through the linear map that was fitted last."""
        return (self.output(vectors) - self.offset) @ self.weights


class CorrelationNetworks(nn.Module):
    """One view per modality, and the linear CCA of their outputs over the training pairs.

    The linear maps are buffers: they are saved and restored with the weights that they belong to.

    Args:
        train: gives names, feature sizes, and each feature's mean and variance.
        hidden: width of the trunks.
        dim: o, size of the common space.
    """

    def __init__(self, train: PairedSet, hidden: int, dim: int) -> None:
        super().__init__()
        self.views = nn.ModuleDict({m.name: View(np.asarray(m.vectors), hidden, dim) for m in train.modalities})

    def view(self, name: str) -> View:
        """The view of modality `name`."""
        view = self.views[name]
        assert isinstance(view, View)
        return view

    def outputs(self, vectors: dict[str, Tensor]) -> Tensor:
        """Outputs (m, n, o) of the trunks for the vectors (n, d) of every modality."""
        return torch.stack([self.view(name).output(x) for name, x in vectors.items()])

    @torch.no_grad()
    def fit_linear(self, vectors: Callable[[np.ndarray], dict[str, Tensor]], n_pairs: int, ridge: float) -> None:
        """Fit the linear maps, in place, to the outputs of all training pairs.

        For two modalities this is linear CCA, every component of unit variance; for more the sum of all correlations
        (MCCA), by the leading eigenvectors of the whitened covariance of all outputs, of which CCA is the case m = 2.
        Directions without correlation, as where the outputs do not fill the space, are set to zero.

        Args:
            vectors: pair numbers -> the vectors (n, d) of every modality.
            n_pairs: how many there are.
            ridge: r, added to the diagonal of every covariance.
        """
        blocks = np.array_split(np.arange(n_pairs), math.ceil(n_pairs / _BLOCK))
        outputs = torch.cat([self.outputs(vectors(block)) for block in blocks], dim=1)
        cov = covariances(outputs, ridge)
        m, _, o, _ = cov.shape
        own = cov[range(m), range(m)]
        joint = whitened(cov, own[:, None], own[None]).transpose(1, 2).reshape(m * o, m * o)
        one_plus_rho, u = torch.linalg.eigh(joint)
        u = (u * (one_plus_rho > 1 + _LEAST_CORRELATION)).flip(1)[:, :o].view(m, o, o)
        weights = torch.linalg.solve_triangular(torch.linalg.cholesky(own).mT, normalize(u, dim=1), upper=True)
        for name, w, mean in zip(self.views, weights, outputs.mean(dim=1), strict=True):
            self.view(name).weights.copy_(w)
            self.view(name).offset.copy_(mean)
