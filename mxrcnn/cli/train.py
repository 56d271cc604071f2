"""Train a detector. Without arguments: the quick preset on generated images, about five minutes.

examples:
  mxrcnn train
  mxrcnn train --data photos --minutes 30
  mxrcnn train --data photos --val 0.2 --network fcos_regnetx_400mf --preset quick
  mxrcnn train --dataset voc --data-root VOCdevkit --imageset 2007_trainval \\
      --val-imageset 2007_test --pretrained vgg16 --out runs/voc07
  mxrcnn train --data aerial --val 0.2 --tile 1024
  mxrcnn train --pretrained runs/r50 --dataset coco --data-root fruits_nuts \\
      --imageset trainval --out runs/fruits
  mxrcnn train --resume runs/voc07
  mxrcnn launch -n 2 -- mxrcnn train --kvstore dist_sync    # see its --help
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

from mxrcnn.cli.common import (
    METRICS,
    SKIP_BAD,
    TILES,
    add_data,
    add_data_path,
    add_settings,
    add_val,
    add_words,
    request_of,
    use_data,
    use_val,
)

#: flags that set settings: (type or choices, metavar, help)
PRETRAINED = {
    "train.pretrained": (
        str,
        "RUN|FILE|NAME",
        "start from this run, .params .npz .pth .safetensors file, or known weights by name "
        "(mxrcnn weights list); layers of another shape are newly initialised. A run or another "
        "project's file also determines the network and the preprocessing",
    ),
    "train.channel_order": (
        ("rgb", "bgr"),
        "",
        "the channel order that the file's first layer expects; default: BGR for VGG16's .npz "
        "files, which come from Caffe, else RGB",
    ),
}
IMAGES = {
    "data.imageset": (str, "NAME", "such as 2007_trainval+2012_trainval, or train2017"),
    "data.val_imageset": (str, "NAME", "images to validate on (see --val-every)"),
    **SKIP_BAD,
    **TILES,
}
TRAINING = {
    "data.augment": (
        str,
        "none|basic|strong|LIST",
        "how images are varied: not at all, mirrored (default), strongly, or by a list such as "
        "basic,photometric,mosaic:0.5 (docs/augment.md)",
    ),
    "train.batch_size": (int, "N", "images per pass of each worker, over all its devices"),
    "train.accumulate": (
        int,
        "N",
        "passes per step, default 1: trains as with N times --batch-size, in the memory of one",
    ),
    "train.epochs": (int, "N", "passes over the data"),
    "train.lr": (
        float,
        "LR",
        "learning rate; default: the network's, scaled with the images a step (--lr-scaling)",
    ),
    "train.schedule": (
        ("step", "cosine", "poly"),
        "",
        "how the learning rate falls; default: step, at --lr-decay-epoch",
    ),
    "train.lr_decay_epoch": (
        str,
        "7,9",
        "epochs after which lr is divided by ten; default: the network's, scaled with --epochs",
    ),
    "train.optimizer": (
        ("sgd", "adamw"),
        "",
        "default: sgd, with momentum; adamw has a learning rate and a weight decay of its own",
    ),
    "train.ema": (
        float,
        "DECAY",
        "average the weights, such as 0.999; the averages are validated and saved as the model",
    ),
    "train.patience": (int, "N", "end after N validations without a better one"),
    "train.val_every": (int, "N", "epochs between validations"),
    "train.val_metric": (
        METRICS,
        "",
        "the metric of validations, which chooses the best checkpoint; auto (default): COCO's "
        "AP@[.50:.95] for COCO data (of masks, if the network has them), VOC07 mAP for VOC",
    ),
    "train.checkpoint_steps": (int, "N", "also save every N steps"),
    "train.seed": (int, "N", "seed of initial values, image order, sampling and dropout"),
    "train.precision": (
        ("fp32", "bf16"),
        "",
        "bf16: convolutions in bfloat16, several times faster on CPUs with AMX",
    ),
    "train.log_interval": (int, "N", "steps between log rows"),
    "train.tensorboard": (bool, "", "write TensorBoard event files"),
}
WORKERS = {
    "train.kvstore": (
        ("local", "dist_sync", "dist_device_sync", "dist_async"),
        "",
        "how the workers of mxrcnn launch train together: synchronously (default: dist_sync; "
        "dist_device_sync sums gradients on GPUs), or each at its own pace (dist_async)",
    ),
    "train.lr_scaling": (
        ("linear", "sqrt", "none"),
        "",
        "linear (default): N synchronous workers train at N times --lr, after a warm-up, and the "
        "default --lr is N times as large for N times the images a step; sqrt: sqrt(N) times",
    ),
}


def _add_start(group: Any) -> None:
    """Add what a run starts from."""
    group.add_argument(
        "--network",
        help="default: of --pretrained; else chosen by your data and this machine, as all else "
        "that you do not give; without data faster_rcnn_vgg16",
    )
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="classic: the paper's settings; quick: a narrow network on small images, trained from "
        "scratch; matterport: that Mask R-CNN's settings. Default: quick for the synthetic data "
        "set, else classic. Other flags override it",
    )
    group.add_argument(
        "--minutes",
        type=float,
        metavar="N",
        help="train for as many epochs as end within N minutes, validations included; without "
        "--network the image size is chosen for that, too",
    )
    group.add_argument(
        "--anchors",
        choices=("auto",),
        help="auto: fit the anchors to the training objects, as mxrcnn check suggests",
    )
    add_settings(group, PRETRAINED)
    group.add_argument("--out", metavar="DIR", help="run folder; default: runs/NETWORK_DATASET")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="start a new run with the settings of another run's config.json; other flags and "
        "--set change them",
    )
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="continue a run with its own settings. Only --epochs, --val-metric, --patience, "
        "--data-root, --images, --checkpoint-steps and --log-interval may change; the run keeps "
        "the new values",
    )
    group.add_argument(
        "--data-changed",
        action="store_true",
        help="with --resume: continue although the data set has changed, from the start of the "
        "next epoch; without it, changed data are an error that says what differs",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _add_start(parser.add_argument_group("what to train"))
    group = parser.add_argument_group("data")
    add_data_path(group)
    add_data(group, "synthetic", "data/synthetic for synthetic")
    add_settings(group, IMAGES)
    add_val(group)
    group.add_argument(
        "--num-workers", type=int, metavar="N", help="loader processes; 0: one thread"
    )
    add_settings(parser.add_argument_group("how to train"), TRAINING)
    group = parser.add_argument_group("GPUs and workers")
    group.add_argument("--gpus", metavar="0,1", help="GPUs to use; default: the CPU")
    add_settings(group, WORKERS)
    group = parser.add_argument_group("settings")
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


def run(args: argparse.Namespace) -> int:
    from mxrcnn.training.server import serve_if_asked

    began = time.monotonic()
    if serve_if_asked():  # one of the processes of mxrcnn launch, but no worker
        return 0
    from mxrcnn.errors import report_user_errors

    with report_user_errors():
        if args.list_settings:
            from mxrcnn.config import make_config
            from mxrcnn.config.listing import list_settings

            print(list_settings(make_config(*([args.network] if args.network else []))))
            return 0
        use_data(args, "data.imageset", "TRAINING", "data.val_imageset")
        use_val(args)
        from mxrcnn.training.choose import wants_choice
        from mxrcnn.training.configure import TrainRequest
        from mxrcnn.training.run import run_training, show_config

        request = request_of(TrainRequest, args, began=began)
        request = dataclasses.replace(request, choose=wants_choice(request))
        if args.print_config:
            print(show_config(request))
            return 0
        return run_training(request)
