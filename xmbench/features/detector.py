"""Regions that a Faster R-CNN finds, in the layout of bottom-up attention: 36 per image.

Anderson et al., Bottom-Up and Top-Down Attention, CVPR 2018, whose features SCAN and all that follows it read, is a Faster
R-CNN on ResNet-101, trained on 1,600 objects and 400 attributes of Visual Genome; a region is the average of its last
convolutional features, 2,048 numbers. That model runs in Caffe or Detectron alone. What runs here is torchvision's Faster
R-CNN on ResNet-50 with a feature pyramid, trained on the 80 objects of COCO: regions are chosen in the same way, by the
largest score of any object, but they are fewer kinds of things, and a region is the 1,024 numbers of the second layer of its
box head. Numbers of papers are not to be expected from it; for these get the released features, `f30k_precomp` and
`coco_precomp`.
"""

from typing import Any

from xmbench.features.extractor import (
    Extractor,
    Wanted,
    arrays,
    library,
    load_weights,
    parameters_sha256,
    versions,
    weights_wanted,
)
from xmbench.features.pictures import DECODED
from xmbench.types import Array

REGIONS = 36
OVERLAP = 0.3  # boxes of one object that overlap by more are one, as in the released code of Anderson et al.


class FasterRCNN(Extractor):
    """Regions are the 36 boxes of the highest scores, the best first; vectors their mean."""

    def __init__(self, wanted: Wanted) -> None:
        import torch

        detection = library("torchvision", "torchvision.models.detection", wanted.name)
        self._ops = library("torchvision", "torchvision.ops", wanted.name)
        self._to_tensor = library("torchvision", "torchvision.transforms.functional", wanted.name).to_tensor
        weights = detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT
        network = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        told = {"weights": str(weights)}
        if wanted.weights is not None:
            told = load_weights(network, wanted.weights)
        else:
            place = f"put {weights.url} into {torch.hub.get_dir()}/checkpoints, or give the file by --weights image=FILE"
            with weights_wanted(wanted.name, place):
                network.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
        self._network, self._device = network.eval().to(wanted.device), wanted.device
        width = network.roi_heads.box_head.fc7.out_features
        self.kinds = {"vectors": (width,), "regions": (REGIONS, width)}
        self.recipe = {
            "extractor": wanted.name,
            **told,
            "parameters_sha256": parameters_sha256(network),
            "preprocessing": f"{DECODED}; {' '.join(str(network.transform).split())}",
            "output": f"{REGIONS} boxes of the highest scores, overlap {OVERLAP}: second layer of the box head; their mean",
            "versions": versions("torchvision", "torch", "pillow"),
        }

    def prepare(self, item: Any) -> Any:
        return self._to_tensor(item)

    def compute(self, batch: list[Any]) -> dict[str, Array]:
        import torch

        with torch.inference_mode():  # one by one: beside a larger image one is padded, which its features show
            regions = torch.stack([self._regions(image.to(self._device)) for image in batch])
        return arrays({"vectors": regions.mean(dim=1), "regions": regions})

    def _regions(self, image: Any) -> Any:
        """The regions (36, d) of an image."""
        images, _ = self._network.transform([image])
        maps = self._network.backbone(images.tensors)
        boxes, _ = self._network.rpn(images, maps)
        heads = self._network.roi_heads
        features = heads.box_head(heads.box_roi_pool(maps, boxes, images.image_sizes))
        logits, moves = heads.box_predictor(features)
        return features[self._chosen(heads.box_coder.decode(moves, boxes), logits.softmax(dim=-1))]

    def _chosen(self, boxes: Any, scores: Any) -> Any:
        """Rows of the 36 regions of an image; where fewer are left, its best ones stand in it again.

        Args:
            boxes: (k, c, 4), as each of the c objects would have them.
            scores: (k, c), the first of them that of the background.
        """
        import torch

        best = torch.zeros(len(scores), device=scores.device)
        for one in range(1, scores.shape[1]):
            kept = self._ops.nms(boxes[:, one], scores[:, one], OVERLAP)
            best[kept] = torch.maximum(best[kept], scores[kept, one])
        order = best.argsort(descending=True, stable=True)[: min(REGIONS, len(best))]
        return order.repeat(-(-REGIONS // len(order)))[:REGIONS]


load = FasterRCNN
