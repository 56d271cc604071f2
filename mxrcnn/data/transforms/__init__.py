"""From a record to a network input: decode, resize, flip, normalise and pad images and objects."""

from mxrcnn.data.transforms.sample import (
    Sample,
    check_masks,
    load_sample,
    normalise,
    padded_size,
    prepare_image,
    read_pixels,
    resize_linear,
    resized_size,
    stack_images,
    stack_masks,
    trainable_objects,
)

__all__ = ["Sample", "check_masks", "load_sample", "normalise", "padded_size", "prepare_image"]
__all__ += ["read_pixels", "resize_linear", "resized_size", "stack_images", "stack_masks"]
__all__ += ["trainable_objects"]
