"""Any model of timm that classifies images: its pooled features, and its last feature map or patches."""

from typing import Any

from xmbench.features.extractor import (
    Extractor,
    Wanted,
    arrays,
    grid_of,
    library,
    load_weights,
    parameters_sha256,
    versions,
    weights_wanted,
)
from xmbench.features.pictures import DECODED
from xmbench.registry import closest
from xmbench.types import Array


class TimmModel(Extractor):
    """Vectors are what the classifier reads; regions the last feature map, or the patches, averaged over a grid."""

    def __init__(self, wanted: Wanted) -> None:
        import torch

        timm = library("timm", "timm", wanted.name)
        known = timm.list_models()
        if wanted.model.partition(".")[0] not in known:
            raise closest("model of timm", wanted.model, known)
        if wanted.weights is not None:
            network = timm.create_model(wanted.model, pretrained=False)
            told = load_weights(network, wanted.weights)
            network.reset_classifier(0)
        else:
            place = "fill the cache of Hugging Face on a machine with a network, or give a file by --weights image=FILE"
            with weights_wanted(wanted.name, place):
                network = timm.create_model(wanted.model, pretrained=True, num_classes=0)
            told = {"weights": str(network.pretrained_cfg.get("hf_hub_id") or network.pretrained_cfg.get("url"))}
        self._network, self._device = network.eval().to(wanted.device), wanted.device
        config = timm.data.resolve_model_data_config(network)
        self._transform = timm.data.create_transform(**config, is_training=False)
        probe = self._features(torch.zeros(1, *config["input_size"], device=wanted.device))
        self.kinds = {kind: tuple(values.shape[1:]) for kind, values in probe.items()}
        self.recipe = {
            "extractor": wanted.name,
            **told,
            "parameters_sha256": parameters_sha256(network),
            "preprocessing": f"{DECODED}; {' '.join(str(self._transform).split())}",
            "output": "what the classifier reads; last feature map over a 4 x 4 grid; not normalised",
            "versions": versions("timm", "torch", "torchvision", "pillow"),
        }

    def _features(self, images: Any) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            last = self._network.forward_features(images)
            found = {"vectors": self._network.forward_head(last, pre_logits=True)}
            if last.ndim == 3:  # patches, behind the class token and its like
                patches = last[:, getattr(self._network, "num_prefix_tokens", 0) :]
                side = round(patches.shape[1] ** 0.5)
                last = patches.transpose(1, 2).reshape(len(patches), -1, side, side) if side**2 == patches.shape[1] else patches
            elif last.ndim == 4 and last.shape[1] != self._network.num_features:  # (k, h, w, d)
                last = last.permute(0, 3, 1, 2)
            return found | ({"regions": grid_of(last)} if last.ndim == 4 else {})

    def prepare(self, item: Any) -> Any:
        return self._transform(item)

    def compute(self, batch: list[Any]) -> dict[str, Array]:
        import torch

        return arrays(self._features(torch.stack(batch).to(self._device)))


load = TimmModel
