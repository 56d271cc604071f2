"""The whole configuration of a run: frozen dataclasses, overrides `key=value`, JSON both ways."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mxrcnn.sections import ConfigError, DataConfig, TrainConfig
from mxrcnn.settings import suggestion
from symnet import get_detector
from symnet.detector import DetectorDef
from symnet.machine.cores import has_bf16
from symnet.parts.layers import UNSAFE_CELLS, unsafe_layers


def check_precision(name: str) -> None:
    """ConfigError for a precision that this processor is not made for."""
    if name == "bf16" and not has_bf16():
        raise ConfigError(
            "precision bf16: this processor has no bfloat16 instructions (avx512_bf16, amx_bf16) "
            "and would be slower with it; use fp32, the default"
        )


def check_shapes(symbol: Any, precision: str, **shapes: tuple[int, ...]) -> None:
    """ConfigError if a precision would corrupt memory with these shapes of a graph's inputs."""
    layers = unsafe_layers(symbol, precision, **shapes)
    if layers:
        raise ConfigError(
            f"precision {precision} with images of {shapes['data'][2:]}: MXNet's oneDNN corrupts "
            f"memory in 1x1 convolutions on maps of {UNSAFE_CELLS[0]} to {UNSAFE_CELLS[-1]} cells "
            f"({layers[0]}); use larger or smaller images, or fp32"
        )


@dataclass(frozen=True)
class Config:
    """A run's configuration; `model` is the detector's own config class."""

    network: str
    model: Any
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def make_config(network: str = "faster_rcnn_vgg16") -> Config:
    """The defaults of a network."""
    detector = _detector(network)
    return override(Config(network=network, model=detector.config()), detector.defaults)


def _detector(network: str) -> DetectorDef:
    try:
        return get_detector(network)
    except KeyError as error:
        raise ConfigError(error.args[0]) from None


def _coerce(key: str, value: Any, wanted: Any) -> Any:
    """The value as the annotated type, or ConfigError that names the key."""
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else () if value == "" else (value,)
        return tuple(_coerce(key, item, args[0]) for item in items)
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{key}={value!r}: there are {', '.join(map(str, args))}")
    if wanted is bool and isinstance(value, bool):
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if wanted is float and number:
        return float(value)
    if wanted is int and number and value % 1 == 0:
        return int(value)
    if wanted is str and not isinstance(value, (list, tuple, dict, bool)):
        return str(value)
    raise ConfigError(f"{key}={value!r}: expected {getattr(wanted, '__name__', wanted)}")


def _replace(section: Any, values: Mapping[str, Any]) -> Any:
    """A section with other values; a detector's own complaint becomes a ConfigError."""
    try:
        return dataclasses.replace(section, **values)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _build(default: Any, values: Mapping[str, Any], where: str) -> Any:
    """A section like `default` with other values."""
    hints = typing.get_type_hints(type(default))
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where[:-1]}={values!r}: expected fields and their values")
    for key in values:
        if key not in hints:
            known = [f"{where}{name}" for name in hints]
            raise ConfigError(f"unknown setting {where}{key}{suggestion(where + key, known)}")
    coerced = {key: _coerce(where + key, value, hints[key]) for key, value in values.items()}
    return _replace(default, coerced)


def _parse(text: str) -> Any:
    """A value from the command line: a Python literal, a,b,c as a tuple, or the text itself."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return tuple(_parse(part) for part in text.split(",")) if "," in text else text
    # 2007_2012 is the name of an image set, not Python's 20072012
    return text if isinstance(value, (int, float)) and "_" in text else value


def full_name(config: Config, key: str) -> str:
    """`section.field` for a key that may be a field's bare name.

    Raises ConfigError for keys that no section has, or several have.
    """
    sections = ("model", "data", "train")
    section, _, name = key.rpartition(".")
    if section and section not in sections:
        near = difflib.get_close_matches(section, sections, n=1)
        told = f"did you mean {near[0]}?" if near else f"there are {', '.join(sections)}"
        raise ConfigError(f"unknown section in {key}; {told}")
    fields = {s: [f.name for f in dataclasses.fields(getattr(config, s))] for s in sections}
    homes = [s for s in ([section] if section else sections) if name in fields[s]]
    if len(homes) > 1:
        raise ConfigError(
            f"ambiguous setting {key}: say {' or '.join(f'{h}.{key}' for h in homes)}"
        )
    if not homes:
        known = [f"{s}.{n}" for s in sections for n in fields[s]]
        raise ConfigError(f"unknown setting {key}{suggestion(key, known, config.network)}")
    return f"{homes[0]}.{name}"


def override(config: Config, settings: Mapping[str, Any]) -> Config:
    """A config with some fields replaced; keys are `section.field`, or a field of one section.

    Values are of the field's type (lists become tuples). Raises ConfigError for unknown or
    ambiguous keys and wrong types.
    """
    values: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        section, _, name = full_name(config, key).partition(".")
        hints = typing.get_type_hints(type(getattr(config, section)))
        values.setdefault(section, {})[name] = _coerce(key, value, hints[name])
    # all at once: a section checks its fields against each other
    parts = {name: _replace(getattr(config, name), new) for name, new in values.items()}
    return dataclasses.replace(config, **parts)


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`key=value` words as a dictionary for `override`."""
    out = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {word}: expected key=value")
        out[key.strip()] = _parse(value)
    return out


def to_dict(config: Config) -> dict[str, Any]:
    """The config as plain dictionaries and lists."""
    return dataclasses.asdict(config)


#: how runs behaved before these fields existed: a run goes on as it was begun
_BEFORE_FIELDS = {"train": {"val_metric": "voc07"}}


def from_dict(values: Mapping[str, Any]) -> Config:
    """The inverse of to_dict; unknown fields raise.

    Fields that are not there get their defaults, except where an older run behaved otherwise: such
    a run has validated by voc07, whatever its data set, and keeps doing so. For the model's fields
    see `DetectorDef.before`.
    """
    if "network" not in values:
        raise ConfigError("no network is named")
    config = make_config(values["network"])
    for key in values:
        if key not in ("network", "model", "data", "train"):
            raise ConfigError(f"unknown setting {key}")
    sections = {
        name: _build(getattr(config, name), _as_written(values, name), f"{name}.")
        for name in ("model", "data", "train")
    }
    return dataclasses.replace(config, **sections)


def _as_written(values: Mapping[str, Any], section: str) -> Any:
    """A section of a stored config, with what fields that are younger than it stood for."""
    stored = values.get(section, {})
    if section not in values or not isinstance(stored, Mapping):
        return stored
    before = _BEFORE_FIELDS.get(section, {})
    if section == "model":
        before = get_detector(values["network"]).before
    return {**before, **stored}


def dump_json(config: Config) -> str:
    """The config as JSON text."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def load_json(path: Path) -> Config:
    """The config of a JSON file; ConfigError names the file and the key."""
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
