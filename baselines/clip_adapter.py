"""An adapter on the embeddings of a frozen large model: a small map per modality, learnt by InfoNCE, triplets or LNC.

After Gao et al., "CLIP-Adapter: Better Vision-Language Models with Feature Adapters", IJCV 2024, where the map is a
bottleneck of two layers that is blended with the embedding itself, f + A(f) up to the blend's factor. With the cosines s of
the adapted images and captions, a batch of B pairs costs

    infonce    the symmetric cross-entropy of e^t s with its pairs, t learnt up to ln 100 (Radford et al., ICML 2021)
    triplet    sum_n max_k [alpha + s_nk - s_nn]_+ + sum_n max_k [alpha + s_kn - s_nn]_+ over k != n (VSE++, BMVC 2018)
    lnc        all of LNC (Huang et al., IJCV 2024): two adapters, its warm-up, co-divide and co-rectify; it is `lnc` with this
               adapter as the backbone, whose other settings are the defaults there

Where both modalities have `dim` numbers training starts from zero-shot retrieval, see `_adapter`; elsewhere from random
weights.

Where this differs: Gao et al. classify images with fixed texts, have hidden layers of a quarter of the width, and choose the
blend per dataset; here both sides are adapted, hidden layers are `dim` wide, and the blend is learnt with the last layer's
scale. In lnc two networks that begin at the embeddings are equal at first and differ by their batches alone.

Noise: infonce and triplet take every pair for true, lnc does not.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from baselines._adapter import adapter_network
from baselines._clip import ScaledCosine, symmetric_cross_entropy
from baselines._co_rectify import CoRectify
from baselines._correspondence import hard_triplet
from baselines._ranking import MatchingMethod, PairData, check_has_negatives, step_down
from xmbench import Embedding, FitContext, Modality, PairedSet, build_method, check_positive, register_method


@register_method(
    "clip_adapter",
    needs={"vectors", "pairs"},
    max_modalities=2,
    search={"adapter": ["linear", "mlp"], "lr": [0.0001, 0.001], "tau": [0.01, 0.05]},
    smoke={"dim": 32, "tau": 0.07, "epochs": 15, "batch_size": 64, "lr": 0.003},
)
@dataclass(kw_only=True)
class ClipAdapter(MatchingMethod):
    """A map per modality on vectors that stay as they are; see the module's docstring."""

    adapter: Literal["linear", "mlp"] = "linear"
    loss: Literal["infonce", "triplet", "lnc"] = "infonce"
    dim: int = 512  # D, of the common space; CLIP's own for ViT-B/32
    tau: float = 0.01  # e^-t at first, where the training of CLIP ends
    margin: float = 0.2  # alpha, of triplets and LNC
    epochs: int = 20
    batch_size: int = 128  # B
    lr: float = 1e-3

    def __post_init__(self) -> None:
        check_positive(self, "dim", "tau", "margin", "epochs", "lr")
        check_has_negatives(self, self.batch_size)
        self.lnc_: CoRectify | None = None

    @property
    def reads(self) -> tuple[str, str]:
        return "vectors", "vectors"

    def fit(self, train: PairedSet, context: FitContext) -> None:
        if self.loss == "lnc":
            self.lnc_ = self._lnc()
            self.lnc_.fit(train, context)
        else:
            self._fit_alone(PairData(train, context, self.reads), context)

    def _lnc(self) -> CoRectify:
        shape = {"backbone": self.adapter, "dim": self.dim, "margin": self.margin}
        lnc = build_method("lnc", **shape, epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)
        assert isinstance(lnc, CoRectify)
        return lnc

    def _fit_alone(self, data: PairData, context: FitContext) -> None:
        net = adapter_network(self.adapter, **data.sizes, dim=self.dim)
        if self.loss == "infonce":
            net.similarity = ScaledCosine(self.tau)
        nets = self.learns([net], data, context.device)
        optimiser = torch.optim.Adam(nets.parameters(), lr=self.lr, fused=True)
        for _ in context.epochs(self.epochs, state={"nets": nets, "optimiser": optimiser}):
            total = torch.zeros((), device=context.device)
            nets.train()
            for batch in data.batches(self.batch_size):
                loss = self.batch_loss(net(batch.images, batch.captions, batch.lengths))
                total += step_down(loss, net, optimiser)
            context.end_epoch(loss=total / len(data))

    def batch_loss(self, scores: Tensor) -> Tensor:
        """The loss of a batch with scores (B, B), summed over its pairs."""
        if self.loss == "triplet":
            return hard_triplet(scores, self.margin)
        return symmetric_cross_entropy(scores) * len(scores)

    def embed(self, modality: Modality) -> list[Embedding]:
        return super().embed(modality) if self.lnc_ is None else self.lnc_.embed(modality)

    def clean_weights(self) -> list[NDArray[float64]] | None:
        return None if self.lnc_ is None else self.lnc_.clean_weights()
