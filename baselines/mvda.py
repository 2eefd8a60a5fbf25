"""MvDA: multi-view discriminant analysis, one LDA over the projected items of all modalities.

Meina Kan, Shiguang Shan, Haihong Zhang, Shihong Lao, Xilin Chen, "Multi-view Discriminant Analysis", ECCV 2012. With W the
maps of all modalities on top of each other, and class means taken over the projected items of all modalities,

    max_W tr(W' S W) / tr(W' D W), solved as the ratio trace   S w = lambda (D + r I) w,   embed(x_v) = x_v W_v
    S, D: between-class and within-class scatter, blocks S_vw, D_vw                       (baselines/_scatter.py, scatter)

S has a rank of at most K - 1 for K classes, so the common space has at most K - 1 dimensions.

Noise: labels may be wrong, independently per modality. Uniform noise draws the class means toward the overall mean and leaves
their direction: the method degrades slowly where classes are large. Pairs are not read; the number of items may differ.

Where this differs, and which side we take (checked against the MATLAB code of the paper that circulates):
- n_c counts the items of class c in each modality by its own labels, as in the paper; the code takes m times the last
  modality's count, which is the same only while all modalities have the same labels.
- Each modality is centred, reduced to the principal components that hold `energy` of its variance, and scaled to the same
  mean variance. The paper does not centre; without a ridge, scaling changes nothing.
- The ridge r is ours, relative to the mean of D's diagonal, so that one value fits all features.
"""

from dataclasses import dataclass

import numpy as np

from baselines._scatter import leading_eigenvectors, reduced, ridged, scatter
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, clipped, register_method


@register_method(
    "mvda",
    needs={"vectors", "labels"},
    search={"dim": [5, None], "ridge": [0.01, 0.1, 1.0], "energy": [0.95, 0.99]},
)
@dataclass(kw_only=True)
class MvDA(Method):
    """One generalised eigenproblem, in float64; see the module's docstring."""

    dim: int | None = None  # eigenvectors kept; None: as many as S has rank, K - 1
    ridge: float = 0.01  # r, as a share of the mean of D's diagonal
    energy: float = 0.99  # share of each modality's variance that the principal components keep

    def __post_init__(self) -> None:
        check_positive(self, "ridge", "energy", *(["dim"] if self.dim is not None else []))
        if self.energy > 1:
            raise ValueError(f"mvda.energy must lie in (0, 1], got {self.energy}")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        data = reduced(train, self.energy)
        within, between = scatter(data.vectors, data.labels)
        w = leading_eigenvectors(between, ridged(within, between, self.ridge), self.dim or max(1, train.n_classes - 1))
        if self.dim is not None:
            clipped(self, "dim", w.shape[1], "the between-class scatter's rank")
        self.means_, self.weights_ = data.means, data.weights(w)

    def embed(self, modality: Modality) -> Embedding:
        centred = np.asarray(modality.vectors, dtype=np.float64) - self.means_[modality.name]
        return Embedding(modality.name, centred @ self.weights_[modality.name])
