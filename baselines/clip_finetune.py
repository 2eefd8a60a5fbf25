"""CLIP, fine-tuned as a whole: vision transformer, text transformer and temperature, from a checkpoint on disk.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021. With the cosines s_ij of the
B images and captions of a batch and a learnt t, not above ln 100,

    L = 1/2B sum_i (log sum_j e^(e^t s_ij) - e^t s_ii) + (log sum_j e^(e^t s_ji) - e^t s_ii)

AdamW; the learning rate rises linearly over the first steps, then falls to 0 with half a cosine over the rest.

The settings are those of the CLIP baseline of Zhang et al., "Negative Pre-aware for Noisy Cross-Modal Matching", AAAI 2024
(NPC), with ViT-B/32, checked against ZhangXu0963/NPC, main_CLIP.py, scheduler.py and the command of its README. Its tables have
COCO 5K at R@1 55.5 / 38.8 under 20 % of shuffled captions. The LNC paper (IJCV 2024, Table 5) prints 21.4 / 14.8 for the same:
by a script of others that trains otherwise (SGD at 3e-3, a teacher, parts of the weights fresh), which is not this.

Where NPC's code and CLIP differ, and what we do:
- steps: the code counts an epoch as as many steps as there are pairs, of which one per batch is taken, so that the rate falls
  in jumps between epochs. Here steps are batches, and it falls smoothly.
- weight decay: on all weights as in the code; CLIP leaves gains and biases out.
- t: bounded as in CLIP; the code leaves it free.
- a last short batch is dealt out over the others; the code drops it.

What a run is called depends on its parameters, and so on the path of the checkpoint, not on what the file holds. With
`checkpoint_sha`, the first digits of its sha256, or all, the file is checked, and the run's id knows the content; without,
another file at the same path counts as done. Every fit records the sha256 of what it read as `checkpoint_sha256`.

Two captions of one image in a batch are each other's negatives, as in both. Noise: every pair is taken for true; what keeps the
model is that it moves so little.
"""

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from baselines._backbones import descend
from baselines._clip import load_clip, symmetric_cross_entropy
from baselines._matching import MatchingNetwork
from baselines._ranking import MatchingMethod, PairData, check_has_negatives, set_rate
from xmbench import FitContext, PairedSet, Shapes, check_positive, register_method

BETAS, EPSILON = (0.9, 0.98), 1e-6


def rate_at(step: int, n_steps: int, lr: float, warm_up: int) -> float:
    """The learning rate of a step out of 0..n_steps - 1: lr (step + 1) / warm_up, then lr (1 + cos(pi done)) / 2."""
    if step < warm_up:
        return lr * (step + 1) / warm_up
    return lr * (1 + math.cos(math.pi * (step - warm_up) / (n_steps - warm_up))) / 2


@register_method(
    "clip_finetune",
    needs={"sequences", "tokens", "pairs"},
    max_modalities=2,
    search={"lr": [1e-7, 5e-7, 1e-6, 5e-6]},
    smoke={"epochs": 6, "batch_size": 32, "lr": 0.004, "warm_up_steps": 10},
)
@dataclass(kw_only=True)
class ClipFinetune(MatchingMethod):
    """All of a CLIP, from its checkpoint on; see the module's docstring."""

    checkpoint: str = ""  # path of the weights, see `_clip.load_clip`
    checkpoint_sha: str = ""  # what its sha256 must begin with; "": not checked
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"  # what the checkpoint was trained with
    epochs: int = 5
    batch_size: int = 256  # B
    lr: float = 5e-7
    weight_decay: float = 0.2
    warm_up_steps: int = 500

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "lr")
        check_has_negatives(self, self.batch_size)
        if not re.fullmatch("[0-9a-f]{0,64}", self.checkpoint_sha):
            wanted = "up to 64 hexadecimal digits in lower case"
            raise ValueError(f"clip_finetune.checkpoint_sha must be {wanted}, got {self.checkpoint_sha!r}")
        for name in ("weight_decay", "warm_up_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"clip_finetune.{name} must be 0 or more, got {getattr(self, name)}")

    def obstacle(self, shapes: Shapes) -> str:
        if self.checkpoint:
            return ""
        return "clip_finetune needs a checkpoint: set clip_finetune.checkpoint=FILE, the weights of a CLIP"

    def fit(self, train: PairedSet, context: FitContext) -> None:
        if reason := self.obstacle(train.shapes()):
            raise ValueError(reason)
        data = PairData(train, context, self.reads)
        net, sha = self._load()
        nets = self.learns([net], data, context.device)
        optimiser = torch.optim.AdamW(
            nets.parameters(), lr=self.lr, betas=BETAS, eps=EPSILON, weight_decay=self.weight_decay, fused=True
        )
        per_epoch = max(1, len(data) // self.batch_size)
        for epoch in context.epochs(self.epochs, state={"nets": nets, "optimiser": optimiser}):
            total = torch.zeros((), device=context.device)
            nets.train()
            for number, batch in enumerate(data.batches(self.batch_size)):
                step = epoch * per_epoch + number
                set_rate(optimiser, rate_at(step, self.epochs * per_epoch, self.lr, self.warm_up_steps))
                logits = net(batch.images, batch.captions, batch.lengths)
                total += descend(symmetric_cross_entropy(logits), optimiser) * len(batch.numbers)
            context.end_epoch(loss=total / len(data))
        context.record("checkpoint_sha256", np.array(sha))

    def _load(self) -> tuple[MatchingNetwork, str]:
        """The network of the checkpoint, and the sha256 of the file.

        Raises:
            ValueError: another sha256 than the one that is given, or what `load_clip` refuses.
        """
        path = Path(self.checkpoint).expanduser()
        net = load_clip(path, self.activation)
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        if not sha.startswith(self.checkpoint_sha):
            wanted = f"its sha256 must begin with clip_finetune.checkpoint_sha={self.checkpoint_sha}"
            raise ValueError(f"{path}: {wanted}, got {sha}; get that file, or give this one's digits")
        return net, sha
