"""torchvision's detectors as a side of mxrcnn bench; see sides.py for the protocol.

This file runs in an interpreter that has torch and torchvision, and imports nothing of this
toolkit. The networks are those that torchvision builds for pretrained weights: frozen batch norm,
the last three stages of the body trained. VGG16 is built like the classic detector, with conv1 and
conv2 frozen. Parameters and image are read from the .npz file that our side wrote.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

import numpy as np
import torch
import torchvision
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign


class FlatHead(torch.nn.Module):
    """fc6 and fc7 of VGG16 with dropout: (R, 512, 7, 7) -> (R, 4096)."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, pooled):
        return self.layers(pooled.flatten(1))


def vgg16(classes, **options):
    vgg = torchvision.models.vgg16(weights=None)
    body = vgg.features[:-1]  # without pool5
    body.out_channels = 512
    body[:10].requires_grad_(False)  # conv1 and conv2
    return FasterRCNN(
        body,
        rpn_anchor_generator=AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
        rpn_pre_nms_top_n_train=12000,
        rpn_post_nms_top_n_train=2000,
        rpn_pre_nms_top_n_test=6000,
        rpn_post_nms_top_n_test=300,
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        box_head=FlatHead(vgg.classifier[:-1]),
        box_predictor=FastRCNNPredictor(4096, classes),
        box_batch_size_per_image=128,
        box_score_thresh=0.0,
        **options,
    )


def with_pyramid(family):
    def build(classes, **options):
        body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, trainable_layers=3)
        return family(body, classes, **options)

    return build


NETWORKS = {
    "faster_rcnn_vgg16": vgg16,
    "faster_rcnn_r50_fpn": with_pyramid(FasterRCNN),
    "mask_rcnn_r50_fpn": with_pyramid(MaskRCNN),
}


def load(model, stored):
    """Load the parameters of the file: the arrays whose names start with `param:`."""
    state = {key[6:]: torch.from_numpy(stored[key]) for key in stored.files if key[:6] == "param:"}
    model.load_state_dict(state)


def make_step(model, spec, stored):
    """Make a function that does one training step, or one inference from image to boxes."""
    image = [torch.from_numpy(stored["image"])]
    target = {"boxes": torch.from_numpy(stored["boxes"])}
    target["labels"] = torch.from_numpy(stored["labels"])
    if "masks" in stored.files:
        target["masks"] = torch.from_numpy(stored["masks"])
    cast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=spec["precision"] == "bf16")
    moving = [p for p in model.parameters() if p.requires_grad]
    rule = torch.optim.SGD(moving, lr=spec["lr"], momentum=0.9, weight_decay=5e-4)

    def train():
        with cast:
            loss = sum(model(image, [target]).values())
        rule.zero_grad()
        loss.backward()
        rule.step()
        return {"loss": float(loss.detach())}

    def infer():
        with torch.inference_mode(), cast:
            return {"detections": len(model(image)[0]["boxes"])}

    return train if spec["mode"] == "train" else infer


def timed(step):
    start = time.perf_counter()
    found = step()
    return {"seconds": time.perf_counter() - start, **found}


def main():
    spec = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep what libraries print out of the answers

    def answer(found):
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    torch.set_num_threads(spec["threads"])
    torch.manual_seed(0)
    stored = np.load(spec["arrays"])
    options = {"min_size": spec["short_side"], "max_size": spec["long_side"]}
    options.update(image_mean=spec["mean"], image_std=spec["std"])
    model = NETWORKS[spec["network"]](spec["classes"], **options)
    load(model, stored)
    if spec["layout"] == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    model.train(spec["mode"] == "train")
    step = make_step(model, spec, stored)
    for _ in range(spec["warmup"]):
        step()
    answer({"torch": torch.__version__, "torchvision": torchvision.__version__})
    for word in sys.stdin:
        if word.strip() == "step":
            answer(timed(step))
        else:
            usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            answer({"max_rss_mb": usage // 1024})


if __name__ == "__main__":
    main()
