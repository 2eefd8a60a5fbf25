"""Zero-shot retrieval: embeddings that one large model has made of images and texts, compared as they are.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 3.1: the cosine of
the two vectors, no training. The vectors are the dataset's; the model that made them is whatever its files came from, so that
`coco_clip` with vectors of ViT-B/32 gives that row. A prompt before every caption, such as the "a photo of" of Radford et al.,
is the business of who makes the vectors.

Noise: nothing is learnt, nothing can go wrong; the same numbers at every rate.
"""

from dataclasses import dataclass

import numpy as np

from xmbench import Embedding, FitContext, Method, Modality, PairedSet, Shapes, register_method


@register_method("zero_shot", needs={"vectors"})
@dataclass(kw_only=True)
class ZeroShot(Method):
    """Cosine of vectors in a space that they share already; see the module's docstring."""

    def obstacle(self, shapes: Shapes) -> str:
        widths = {name: kinds["vectors"][1] for name, kinds in shapes.items()}
        if len(set(widths.values())) == 1:
            return ""
        got = " and ".join(f"{width} numbers ({name})" for name, width in widths.items())
        remedy = "take the vectors of one dual encoder, or learn a common space by clip_adapter or cca"
        return f"zero_shot compares vectors of one model, which are equally wide, got {got}; {remedy}"

    def fit(self, train: PairedSet, context: FitContext) -> None:
        if reason := self.obstacle(train.shapes()):
            raise ValueError(reason)

    def embed(self, modality: Modality) -> Embedding:
        return Embedding(modality.name, np.asarray(modality.vectors))
