"""What is measured: experiments, their arms, and the bars that the results must reach.

An arm is what a user would type: the words after `mxrcnn train` and after `mxrcnn test RUN`; the
seed and the run folder are added. The arms called old say every setting of their recipe, so that
they stay what they are when a preset changes. $WORK is the folder of --work, $SEED the seed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """One way to train.

    kind: what measures it, see `RUNNERS` in __main__.py. against: for a `pair`, the words of the
    other training that takes turns with this one.
    """

    train: str
    test: str = ""
    kind: str = "run"
    against: str = ""

    @property
    def words(self) -> dict[str, str]:
        """The words by their purpose, without empty ones."""
        every = {"train": self.train, "test": self.test, "against": self.against}
        return {purpose: " ".join(words.split()) for purpose, words in every.items() if words}

    @property
    def timed(self) -> bool:
        """True if the training ends by the clock: it starts anew instead of being resumed."""
        return self.kind == "yolo" or "--minutes" in self.train.split()


@dataclass(frozen=True)
class Experiment:
    """Arms that are compared.

    shown: the numbers that tables show. bars: inequalities of mean, min, max over the seeds, and of
    spread, the difference of the means with `pythons`; `mean(new.AP) - mean(old.AP) >= 0.03`.
    prepare: what makes its data, see `PREPARE` in __main__.py.
    """

    about: str
    arms: dict[str, Arm]
    bars: tuple[str, ...]
    shown: tuple[str, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    prepare: str = ""
    pythons: tuple[str, ...] = ()


_OLD_TRAINING = "--schedule step --optimizer sgd --augment basic --ema 0"
_OLD_SET = (
    "flip=true momentum=0.9 lr_decay=0.1 accumulate=1 clip_norm=0 clip_gradient=5 "
    "warmup_steps=100 warmup_factor=0.1"
)

_DEMO_OLD = f"""--preset quick {_OLD_TRAINING} --lr 0.02 --batch-size 4 --epochs 3
    --lr-decay-epoch 2 --set {_OLD_SET} weight_decay=0.0005 short_side=192 long_side=256
    std=58.4,57.1,57.4 body=vgg16 norm=frozen width=0.25 anchor_scales=2,4,8
    box_head_dim=512 box_dropout=0 box_batch_size_per_image=128"""
_DEMO_NEW = "--preset quick"

_BCCD = "--dataset voc --data-root ../shared/data/bccd --imageset 2007_train"
_CELLS = f"{_BCCD} --val-imageset 2007_val"
_CELLS_TEST = "--imageset 2007_test --metric coco"

_FCOS = f"--network fcos_regnetx_400mf --preset quick {_CELLS} --val-every 5 --epochs 10"
_FCOS_OLD = f"""{_FCOS} {_OLD_TRAINING} --lr 0.02 --batch-size 4 --lr-decay-epoch 7,9
    --set {_OLD_SET} weight_decay=0.0001 short_side=480 long_side=640 std=58.4,57.1,57.4
    norm=batch fpn_channels=64 head_layers=2"""
_FCOS_NEW = f"{_FCOS} --set short_side=480 long_side=640"

_VGG = f"""{_CELLS} --val-every 2 --pretrained ../shared/weights/vgg16_conv_f16.npz
    --precision bf16 --epochs 4"""
_VGG_SET = "anchor_scales=2,4,8,16 short_side=480 long_side=640"
_VGG_OLD = f"""{_VGG} {_OLD_TRAINING} --lr 0.002 --batch-size 1 --lr-decay-epoch 3
    --set {_OLD_SET} weight_decay=0.0005 {_VGG_SET}"""
_VGG_NEW = f"{_VGG} --lr 0.002 --lr-decay-epoch 3 --set {_VGG_SET} warmup_steps=100"
_VGG_TEST = "--imageset 2007_test --metric voc07 --precision bf16"

_YOLO = """model=yolo11n.yaml data=$WORK/cells_yolo/data.yaml pretrained=False imgsz=640
    device=cpu plots=False"""
_YOLO_TEST = """data=$WORK/cells_yolo/data.yaml split=test imgsz=640 conf=0.001 device=cpu
    plots=False save_json=True"""

_FRUITS = """--network mask_rcnn_r50_fpn --preset quick --dataset coco
    --data-root $WORK/fruits/fold$SEED --imageset train.json
    --images ../shared/data/fruits_nuts/images --set short_side=288 long_side=384"""
_FRUITS_TEST = "--imageset held_out.json"

EXPERIMENTS = {
    "demo": Experiment(
        "What `make demo` runs: `faster_rcnn_vgg16`, preset quick, on drawn images.",
        {"old": Arm(_DEMO_OLD), "new": Arm(_DEMO_NEW)},
        ("mean(new.mAP) >= 0.85", "min(new.mAP) >= 0.80", "spread(new.mAP) <= 0.02"),
        ("mAP",),
        (1, 2, 3, 4, 5),
        pythons=("3.9", "3.13"),
    ),
    "cells_fcos": Experiment(
        "FCOS with RegNetX-400MF on BCCD, from scratch, tested on `2007_test`.",
        {"old": Arm(_FCOS_OLD, _CELLS_TEST), "new": Arm(_FCOS_NEW, _CELLS_TEST)},
        ("mean(new.AP) - mean(old.AP) >= 0.03", "mean(new.AP50) - mean(old.AP50) >= 0"),
        ("AP", "AP50"),
    ),
    "cells_vgg": Experiment(
        "Faster R-CNN with VGG16's ImageNet convolutions on BCCD, 4 epochs in bfloat16.",
        {"old": Arm(_VGG_OLD, _VGG_TEST), "new": Arm(_VGG_NEW, _VGG_TEST)},
        ("mean(new.mAP) >= 0.85",),
        ("mAP",),
    ),
    "cells_yolo": Experiment(
        "BCCD in the same wall time: `mxrcnn train --data` beside ultralytics' YOLO11n, both from "
        "scratch, tested on `2007_test`, scored by the same code.",
        {
            "ours_18": Arm("--data ../shared/data/bccd --minutes 18", _CELLS_TEST),
            "yolo_18": Arm(f"{_YOLO} time=0.3", _YOLO_TEST, "yolo"),
            "ours_60": Arm("--data ../shared/data/bccd --minutes 60", _CELLS_TEST),
            "yolo_60": Arm(f"{_YOLO} time=1.0", _YOLO_TEST, "yolo"),
        },
        (
            "mean(ours_18.AP) / mean(yolo_18.AP) >= 1.25",
            "mean(ours_60.AP) / mean(yolo_60.AP) >= 1",
        ),
        ("AP", "AP50"),
        prepare="yolo",
    ),
    "fruits": Experiment(
        "Mask R-CNN from scratch on 12 photos of fruits and nuts, tested on the 6 of the fold that "
        "were held out; as many steps in both arms. The seed is the fold's number.",
        {
            "none": Arm(f"{_FRUITS} --augment none --epochs 120 --lr-decay-epoch 90", _FRUITS_TEST),
            "strong": Arm(
                f"{_FRUITS} --augment strong --epochs 60 --lr-decay-epoch 45", _FRUITS_TEST
            ),
        },
        ("mean(strong.segm_AP) - mean(none.segm_AP) >= 0.05",),
        ("segm_AP", "segm_AP50", "AP"),
        prepare="fruits",
    ),
    "speed_strong": Experiment(
        "Steps/s with `--augment strong`, as a share of those with `none`: VGG16 in bfloat16 on "
        "BCCD, two loader processes. Both trainings take turns in one run.",
        {
            "pair": Arm(
                f"{_VGG_NEW} --augment strong --num-workers 2",
                kind="pair",
                against=f"{_VGG_NEW} --augment none --num-workers 2",
            )
        },
        ("mean(pair.rate) >= 0.93",),
        ("rate",),
    ),
    "speed_demo": Experiment(
        "Training time of `make demo`, new beside old: steps times seconds a step, taking turns.",
        {"pair": Arm(_DEMO_NEW, kind="pair", against=_DEMO_OLD)},
        ("mean(pair.time) <= 1",),
        ("time", "rate"),
    ),
    "speed_fcos": Experiment(
        "Training time of FCOS on BCCD, new beside old: steps times seconds a step, taking turns.",
        {"pair": Arm(_FCOS_NEW, kind="pair", against=_FCOS_OLD)},
        ("mean(pair.time) <= 1",),
        ("time", "rate"),
    ),
}
