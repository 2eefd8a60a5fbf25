"""Any dual encoder of open_clip: images and captions as it compares them.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021. A model is named with what it
was trained on, ViT-B-32/laion2b_s34b_b79k: for images and captions by the same name, so that their vectors can be compared.
"""

from typing import Any

from xmbench.features.extractor import Extractor, Wanted, arrays, library, parameters_sha256, versions, weights_wanted
from xmbench.features.pictures import DECODED
from xmbench.registry import closest
from xmbench.types import Array


class Clip(Extractor):
    """Vectors of unit length."""

    def __init__(self, wanted: Wanted) -> None:
        clip = library("open_clip_torch", "open_clip", wanted.name)
        name, _, trained_on = wanted.model.partition("/")
        if name not in clip.list_models():
            raise closest("model of open_clip", name, clip.list_models())
        if not trained_on and wanted.weights is None:
            tags = ", ".join(clip.list_pretrained_tags_by_model(name)) or "none is public"
            raise ValueError(f"{wanted.name} must say what it was trained on, {wanted.name}/TAG; its tags: {tags}")
        place = (
            "fill the cache of Hugging Face on a machine with a network, or give a file by --weights image=FILE and text=FILE"
        )
        with weights_wanted(wanted.name, place):
            pretrained = str(wanted.weights) if wanted.weights is not None else trained_on
            model, _, transform = clip.create_model_and_transforms(name, pretrained=pretrained, device=wanted.device)
        self._model, self._device, self._of_images = model.eval(), wanted.device, wanted.modality == "image"
        self._transform, self._tokenise = transform, clip.get_tokenizer(name)
        self.kinds = {"vectors": tuple(self.compute([self._probe()])["vectors"].shape[1:])}
        steps = (
            " ".join(str(transform).split()) if self._of_images else f"{type(self._tokenise).__name__}, {model.context_length}"
        )
        self.recipe = {
            "extractor": wanted.name,
            "modality": wanted.modality,
            "weights": wanted.weights.name if wanted.weights is not None else trained_on,
            "parameters_sha256": parameters_sha256(model),
            "preprocessing": f"{DECODED}; {steps}" if self._of_images else steps,
            "output": "the encoder's output, L2-normalised",
            "versions": versions("open_clip_torch", "torch", "torchvision", "pillow"),
        }

    def _probe(self) -> Any:
        from PIL import Image

        return self.prepare(Image.new("RGB", (300, 300)) if self._of_images else "a word")

    def prepare(self, item: Any) -> Any:
        return self._transform(item) if self._of_images else self._tokenise([item])[0]

    def compute(self, batch: list[Any]) -> dict[str, Array]:
        import torch

        encode = self._model.encode_image if self._of_images else self._model.encode_text
        with torch.inference_mode():
            return arrays({"vectors": encode(torch.stack(batch).to(self._device), normalize=True)})


load = Clip
