"""Convert another project's parameter file into a run.

Supports files from torchvision, mx-rcnn, MXNet, gluoncv and matterport's Mask R-CNN, which are
recognised by their names and shapes. No pickle is run: only tensors are read from a .pth.

examples:
  mxrcnn convert fasterrcnn_resnet50_fpn_coco --to runs/r50
  mxrcnn convert resnet101-63fe2227.pth --to runs/body --network mask_rcnn_r101_fpn
  mxrcnn convert detector.safetensors --to runs/cells --class-names RBC,WBC,Platelets
  mxrcnn predict runs/r50 street.jpg
  mxrcnn train --pretrained runs/r50 --dataset voc --data-root VOCdevkit ...
"""

from __future__ import annotations

import argparse

from mxrcnn.cli.common import add_words, request_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", help=".pth .pt .safetensors .params .npz .h5, or a name of mxrcnn weights list")
    add("--to", required=True, metavar="RUN", help="the run folder to write")
    add("--network", help="default: the file's own network; see README.md")
    add(
        "--class-names",
        metavar="A,B,...|voc|coco",
        help="the detector's classes, in order; default: VOC's if there are 20, COCO's if there "
        "are 80, or 90 with 10 unused ids; 90 names keep all 90 classes",
    )
    add(
        "--channel-order",
        choices=("rgb", "bgr"),
        help="the channel order that the first layer expects; default: BGR for VGG16's .npz files, "
        "which come from Caffe, else RGB",
    )
    add(
        "--partial",
        action="store_true",
        help="take what fits, even if the file and the network do not match exactly",
    )
    add_words(parser)


def run(args: argparse.Namespace) -> int:
    from mxrcnn.errors import report_user_errors
    from mxrcnn.weights.convert import ConvertRequest, run_convert

    with report_user_errors():
        order = args.channel_order or "auto"
        request = request_of(ConvertRequest, args, channel_order=order)
        print(*run_convert(request), sep="\n")
    return 0
