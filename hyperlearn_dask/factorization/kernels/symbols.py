"""What kernels call, written as Python over symbols.

Such a function runs when a kernel is compiled, and what it does to its symbols becomes the kernel's code:
of a loop over the items of a tuple, straight-line code is left, with nothing in it for Numba to type and to
lower. (A function that Numba unrolls, by recursion over types, is compiled once for each length.)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import zip_longest
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils, typing
from numba.extending import lower_builtin, type_callable

# What the compiler may do with sums and products: contract them to one operation, reorder them.
FLAGS = ("contract", "reassoc", "nsz")
_I32, _INDEX = ir.IntType(32), ir.IntType(64)


def in_kernels(result: Callable[..., types.Type] = lambda *args: types.none) -> Callable[..., Any]:
    """Makes a function over symbols callable in kernels; ``result``: its type, by its arguments' types."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def typer(*args: types.Type) -> Any:
            args = tuple(types.intp if isinstance(arg, types.Integer) else arg for arg in args)
            return typing.signature(result(*args), *args)

        typer.pysig = inspect.signature(function)  # type: ignore[attr-defined]
        type_callable(function)(lambda context: typer)
        lower_builtin(function, types.VarArg(types.Any))(written(function))
        return function

    return register


class Symbol:
    """A value of a kernel that is being compiled: columns, a number or an index.

    ``value``: what LLVM's code calls it.
    """

    def __init__(self, context: Any, builder: Any, type: types.Type, value: Any) -> None:
        self.context, self.builder, self.type, self.value = context, builder, type, value

    def new(self, value: Any) -> Symbol:
        """Another one of the same type."""
        return Symbol(self.context, self.builder, self.type, value)

    def cast(self, type: types.Type) -> Symbol:
        """The same number or index, of another type."""
        value = self.context.cast(self.builder, self.value, self.type, type)
        return Symbol(self.context, self.builder, type, value)

    def __add__(self, other: Symbol | int) -> Symbol:
        if isinstance(other, int):
            return self.new(self.builder.add(self.value, ir.Constant(self.value.type, other)))
        return self.new(self.builder.fadd(self.value, other.value, flags=FLAGS))

    def __sub__(self, other: Symbol) -> Symbol:
        return self.new(self.builder.fsub(self.value, other.value, flags=FLAGS))

    def __mul__(self, other: Symbol) -> Symbol:
        """Columns, or a number, times columns."""
        return other.new(self.builder.fmul(self.spread(other.type), other.value, flags=FLAGS))

    def if_equal(self, index: Symbol, to: int, other: Symbol) -> Symbol:
        """This where an index is equal to a number, else another."""
        equal = self.builder.icmp_signed("==", index.value, ir.Constant(index.value.type, to))
        return self.new(self.builder.select(equal, self.value, other.value))

    def spread(self, columns: Any) -> Any:
        """A number in all columns."""
        if self.type == columns:
            return self.value
        return everywhere(self.builder, self.cast(columns.dtype).value, columns.width)


class SymbolArray:
    """A C-ordered array: the address of its first item, and its shape."""

    def __init__(self, array: Symbol, data: Any, shape: list[Any]) -> None:
        self.array, self.data, self.shape = array, data, shape

    @classmethod
    def whole(cls, array: Symbol) -> SymbolArray:
        assert array.type.layout == "C", array.type
        model = array.context.data_model_manager[array.type]
        data, shape = (model.get(array.builder, array.value, part) for part in ("data", "shape"))
        return cls(array, data, cgutils.unpack_tuple(array.builder, shape, array.type.ndim))

    def __getitem__(self, at: Symbol | int) -> Any:
        """array[at]: a number, or an array of one dimension less."""
        builder, start = self.array.builder, self.address(at)
        if len(self.shape) > 1:
            return SymbolArray(self.array, start, self.shape[1:])
        return Symbol(self.array.context, builder, self.array.type.dtype, builder.load(start))

    def address(self, *at: Symbol | int) -> Any:
        """Where array[at] is, or begins; no place is counted from the end."""
        builder, place = self.array.builder, ir.Constant(_INDEX, 0)
        for length, index in zip_longest(self.shape, at, fillvalue=0):
            more = index.cast(types.intp).value if isinstance(index, Symbol) else ir.Constant(_INDEX, index)
            place = builder.add(builder.mul(place, length), more)
        return builder.gep(self.data, [place])

    def inside(self, at: Symbol, more: int) -> Symbol:
        """at + more, or the last place if that is beyond it."""
        builder, place = self.array.builder, at + more
        last = builder.sub(self.shape[0], ir.Constant(_INDEX, 1))
        return at.new(builder.select(builder.icmp_signed("<", place.value, last), place.value, last))


def _symbol(context, builder, type, value):  # type: ignore[no-untyped-def]
    """What a function over symbols is given: of a tuple, a tuple."""
    if isinstance(type, types.BaseTuple):
        items = cgutils.unpack_tuple(builder, value, len(type))
        return tuple(_symbol(context, builder, *item) for item in zip(type, items))
    symbol = Symbol(context, builder, type, value)
    return SymbolArray.whole(symbol) if isinstance(type, types.Array) else symbol


def written(function: Callable[..., Any]) -> Callable[..., Any]:
    """What generates code for a function over symbols."""

    def build(context, builder, signature, args):  # type: ignore[no-untyped-def]
        found = function(*(_symbol(context, builder, *arg) for arg in zip(signature.args, args)))
        if found is None:
            return context.get_dummy_value()
        if isinstance(found, Symbol):
            return found.value
        return context.make_tuple(builder, signature.return_type, [item.value for item in found])

    return build


def everywhere(builder, scalar, width):  # type: ignore[no-untyped-def]
    """A vector of one number."""
    vector = ir.VectorType(scalar.type, width)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_I32, 0))
    return builder.shuffle_vector(
        first, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_I32, width), None)
    )
