"""Interprets the pickles in PyTorch checkpoints without running any code that they ask for.

A pickle is a program that names functions to call. It is never given to Python's unpickler here.
`Program` steps through its opcodes and supports only those that torch.save writes for numbers,
strings, tuples, lists, dictionaries and tensors. The few functions that a pickle may name, in
`_DTYPES` and `Program._call`, are treated as names: none is imported or called. Anything else
raises PthError.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

#: limits: opcodes per pickle, tensors per checkpoint, dimensions per tensor
MAX_OPCODES, MAX_TENSORS, MAX_DIMS = 5_000_000, 100_000, 16

#: torch's storage classes -> how their elements are stored. bfloat16 becomes float32 when read
_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_REBUILD = ("_rebuild_tensor_v2", "_rebuild_tensor")


class PthError(ValueError):
    """A checkpoint that is damaged or holds more than tensors. The message does not name it."""


@dataclass(frozen=True)
class Storage:
    """A flat array in the file: its key, its elements' type and their number."""

    key: str
    dtype: str
    size: int

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Tensor:
    """A view of a storage, known to lie inside it. The offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(str):
    """A function or class that the pickle names, as `module name`. It is never looked up."""


class _Mark:
    """Where on the stack a tuple, list or dictionary begins."""


_MARK = _Mark()
#: opcodes that push their own argument
_PUSH = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Program:
    """Pickle's stack machine, restricted to whitelisted opcodes."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.tensors = 0

    def run(self, source: bytes | BinaryIO) -> Any:
        """Return the pickle's object as plain data and Tensors; PthError for anything else."""
        try:
            for count, (opcode, argument, place) in enumerate(pickletools.genops(source)):
                if count > MAX_OPCODES:
                    raise PthError(f"its pickle has more than {MAX_OPCODES} opcodes")
                if opcode.name == "STOP":
                    (result,) = self.stack
                    return result
                self._step(opcode.name, argument, place or 0)
        except PthError:
            raise
        except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise PthError(f"its pickle is broken ({type(error).__name__}: {error})") from None
        raise PthError("its pickle is truncated")

    def _step(self, name: str, argument: Any, place: int) -> None:
        if name in _PUSH:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.stack.append(_MARK)
        elif name == "TUPLE":
            self.stack.append(tuple(self._since_mark()))
        elif name in _TUPLES:
            self._tuple(_TUPLES[name])
        elif name == "EMPTY_TUPLE":
            self.stack.append(())
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            self._global(name, argument)
        elif name not in ("PROTO", "FRAME"):
            action = self._ACTIONS.get(name)
            if action is None:
                raise PthError(f"its pickle has the opcode {name} at byte {place}: {_REFUSED}")
            action(self)

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("no mark")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is expected")
        return value

    def _tuple(self, count: int) -> None:
        self.stack.append(tuple([self._pop() for _ in range(count)][::-1]))

    def _global(self, name: str, argument: Any) -> None:
        if name == "STACK_GLOBAL":
            attribute, module = self._pop(), self._pop()
            if type(attribute) is not str or type(module) is not str:
                raise ValueError("STACK_GLOBAL without names")
            argument = f"{module} {attribute}"
        if argument not in _ALLOWED:
            raise PthError(f"its pickle asks for {argument.replace(' ', '.')!r}: {_REFUSED}")
        self.stack.append(_Global(argument))

    def _append(self) -> None:
        value = self._pop()
        self._top(list).append(value)

    def _appends(self) -> None:
        items = self._since_mark()
        self._top(list).extend(items)

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._set(self._top(dict), key, value)

    def _set_items(self) -> None:
        items = self._since_mark()
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2]):
            self._set(self._top(dict), key, value)

    @staticmethod
    def _set(target: dict, key: Any, value: Any) -> None:
        if type(key) not in (str, int, float, bool, type(None)):
            raise PthError(f"its pickle uses a {type(key).__name__} as a key: {_REFUSED}")
        if key in target:
            raise PthError(f"its pickle has two values for the key {key!r}")
        target[key] = value

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"no {kind.__name__} to add to")
        return self.stack[-1]

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not _Global or type(arguments) is not tuple:
            raise PthError(f"its pickle calls something that is not a known function: {_REFUSED}")
        self.stack.append(self._call(function, arguments))

    def _call(self, function: _Global, arguments: tuple) -> Any:
        """The result that torch's function would have, as plain data."""
        name = function.rpartition(" ")[2]
        if name in _REBUILD:
            self.tensors += 1
            if self.tensors > MAX_TENSORS:
                raise PthError(f"more than {MAX_TENSORS} tensors")
            return _tensor(*arguments[:4])
        if name in ("_rebuild_parameter", "Parameter") and type(arguments[0]) is Tensor:
            return arguments[0]
        if name == "OrderedDict" and not arguments:
            return {}
        if name == "Size" and len(arguments) == 1 and type(arguments[0]) is tuple:
            return arguments[0]
        if name == "device":
            return None
        raise PthError(f"its pickle calls {name} with arguments that torch.save never writes")

    def _build(self) -> None:
        """Skip the attributes of a state dict (its modules' versions) or of an old Parameter."""
        state, target = self._pop(), self.stack[-1]
        is_state = type(target) is dict and type(state) is dict
        if not is_state and not (type(target) is Tensor and type(state) is tuple):
            raise PthError(f"its pickle sets the state of an object: {_REFUSED}")

    def _persistent(self) -> None:
        """Push a storage: ("storage", type, key, device, number of elements[, view])."""
        entry = self._pop()
        if type(entry) is not tuple or len(entry) not in (5, 6) or entry[0] != "storage":
            raise PthError("its pickle refers to an external object that is not a storage")
        kind, key, size, view = entry[1], entry[2], entry[4], entry[5:]
        name = kind.rpartition(" ")[2] if type(kind) is _Global else ""
        if name not in _DTYPES or type(key) is not str or not _is_count(size):
            raise PthError("its pickle describes a storage of an unknown type or size")
        if view not in ((), (None,)):
            raise PthError("a storage is a view of another: save it again with torch >= 1.6")
        storage = Storage(key, _DTYPES[name], size)
        if self.storages.setdefault(key, storage) != storage:
            raise PthError(f"its pickle has two different descriptions of storage {key!r}")
        self.stack.append(storage)

    _ACTIONS: Mapping[str, Callable[[Program], None]] = {
        "EMPTY_DICT": lambda self: self.stack.append({}),
        "EMPTY_LIST": lambda self: self.stack.append([]),
        "SETITEM": _set_item,
        "SETITEMS": _set_items,
        "APPEND": _append,
        "APPENDS": _appends,
        "REDUCE": _reduce,
        "NEWOBJ": _reduce,
        "BUILD": _build,
        "BINPERSID": _persistent,
    }


#: everything that a pickle may name
_ALLOWED = {
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch.nn.parameter Parameter",
    "torch._utils _rebuild_parameter",
    *(f"torch._utils {name}" for name in _REBUILD),
    *(f"torch {name}" for name in _DTYPES),
}
_REFUSED = (
    "only tensors are read, no code is run. If you trust the file, load it where torch is "
    "installed and save its tensors alone: torch.save(model.state_dict(), 'weights.pth')"
)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 40


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    """A checked Tensor: PthError unless it lies in its storage and has no more elements than it."""
    if type(storage) is not Storage:
        raise PthError("a tensor without a storage")
    for numbers in (shape, strides):
        if type(numbers) is not tuple or not all(map(_is_count, numbers)):
            raise PthError(f"a tensor of storage {storage.key} has an impossible shape or strides")
    if not _is_count(offset) or len(shape) != len(strides) or len(shape) > MAX_DIMS:
        raise PthError(f"a tensor of storage {storage.key} has an impossible offset or shape")
    count = math.prod(shape)
    last = offset + sum((side - 1) * step for side, step in zip(shape, strides))
    if count and (count > storage.size or last >= storage.size):
        raise PthError(
            f"a tensor {shape} at {offset} does not lie in its storage {storage.key} of "
            f"{storage.size} elements"
        )
    return Tensor(storage, offset, shape, strides)
