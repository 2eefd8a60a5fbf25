"""SMLN: networks whose outputs separate a graph of labels, pairs and neighbours equally well along every direction.

A re-implementation from a description: Peng Hu, Hongyuan Zhu, Xi Peng, Jie Lin, "Semi-Supervised Multi-Modal Learning with
Balanced Spectral Decomposition", AAAI 2020. Neither its code nor its text was at hand; the abstract and the caption of its
first figure say that all modalities' outputs Y are tied by one similarity matrix W, which integrates discrimination,
cross-modal correlation and a graph within each modality; that a ratio trace criterion gives eigenvalues; and that the
objective, a sum of h(lambda_i), balances all of them, where earlier methods push the minor ones. What follows is ours.

On a batch of N instances of m modalities, with Y (m N, L) unit rows, centred by the degrees d = W 1 as weights, and s = sum d:

    W   = [share a class] + [one instance] + w G,   G = heat kernel of k nearest neighbours within a modality
    S_b = Y' W Y / s,   S_w = Y' (diag(d) - W) Y / s + r I,   S_b v = lambda S_w v
    L   = - 1/q sum log(lambda_i + 1e-6)   over the q = min(L, K - 1) largest, at least 0

w is eta where both items have a label and 1 where one has none: unlabelled items are read, by their pair and neighbours.
Similarity is the cosine of the networks' outputs.

Noise: wrong labels add wrong edges, each modality its own; pairs and neighbours are edges that no label can touch.

Where this is our choice:
- h is the logarithm: as d log(lambda) = d lambda / lambda, every direction is pressed in proportion to itself. It is what the
  same first author's MAN does with the largest K - 1 eigenvalues and a ridge. The figure's sum runs over all L; labels tell
  only K - 1 directions apart, and with all L in the sum retrieval came out worse in our trials.
- W counts an item as its own instance, so that S_b has no negative part but for the neighbours where items have one class
  each; S_w does not see it.
- The eigenvalues are those of L^-1 S_b L^-T with L L' = S_w: their gradient needs no eigenvector but for the outer products.
- The networks are SDML's, the trunk d -> 1024 -> 1024 -> L with unit outputs: the criterion knows Y up to any invertible map,
  the cosine does not, and the sphere fixes the scale that the ridge refers to.
- eta = 0.1, k = 5, r = 0.01, L = 64 and Adam at 1e-4 on batches of 4 L. Neighbours are sought in the batch; pairs are dealt
  evenly into batches of at least `batch_size`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from baselines._backbones import descend, input_of, trunk
from baselines._correlation import whitened
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


def neighbour_graph(vectors: Tensor, k: int) -> Tensor:
    """G, (n, n): exp(-d^2 / (2 median d^2)) between an item and its k nearest, either's of the other; 0 elsewhere."""
    distances = torch.cdist(vectors, vectors).square().fill_diagonal_(float("inf"))
    nearest, columns = distances.topk(min(k, len(vectors) - 1), largest=False)
    graph = torch.zeros_like(distances)
    if nearest.numel():
        graph.scatter_(1, columns, torch.exp(-nearest / (2 * nearest.median().clamp(min=torch.finfo(nearest.dtype).tiny))))
    return torch.maximum(graph, graph.T)


def similarity_matrix(labels: Tensor, graphs: Tensor, eta: float) -> Tensor:
    """W, (m N, m N), symmetric.

    Args:
        labels: (m, N, K) 0 or 1; a row of zeros is unlabelled. Item a of every modality is one instance.
        graphs: G, (m, N, N), of each modality.
        eta: weight of G between two items that have a label.
    """
    m, n, _ = labels.shape
    known = labels.any(dim=2)
    stacked = labels.flatten(0, 1)
    w = (stacked @ stacked.T).clamp_(max=1)
    blocks = w.view(m, n, m, n)
    blocks.diagonal(dim1=1, dim2=3).add_(1)
    both = known[:, :, None] & known[:, None]
    blocks.diagonal(dim1=0, dim2=2).add_(torch.where(both, eta * graphs, graphs).permute(1, 2, 0))
    return w


def balanced_spectrum(outputs: Tensor, weights: Tensor, ridge: float, n_values: int) -> Tensor:
    """L, minus the mean logarithm of the largest generalised eigenvalues of (S_b, S_w).

    Args:
        outputs: Y, (n, L), centred here.
        weights: W, (n, n) symmetric.
        ridge: r.
        n_values: q.
    """
    degrees = weights.sum(dim=1)
    total = degrees.sum()
    y = outputs - degrees @ outputs / total
    tied = weights @ y
    between = (y.T @ tied / total).cpu().double()  # where float64 is to be had on every device
    within = (y.T @ (degrees[:, None] * y - tied) / total).cpu().double()
    within = within + ridge * torch.eye(len(within), dtype=within.dtype)
    values = torch.linalg.eigvalsh(whitened(between, within, within))[-n_values:]
    return -torch.log(values.clamp(min=0) + 1e-6).mean().to(outputs.device, outputs.dtype)


@register_method(
    "smln",
    needs={"vectors", "labels", "pairs"},
    multi_label=True,
    from_description=True,
    search={"ridge": [1e-2, 1e-1], "eta": [0.1, 1.0], "lr": [1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "dim": 32, "epochs": 12, "batch_size": 128, "lr": 1e-3},
)
@dataclass(kw_only=True)
class SMLN(Method):
    """Balanced eigenvalues of a graph of labels, pairs and neighbours; see the module's docstring."""

    eta: float = 0.1  # weight of neighbours between items that have a label
    neighbours: int = 5  # k
    ridge: float = 1e-2  # r
    hidden: int = 1024  # width of the trunks
    dim: int = 64  # L
    epochs: int = 100
    batch_size: int = 256  # the least, four times L
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "neighbours", "ridge", "hidden", "dim", "epochs", "batch_size", "lr")
        if not self.eta >= 0:
            raise ValueError(f"smln.eta must be 0 or above, got {self.eta!r}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        sizes = {m.name: m.vectors.shape[1] for m in train.modalities}
        self.nets_ = nn.ModuleDict({name: trunk(d, self.hidden, self.dim) for name, d in sizes.items()}).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, fused=True)
        data = context.tensors(train)
        together = train.rows_together()
        n_values = max(1, min(self.dim, train.n_classes - 1))
        for _ in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            losses = []
            for batch in context.batches(len(together), self.batch_size, even=True):
                rows = list(zip(data, together[batch].T, strict=True))
                vectors = {d.name: d.vectors[r] for d, r in rows}
                weights = self.weights(list(vectors.values()), torch.stack([d.labels[r] for d, r in rows]).float())
                outputs = torch.cat([self.outputs(name, x) for name, x in vectors.items()])
                loss = balanced_spectrum(outputs, weights, self.ridge, n_values)
                losses.append(descend(loss, optimiser))
            context.end_epoch(loss=torch.stack(losses).mean())

    def weights(self, vectors: list[Tensor], labels: Tensor) -> Tensor:
        """W of a batch: the vectors (N, d) of each modality, labels (m, N, K)."""
        return similarity_matrix(labels, torch.stack([neighbour_graph(x, self.neighbours) for x in vectors]), self.eta)

    def outputs(self, name: str, vectors: Tensor) -> Tensor:
        """Unit outputs (n, L) for the vectors (n, d) of modality `name`."""
        return normalize(self.nets_[name](vectors), dim=1, eps=1e-12)

    def embed(self, modality: Modality) -> Embedding:
        with torch.inference_mode():
            return Embedding(modality.name, self.outputs(modality.name, input_of(modality, self.nets_)).cpu().numpy())
