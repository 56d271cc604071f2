"""A configuration as dictionaries and JSON, both ways; configs of older runs still load."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mxrcnn.config.overrides import make_config, override, resolve
from mxrcnn.config.sections import SECTIONS, Config, ConfigError
from symnet import get_detector

#: what runs did before these settings existed; a resumed run keeps doing it
_BEFORE = {"train.val_metric": "voc07"}


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain dictionaries and lists."""
    return dataclasses.asdict(config)


def from_dict(values: Mapping[str, Any]) -> Config:
    """The inverse of to_dict; ConfigError for unknown settings.

    Missing settings get the network's defaults, with one exception: in a section that is there, a
    setting newer than the run gets the value that the run was trained with. See `_BEFORE` and
    `DetectorDef.before`. Old names of settings are read by mxrcnn.config.renames.
    """
    if "network" not in values:
        raise ConfigError("no network is named")
    for key in values:
        if key not in ("network", *SECTIONS):
            raise ConfigError(f"unknown setting {key}")
    config = make_config(values["network"])
    stored = resolve(config, dict(_flat(config, values)))
    before = {f"model.{key}": value for key, value in get_detector(config.network).before.items()}
    before = {**_BEFORE, **before}
    before = {key: value for key, value in before.items() if key.partition(".")[0] in values}
    return override(config, {**resolve(config, before), **stored})


def _flat(part: Any, values: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of stored values; part is what the config has in their place."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where[:-1]}={values!r}: expected fields and their values")
    for key, value in values.items():
        inner = getattr(part, key, None)
        if dataclasses.is_dataclass(inner):
            yield from _flat(inner, value, f"{where}{key}.")
        elif where:  # the network's name is no setting
            yield f"{where}{key}", value


def dump_json(config: Config) -> str:
    """The config as JSON text."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def load_json(path: Path) -> Config:
    """The config of a JSON file; ConfigError names the file and the key."""
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
