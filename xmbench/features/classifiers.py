"""Any classification model of torchvision: what its last layer reads, and the feature map before.

`vgg19_fc7`, the image features of the papers on label noise, is torchvision's VGG-19 read so: the 4,096 numbers of its second
fully connected layer after the activation (Simonyan and Zisserman, ICLR 2015). The papers used the weights of the Caffe
release.
"""

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

_OPTIONS = {
    name: {"init_weights": False, "transform_input": True} for name in ("googlenet", "inception_v3")
}  # of their weights


class Classifier(Extractor):
    """Vectors are the input of the last linear layer; where there is none, of the last convolution, averaged. Regions are the
    last feature map before it, averaged over a grid; models without feature maps, such as ViT, have none.
    """

    def __init__(self, wanted: Wanted) -> None:
        import torch

        models = library("torchvision", "torchvision.models", wanted.name)
        name = "vgg19" if wanted.name == "vgg19_fc7" else wanted.model
        known = models.list_models(module=models)
        if name not in known:
            raise closest("classification model of torchvision", name, known)
        weights = models.get_model_weights(name).DEFAULT
        network = models.get_model(name, weights=None, **_OPTIONS.get(name, {}))
        told = {"weights": str(weights)}
        if wanted.weights is not None:
            told = load_weights(network, wanted.weights)
        else:
            place = f"put {weights.url} into {torch.hub.get_dir()}/checkpoints, or give the file by --weights image=FILE"
            with weights_wanted(wanted.name, place):
                network.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
        self._network, self._device = network.eval().to(wanted.device), wanted.device
        self._transform = weights.transforms()
        self._head, self._last_map = self._find()
        probe = self._features(self._probe())
        self.kinds = {kind: tuple(values.shape[1:]) for kind, values in probe.items()}
        self.recipe = {
            "extractor": wanted.name,
            "model": name,
            **told,
            "parameters_sha256": parameters_sha256(network),
            "preprocessing": f"{DECODED}; {self._transform!r}",
            "output": "what the last layer reads; last feature map over a 4 x 4 grid; not normalised",
            "versions": versions("torchvision", "torch", "pillow"),
        }

    def _probe(self) -> Any:
        """One grey image as the network takes it."""
        import torch

        return self._transform(torch.full((3, 300, 300), 128, dtype=torch.uint8)).unsqueeze(0).to(self._device)

    def _find(self) -> tuple[Any, Any]:
        """The last layer, and the last module before it whose output is a feature map, or None."""
        import torch
        from torch import nn

        called: list[Any] = []
        maps: dict[Any, bool] = {}

        def note(module: nn.Module, _: Any, output: Any) -> None:
            called.append(module)
            maps[module] = isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1

        hooks = [module.register_forward_hook(note) for module in self._network.modules()]
        with torch.inference_mode():
            self._network(self._probe())
        for hook in hooks:
            hook.remove()
        linear: list[Any] = [module for module in called if isinstance(module, nn.Linear)]
        head = (linear or [module for module in called if isinstance(module, nn.Conv2d)])[-1]
        if type(self._network).__name__ == "VisionTransformer":  # its one map is of what has not been through it
            return head, None
        return head, next((module for module in reversed(called[: called.index(head)]) if maps[module]), None)

    def _features(self, images: Any) -> dict[str, Any]:
        import torch

        found: dict[str, Any] = {}
        hooks = [self._head.register_forward_pre_hook(lambda _, inputs: found.update(vectors=inputs[0]))]
        if self._last_map is not None:
            hooks.append(self._last_map.register_forward_hook(lambda _, __, output: found.update(regions=output)))
        with torch.inference_mode():
            self._network(images)
        for hook in hooks:
            hook.remove()
        features = {"vectors": found["vectors"].mean(dim=(2, 3)) if found["vectors"].ndim == 4 else found["vectors"]}
        return features | ({"regions": grid_of(found["regions"])} if "regions" in found else {})

    def prepare(self, item: Any) -> Any:
        return self._transform(item)

    def compute(self, batch: list[Any]) -> dict[str, Array]:
        import torch

        return arrays(self._features(torch.stack(batch).to(self._device)))


load = Classifier
