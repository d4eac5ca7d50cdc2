"""Reads pickles as inert data: nothing that they name is imported, made or called."""

from __future__ import annotations

import pickletools
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

MAX_OPERATIONS = 4_000_000
"""Of one pickle. A training checkpoint of 1000 parameters and its optimizer takes 100 000."""
_MAX_KEY_BITS = 64
_MAX_NAME_LENGTH = 1000


class PickleError(ValueError):
    """Bytes that are not a pickle, or a pickle that needs more than it should."""


@dataclass(eq=False, slots=True)
class Inert:
    """Stands for what a pickle names, or asks to be made or called.

    Attributes:
        name: module and name of the class or function, such as "collections.OrderedDict".
        args: what it is to be called with; None for the class or function itself.
        state: what its ``__setstate__`` is to be given.
        items: what is to be set in it by key; only keys that are text or numbers are kept.
        elements: what is to be appended or added to it.
    """

    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None
    items: dict[Any, Any] | None = None
    elements: list[Any] | None = None


class Reference(NamedTuple):
    """Stands for an object that lies outside of the pickle, by its persistent id."""

    id: Any


class Content(NamedTuple):
    """What a pickle describes: dicts, lists, tuples, text, bytes, numbers, None, `Inert`, `Reference`.

    Attributes:
        root: the object.
        references: all in it.
    """

    root: Any
    references: list[Reference]


def load(stream: BinaryIO, size: int) -> Content:
    """Return what a pickle describes, and leave the stream behind its end.

    Time and memory are bounded by the size of the pickle. What is nested in it
    may be shared, without end even: whoever walks through the result has to bound that.

    Args:
        stream: at the pickle's first byte.
        size: of the whole stream in bytes.

    Raises:
        PickleError: it is damaged, no pickle at all, or has more than `MAX_OPERATIONS`.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in the text of damaged files
            return machine.run(_Bounded(stream, size))
    except PickleError:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, struct.error) as error:
        raise PickleError(f"damaged, or no pickle ({type(error).__name__}: {error})") from error


class _Bounded:
    """A stream that allocates no more than it has, whatever length a pickle claims."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream = stream
        self._size = size
        self.readline = stream.readline

    def read(self, count: int) -> bytes:
        return self._stream.read(min(count, self._size - self._stream.tell()))


class _Machine:
    """The stack, marks and memo of the pickle machine; see the standard library's pickletools."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.references: list[Reference] = []

    def run(self, stream: _Bounded) -> Content:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
            if count >= MAX_OPERATIONS:
                raise PickleError(f"more than {MAX_OPERATIONS} operations")
            if opcode.name == "STOP":
                return Content(self.stack.pop(), self.references)
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise PickleError(f"operation {opcode.name}, which refers to other files")
            action(self, argument)
        raise PickleError("it has no end")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self.marks.pop()
        return values

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.pop_mark()

    def drop_mark(self, _: Any) -> None:
        self.pop_mark()

    def duplicate(self, _: Any) -> None:
        self.push(self.stack[-1])

    def make_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise PickleError("a tuple of more than there is")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def make_marked_tuple(self, _: Any) -> None:
        values = self.pop_mark()
        self.push(tuple(values))

    def make_list(self, _: Any) -> None:
        values = self.pop_mark()
        self.push(values)

    def make_dict(self, _: Any) -> None:
        values = self.pop_mark()
        self.push({})
        self.set_items(values)

    def append(self, _: Any) -> None:
        value = self.stack.pop()
        self.extend([value])

    def append_marked(self, _: Any) -> None:
        self.extend(self.pop_mark())

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            if target.elements is None:
                target.elements = []
            target = target.elements
        if not isinstance(target, list):
            raise PickleError(f"something is appended to a {type(target).__name__}")
        target.extend(values)

    def set_item(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def set_marked(self, _: Any) -> None:
        self.set_items(self.pop_mark())

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            if target.items is None:
                target.items = {}
            target = target.items
        if not isinstance(target, dict) or len(values) % 2:
            raise PickleError(f"entries are put into a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if _is_key(key):
                target[key] = value

    def get(self, index: int) -> None:
        self.push(self.memo[int(index)])

    def put(self, index: int) -> None:
        self.memo[int(index)] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def push_global(self, name: str) -> None:
        self.push(Inert(name.replace(" ", ".", 1)))

    def push_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (_is_name(name) and _is_name(module)):
            raise PickleError("a class or function without a name")
        self.push(Inert(f"{module}.{name}"))

    def push_extension(self, code: int) -> None:
        self.push(Inert(f"extension {code}"))

    def instantiate(self, name: str) -> None:
        args = self.pop_mark()
        self.push(Inert(name.replace(" ", ".", 1), tuple(args)))

    def instantiate_marked(self, _: Any) -> None:
        function, *args = self.pop_mark()
        self.call(function, tuple(args))

    def reduce(self, _: Any) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.call(function, args)

    def new_keyword(self, _: Any) -> None:
        self.stack.pop()
        self.reduce(None)

    def call(self, function: Any, args: Any) -> None:
        name = function.name if isinstance(function, Inert) else type(function).__name__
        if name == "collections.OrderedDict" and args == ():
            self.push({})
        else:
            self.push(Inert(name, args if isinstance(args, tuple) else (args,)))

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state

    def refer(self, _: Any) -> None:
        self.refer_to(self.stack.pop())

    def refer_to(self, key: Any) -> None:
        self.references.append(Reference(key))
        self.push(self.references[-1])

    def ignore(self, _: Any) -> None:
        pass


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_NAME_LENGTH


def _is_key(key: Any) -> bool:
    """Tell whether a key is text or a number: those hash in a time that is known."""
    return isinstance(key, str | float) or (
        isinstance(key, int) and key.bit_length() <= _MAX_KEY_BITS
    )


_VALUES = (
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING",
    "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
)  # fmt: skip

_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(_VALUES, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME"), _Machine.ignore),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _Machine.push_extension),
    **dict.fromkeys(("APPENDS", "ADDITEMS"), _Machine.append_marked),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.make_tuple(1),
    "TUPLE2": lambda machine, _: machine.make_tuple(2),
    "TUPLE3": lambda machine, _: machine.make_tuple(3),
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.drop_mark,
    "DUP": _Machine.duplicate,
    "TUPLE": _Machine.make_marked_tuple,
    "LIST": _Machine.make_list,
    "FROZENSET": _Machine.make_list,
    "DICT": _Machine.make_dict,
    "APPEND": _Machine.append,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_marked,
    "MEMOIZE": _Machine.memoize,
    "GLOBAL": _Machine.push_global,
    "STACK_GLOBAL": _Machine.push_stack_global,
    "INST": _Machine.instantiate,
    "OBJ": _Machine.instantiate_marked,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_keyword,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "PERSID": _Machine.refer_to,
    "BINPERSID": _Machine.refer,
}
