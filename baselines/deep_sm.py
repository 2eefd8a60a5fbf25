"""deep-SM: a classifier network per modality, and class posteriors compared (deep semantic matching).

Yunchao Wei, Yao Zhao, Canyi Lu, Shikui Wei, Luoqi Liu, Zhenfeng Zhu, Shuicheng Yan, "Cross-Modal Retrieval With CNN Visual
Features: A New Baseline", IEEE Trans. Cybernetics 2017. With networks f_v of their own for every modality v:

    p(x) = softmax(f_v(x))                             class posterior, the common space
    L = -sum_v 1/N sum_j log p(x_j)_y
    similarity(x, x') = cos(p(x), p(x'))

Noise: none is assumed. Nothing ties the modalities but the meaning of the classes: no pairs are read.

This is a re-implementation from a description. Where this differs, and which side we take:
- The original fine-tunes a convolutional network for images beside a fully connected one for texts, and tries several
  distances. Here features are fixed: every modality has the trunk of the MRL paper with one output per class, and the
  distance is the cosine.
- Optimiser, schedule, batch and epochs are those of the released MRL command, as in `ce`, which is what the MRL paper calls
  deep-SM in its tables: cosines of embeddings with shared prototypes in place of posteriors.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from baselines._backbones import Instances, cosine_schedule, descend, input_of, trunk
from xmbench import Embedding, FitContext, Method, Modality, PairedSet, check_positive, register_method


@register_method(
    "deep_sm",
    needs={"vectors", "labels"},
    from_description=True,
    search={"lr": [3e-5, 1e-4, 3e-4, 1e-3]},
    smoke={"hidden": 64, "epochs": 12, "lr": 1e-3},
)
@dataclass(kw_only=True)
class DeepSM(Method):
    """Cross-entropy per modality, retrieval on the posteriors; see the module's docstring."""

    hidden: int = 4096  # width of the trunk
    epochs: int = 30
    batch_size: int = 100
    lr: float = 1e-4

    def __post_init__(self) -> None:
        check_positive(self, "hidden", "epochs", "batch_size", "lr")

    def fit(self, train: PairedSet, context: FitContext) -> None:
        nets = {m.name: trunk(m.vectors.shape[1], self.hidden, train.n_classes) for m in train.modalities}
        self.nets_ = nn.ModuleDict(nets).to(context.device)
        optimiser = torch.optim.Adam(self.nets_.parameters(), lr=self.lr, betas=(0.5, 0.999), fused=True)
        data = Instances(train, context)
        for epoch in context.epochs(self.epochs, state={"nets": self.nets_, "optimiser": optimiser}):
            optimiser.param_groups[0]["lr"] = cosine_schedule(self.lr, epoch, self.epochs)
            losses = []
            for batch in data.batches(self.batch_size):
                parts = zip(batch.vectors.items(), batch.labels, strict=True)
                terms = [cross_entropy(self.nets_[name](x), y) for (name, x), y in parts]
                losses.append(descend(torch.stack(terms).sum(), optimiser))
            context.end_epoch(loss=torch.stack(losses).mean())

    def posteriors(self, modality: Modality) -> Tensor:
        """Class posteriors (n, c) of the items of a modality, on the CPU."""
        with torch.inference_mode():
            return self.nets_[modality.name](input_of(modality, self.nets_)).softmax(dim=1).cpu()

    def embed(self, modality: Modality) -> Embedding:
        return Embedding(modality.name, self.posteriors(modality).numpy())

    def class_scores(self, modality: Modality) -> np.ndarray:
        return self.posteriors(modality).numpy()
