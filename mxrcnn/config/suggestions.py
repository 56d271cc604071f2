"""What the user may have meant by a setting that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from mxrcnn.program import command

_SIDES = ("data.short_side", "data.long_side")

#: our names -> the names in other toolkits (detectron2, mmdetection, torchvision, ultralytics,
#: gluoncv, mx-rcnn, Keras, Lightning). Only those of ours that the network has are suggested
_OTHERS_NAMES: dict[tuple[str, ...], str] = {
    ("train.lr",): "learning_rate base_lr lr0 initial_lr init_lr",
    ("train.epochs",): "max_epochs num_epochs n_epochs nepochs total_epochs end_epoch",
    ("train.batch_size",): "batch batchsize bs ims_per_batch imgs_per_batch samples_per_gpu "
    "train_batch_size batch_size_per_gpu batch_images",
    ("train.lr_decay_epoch",): "milestones lr_steps lr_step lr_milestones decay_epochs "
    "lr_decay_epochs lr_step_epoch",
    ("train.lr_decay",): "gamma lr_gamma lr_factor lr_decay_rate factor",
    ("train.weight_decay",): "wd l2 decay",
    ("train.clip_norm",): "clip_grad_norm max_norm max_grad_norm grad_norm global_norm",
    ("train.clip_gradient",): "grad_clip clip_grad gradient_clip gradient_clip_val clip_grad_value",
    ("train.accumulate",): "accum accumulation grad_accum accumulate_grad_batches iter_size "
    "gradient_accumulation_steps nbs",
    ("train.class_weights",): "class_weight cls_weights loss_weights weight_per_class",
    ("data.repeat_thresh",): "repeat_threshold oversample_thr oversample oversampling",
    ("train.ema",): "ema_decay model_ema model_ema_decay moving_average",
    ("train.patience",): "early_stopping early_stop es_patience",
    ("train.optimizer",): "optim opt solver optimizer_type optimiser",
    ("train.schedule",): "scheduler lr_scheduler lr_schedule lr_policy lr_config cos_lr",
    ("train.lr_final",): "lrf eta_min min_lr lr_min",
    ("train.decay_norms",): "norm_weight_decay norm_decay_mult weight_decay_norm",
    ("train.warmup_steps",): "warmup warmup_iters warmup_epochs",
    ("train.warmup_factor",): "warmup_ratio warmup_lr start_factor warmup_bias_lr",
    ("model.trainable_layers", "train.fixed"): "freeze frozen freeze_at frozen_stages "
    "freeze_layers fixed_params fixed_param_prefix trainable_backbone_layers",
    ("train.pretrained",): "weights checkpoint ckpt load_from init_checkpoint "
    "pretrained_weights weights_backbone backbone_weights",
    ("train.seed",): "random_seed manual_seed",
    ("train.checkpoint_steps",): "save_period save_interval save_every save_freq "
    "checkpoint_interval checkpoint_period snapshot",
    ("train.val_every",): "eval_interval val_interval eval_period val_freq eval_every "
    "check_val_every_n_epoch",
    ("train.val_metric",): "metric save_best monitor eval_metric",
    ("train.log_interval",): "log_freq print_freq log_every log_period log_every_n_steps frequent",
    ("train.precision",): "amp fp16 half dtype mixed_precision",
    ("train.keep",): "max_keep_ckpts max_to_keep keep_last save_top_k",
    _SIDES: "imgsz img_size image_size input_size imgs size img_scale img_dim resolution",
    ("data.short_side",): "min_size min_size_train",
    ("data.long_side",): "max_size max_size_train",
    ("data.root",): "data_root data_dir root_dir dataset_root data_path dataset_path path",
    ("data.imageset",): "split train_set image_set train_split",
    ("data.val_imageset",): "val_set test_set val",
    ("data.val_share",): "val_split val_fraction val_ratio val_size validation_split",
    ("data.class_names",): "names labels classes class_list",
    ("model.num_classes",): "nc num_class n_classes",
    ("data.flip",): "fliplr hflip horizontal_flip random_flip flip_prob",
    ("data.augment",): "augmentation augmentations aug transforms data_augmentation mosaic mixup "
    "copy_paste hsv_h hsv_s hsv_v color_jitter jitter flipud degrees auto_augment",
    ("data.tile",): "slice slice_size slice_height slice_width tile_size patch_size crop_size "
    "img_slice_size tiling",
    ("data.overlap",): "overlap_ratio overlap_height_ratio overlap_width_ratio tile_overlap "
    "slice_overlap overlap_share",
    ("data.empty_tiles",): "ignore_negative_samples negative_ratio background_ratio empty_ratio",
    ("data.mean",): "pixel_mean pixel_means img_mean image_mean",
    ("data.std",): "pixel_std pixel_stds img_std image_std",
    ("data.pad_multiple",): "size_divisor size_divisibility pad_size_divisor",
    ("model.score_thresh",): "conf conf_thres conf_threshold confidence score_threshold score_thr",
    ("model.nms_thresh",): "iou iou_thres iou_threshold nms nms_threshold nms_thr",
    ("model.detections_per_img",): "max_det max_dets max_detections max_per_img max_per_image",
    ("model.anchor_scales", "model.anchor_sizes"): "anchors scales sizes anchor_size",
    ("model.anchor_ratios",): "ratios aspect_ratios ratio",
    ("model.body",): "backbone",
    ("--network",): "model arch architecture net",
    ("--num-workers",): "num_workers nw dataloader_workers workers_per_gpu",
    ("--gpus",): "device devices gpu gpu_ids gpu_id ctx",
    ("--out",): "output_dir save_dir work_dir project name prefix",
    ("--resume",): "resume_from auto_resume",
}
SYNONYMS = {name: ours for ours, names in _OTHERS_NAMES.items() for name in names.split()}


def suggestion(key: str, known: Sequence[str], network: str = "") -> str:
    """A hint for an unknown setting, as the end of a message: "; did you mean ...?".

    known: the full names of all settings. Suggests the same name in another section, a synonym or a
    similar name; else names that share a word, and the command that lists all settings.
    """
    name = key.rpartition(".")[2].lower().replace("-", "_")
    bare = [full.rpartition(".")[2] for full in known]
    full_key = key in {f"{full.rpartition('.')[0]}.{name}" for full in known}
    if name in bare:
        return f"; did you mean {known[bare.index(name)]}?"
    near = difflib.get_close_matches(key, known if full_key else bare, n=1)
    if name not in SYNONYMS and near:
        return f"; did you mean {near[0]}?"
    word = name if name in SYNONYMS else next(iter(difflib.get_close_matches(name, SYNONYMS)), "")
    ours = [one for one in SYNONYMS.get(word, ()) if one in known or one.startswith("--")]
    if ours:
        return f"; did you mean {' or '.join(ours)}?"
    words = {part for part in name.split("_") if len(part) > 2}
    alike = [full for full, other in zip(known, bare) if words & set(other.split("_"))][:6]
    some = f"; there are {', '.join(alike)}" if alike else ""
    more = ("--network", network) if network else ()
    return f"{some}; all are listed by: {command('train', '--list-settings', *more)}"
