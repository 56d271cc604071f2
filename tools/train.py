#!/usr/bin/env python3
"""Train a detector. Without arguments: the quick preset on generated images, about five minutes.

examples:
  python tools/train.py
  python tools/train.py --dataset voc --data-root VOCdevkit --imageset 2007_trainval \\
      --val-imageset 2007_test --pretrained vgg16_conv_f16.npz --out runs/voc07
  python tools/train.py --pretrained runs/r50 --dataset coco --data-root fruits_nuts \\
      --imageset trainval --out runs/fruits
  python tools/train.py --resume runs/voc07
  python tools/launch.py -n 2 -- python tools/train.py --kvstore dist_sync    # see its --help
"""

import argparse
import sys
from typing import Any

from _common import add_data, add_skip_bad, add_words, new_parser, request_of


def parse_args() -> argparse.Namespace:
    parser = new_parser(__doc__)
    add_what(parser.add_argument_group("what to train"))
    add_images(parser.add_argument_group("data"))
    add_schedule(parser.add_argument_group("how to train"))
    add_machine(parser.add_argument_group("GPUs and workers"))
    add_settings(parser.add_argument_group("settings"))
    return parser.parse_args()


def add_what(group: Any) -> None:
    """The network, the parameters to start from, and the run."""
    group.add_argument("--network", help="default: of --pretrained, else faster_rcnn_vgg16")
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="classic: the paper's settings; quick: a narrow network on small images, trained from "
        "scratch; matterport: that Mask R-CNN's settings. Default: quick for the synthetic data "
        "set, else classic. Other flags override it",
    )
    group.add_argument(
        "--pretrained",
        dest="train.pretrained",
        metavar="RUN|FILE",
        help="start from this run, or .params .npz .pth .safetensors file; layers of another shape "
        "are newly initialised. A run or another project's file also determines the network and "
        "the preprocessing",
    )
    group.add_argument(
        "--channel-order",
        dest="train.channel_order",
        choices=("rgb", "bgr"),
        help="the channel order that the file's first layer expects; default: BGR for VGG16's .npz "
        "files, which come from Caffe, else RGB",
    )
    group.add_argument("--out", metavar="DIR", help="run folder; default: runs/NETWORK_DATASET")
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="continue a run with its own settings. Only --epochs, --val-metric, --data-root, "
        "--checkpoint-steps and --log-interval may change; the run keeps the new values",
    )
    group.add_argument(
        "--data-changed",
        action="store_true",
        help="with --resume: continue although the data set has changed, from the start of the "
        "next epoch; without it, changed data are an error that says what differs",
    )


def add_images(group: Any) -> None:
    """The data set, the images to train and validate on, and how they are loaded."""
    add_data(group, "synthetic", "data/synthetic for synthetic")
    group.add_argument(
        "--imageset",
        dest="data.imageset",
        metavar="NAME",
        help="such as 2007_trainval+2012_trainval, or train2017",
    )
    group.add_argument(
        "--val-imageset",
        dest="data.val_imageset",
        metavar="NAME",
        help="images to validate on (see --val-every)",
    )
    group.add_argument(
        "--num-workers", type=int, metavar="N", help="loader processes; 0: one thread"
    )
    add_skip_bad(group)


def add_schedule(group: Any) -> None:
    """Steps, learning rate, validation, checkpoints and logs."""
    number = {"type": int, "metavar": "N"}
    group.add_argument(
        "--batch-size",
        dest="train.batch_size",
        help="images per step of each worker, over all its devices",
        **number,
    )
    group.add_argument("--epochs", dest="train.epochs", **number)
    group.add_argument("--lr", dest="train.lr", type=float, metavar="LR", help="learning rate")
    group.add_argument(
        "--lr-decay-epoch",
        dest="train.lr_decay_epoch",
        metavar="7,9",
        help="epochs after which lr is divided by ten",
    )
    group.add_argument(
        "--val-every", dest="train.val_every", help="epochs between validations", **number
    )
    group.add_argument(
        "--val-metric",
        dest="train.val_metric",
        choices=("auto", "voc07", "voc12", "coco"),
        help="the metric of validations, which chooses the best checkpoint; auto (default): COCO's "
        "AP@[.50:.95] for COCO data (of masks, if the network has them), VOC07 mAP for VOC",
    )
    group.add_argument(
        "--checkpoint-steps",
        dest="train.checkpoint_steps",
        help="also save every N steps",
        **number,
    )
    group.add_argument("--seed", dest="train.seed", **number)
    group.add_argument(
        "--precision",
        dest="train.precision",
        choices=("fp32", "bf16"),
        help="bf16: convolutions in bfloat16, several times faster on CPUs with AMX",
    )
    group.add_argument(
        "--log-interval", dest="train.log_interval", help="steps between log rows", **number
    )
    group.add_argument(
        "--tensorboard",
        dest="train.tensorboard",
        action="store_true",
        default=None,
        help="write TensorBoard event files",
    )


def add_machine(group: Any) -> None:
    """GPUs, and how several workers train together."""
    group.add_argument("--gpus", metavar="0,1", help="GPUs to use; default: the CPU")
    group.add_argument(
        "--kvstore",
        choices=("local", "dist_sync", "dist_device_sync", "dist_async"),
        help="how the workers of tools/launch.py train together: synchronously (default: "
        "dist_sync; dist_device_sync sums gradients on GPUs), or each at its own pace (dist_async)",
    )
    group.add_argument(
        "--lr-scaling",
        dest="train.lr_scaling",
        choices=("linear", "none"),
        help="linear (default): N synchronous workers train at N times --lr, after a warm-up",
    )


def add_settings(group: Any) -> None:
    """Settings without a flag of their own; what settings there are, and what they are set to."""
    add_words(group)
    group.add_argument(
        "--print-config",
        action="store_true",
        help="print the settings that differ from the defaults and what set each, and exit",
    )
    group.add_argument(
        "--list-settings",
        action="store_true",
        help="print all settings of --network with type, default and meaning, and exit",
    )


def main() -> int:
    args = parse_args()
    from mxrcnn.training.server import serve_if_asked

    if serve_if_asked():  # one of the processes of tools/launch.py, but no worker
        return 0
    from mxrcnn.errors import report_user_errors

    with report_user_errors():
        if args.list_settings:
            from mxrcnn.config import make_config
            from mxrcnn.config.settings import list_settings

            print(list_settings(make_config(*([args.network] if args.network else []))))
            return 0
        from mxrcnn.training.configure import TrainRequest, print_config
        from mxrcnn.training.run import run_training

        request = request_of(TrainRequest, args)
        if args.print_config:
            print(print_config(request))
            return 0
        return run_training(request)


if __name__ == "__main__":
    sys.exit(main())
