#!/usr/bin/env python3
"""Train a detector. Without arguments: the quick preset on self-made images, about five minutes.

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

from _common import add_data, add_skip_bad, add_words, given_settings, new_parser


def parse_args() -> argparse.Namespace:
    parser = new_parser(__doc__)
    what = parser.add_argument_group("what to train")
    what.add_argument("--network", help="default: of --pretrained, else faster_rcnn_vgg16")
    what.add_argument(
        "--preset",
        metavar="NAME",
        help="classic: the paper's settings; quick: a narrow network on small images, anew; "
        "matterport: that Mask R-CNN's settings. "
        "Default: quick for the synthetic data set, else classic. Other flags win over it",
    )
    what.add_argument(
        "--pretrained",
        metavar="RUN|FILE",
        help="start from this run, or .params .npz .pth .safetensors file; layers of another shape "
        "start anew. A run or another project's file also brings its network and how its images "
        "become inputs",
    )
    what.add_argument(
        "--channel-order",
        choices=("rgb", "bgr"),
        help="what the first layer of that file expects, if it is not what is assumed: BGR of "
        "VGG16's .npz, which come from Caffe, else RGB",
    )
    what.add_argument(
        "--out", metavar="DIR", help="the run's folder (default: runs/NETWORK_DATASET)"
    )
    what.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with a run; takes its settings. --epochs, --val-metric, --data-root, "
        "--checkpoint-steps and --log-interval may be changed, and stay so",
    )
    what.add_argument(
        "--data-changed",
        action="store_true",
        help="with --resume: go on although the data are others than before, from the next "
        "epoch's start; without it that is an error that says what differs",
    )

    data = parser.add_argument_group("data")
    add_data(data, "synthetic", "data/synthetic for synthetic")
    data.add_argument("--imageset", help="such as 2007_trainval+2012_trainval, or train2017")
    data.add_argument("--val-imageset", help="images to validate on (see --val-every)")
    data.add_argument("--num-workers", type=int, metavar="N", help="loader processes; 0: a thread")
    add_skip_bad(data)

    how = parser.add_argument_group("how")
    how.add_argument("--gpus", metavar="0,1", help="GPUs to use; without it, the CPU")
    how.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images a step of each worker, over all its devices",
    )
    how.add_argument("--epochs", type=int, metavar="N")
    how.add_argument("--lr", type=float)
    how.add_argument("--lr-decay-epoch", metavar="7,9", help="epochs after which lr falls tenfold")
    how.add_argument("--val-every", type=int, metavar="N", help="epochs between validations")
    how.add_argument(
        "--val-metric",
        choices=("auto", "voc07", "voc12", "coco"),
        help="what validation scores, which decides which checkpoint is the best; auto (default): "
        "COCO's AP@[.50:.95] for COCO data (of masks, if the network has them), VOC07 mAP for VOC",
    )
    how.add_argument("--checkpoint-steps", type=int, metavar="N", help="also save every N steps")
    how.add_argument("--seed", type=int)
    how.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="bf16: convolutions in bfloat16, several times faster on CPUs with AMX",
    )
    how.add_argument(
        "--kvstore",
        choices=("local", "dist_sync", "dist_device_sync", "dist_async"),
        help="how the workers that tools/launch.py starts train together: in step (default: "
        "dist_sync; dist_device_sync adds up on GPUs), or each at its own pace (dist_async)",
    )
    how.add_argument(
        "--lr-scaling",
        choices=("linear", "none"),
        help="linear (default): N workers in step train at N times --lr, after a warm-up",
    )
    how.add_argument("--log-interval", type=int, metavar="N", help="steps between log rows")
    how.add_argument("--tensorboard", action="store_true", default=None, help="write event files")
    add_words(how)
    how.add_argument(
        "--list-settings",
        action="store_true",
        help="print all settings of --network with type, default and what they are, and end",
    )
    return parser.parse_args()


#: command line options and the settings that they are short for
SETTINGS = {
    "pretrained": "train.pretrained",
    "channel_order": "train.channel_order",
    "dataset": "data.dataset",
    "data_root": "data.root",
    "imageset": "data.imageset",
    "val_imageset": "data.val_imageset",
    "skip_bad": "data.skip_bad",
    "batch_size": "train.batch_size",
    "epochs": "train.epochs",
    "lr": "train.lr",
    "lr_scaling": "train.lr_scaling",
    "lr_decay_epoch": "train.lr_decay_epoch",
    "val_every": "train.val_every",
    "val_metric": "train.val_metric",
    "checkpoint_steps": "train.checkpoint_steps",
    "seed": "train.seed",
    "precision": "train.precision",
    "log_interval": "train.log_interval",
    "tensorboard": "train.tensorboard",
}


def main() -> int:
    args = parse_args()
    from mxrcnn.training.server import serve_if_asked

    if serve_if_asked():  # one of the processes of tools/launch.py, but no worker
        return 0
    from mxrcnn.errors import report_user_errors
    from mxrcnn.training.run import TrainRequest, run_training

    with report_user_errors():
        if args.list_settings:
            from mxrcnn.config import make_config
            from mxrcnn.config.settings import list_settings

            print(list_settings(make_config(*([args.network] if args.network else []))))
            return 0
        return run_training(
            TrainRequest(
                network=args.network,
                preset=args.preset,
                settings=given_settings(args, SETTINGS),
                words=tuple(args.set),
                out=args.out,
                resume=args.resume,
                gpus=args.gpus,
                kvstore=args.kvstore,
                num_workers=args.num_workers,
                data_changed=args.data_changed,
            )
        )


if __name__ == "__main__":
    sys.exit(main())
