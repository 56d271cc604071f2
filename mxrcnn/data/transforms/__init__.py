"""From a record to a network input: decode, augment, resize, normalise and pad images and objects.

`sample` makes an image as it is, or mirrored. `augment` reads the list of transforms of a run and
draws from them, `scene` says what moves, `place`, `mix` and `colour` are the transforms, and
`render` draws the result.
"""

from mxrcnn.data.transforms.augment import Augmentation, augmented_sample, expand
from mxrcnn.data.transforms.sample import (
    Sample,
    check_masks,
    count_reduced,
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
    typical_scale,
)

__all__ = ["Augmentation", "Sample", "augmented_sample", "check_masks", "expand", "load_sample"]
__all__ += ["count_reduced", "normalise", "padded_size", "prepare_image"]
__all__ += ["read_pixels", "resize_linear", "resized_size", "stack_images", "stack_masks"]
__all__ += ["trainable_objects", "typical_scale"]
