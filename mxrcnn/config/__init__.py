"""The configuration of a run: what its settings are, how they are changed, written and read.

What a user asks of one training (--pretrained, --preset, flags) is put together in
mxrcnn.training.configure.
"""

from mxrcnn.config.machine import check_precision, check_shapes, contexts
from mxrcnn.config.overrides import (
    find_detector,
    full_name,
    make_config,
    override,
    parse_settings,
    plain_config,
    resolve,
)
from mxrcnn.config.sections import MAX_IMAGE_PIXELS, Config, ConfigError, DataConfig, TrainConfig
from mxrcnn.config.stored import dump_json, from_dict, load_json, to_dict

__all__ = [
    "MAX_IMAGE_PIXELS",
    "Config",
    "ConfigError",
    "DataConfig",
    "TrainConfig",
    "check_precision",
    "check_shapes",
    "contexts",
    "dump_json",
    "find_detector",
    "from_dict",
    "full_name",
    "load_json",
    "make_config",
    "override",
    "parse_settings",
    "plain_config",
    "resolve",
    "to_dict",
]
