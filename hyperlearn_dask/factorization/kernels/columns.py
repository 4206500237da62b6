"""A Numba type: some neighbouring columns of one row of a matrix, held in vector registers.

Kernels over entries multiply short rows. Written as loops over columns, every product goes through
memory, and the compiler must prove that outputs do not overlap. A :class:`Columns` is a value: it is
loaded, multiplied and added in registers and stored once. Its width is known when a kernel is
compiled; a partly used one (``full`` false) loads and stores only its first ``count`` columns.

>>> import numba, numpy as np
>>> @numba.njit
... def scale_row(matrix, row, x):
...     none = no_columns(matrix, 8, 0)
...     count = matrix.shape[1]
...     store(matrix, row, 0, x * load(matrix, row, 0, none, count), count)
>>> matrix = np.ones((2, 3))
>>> scale_row(matrix, 1, 2.0)
>>> matrix.tolist()
[[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from hyperlearn_dask.factorization.kernels.symbols import FLAGS, everywhere, in_kernels, written

_I32 = ir.IntType(32)

# Columns that a pass can be compiled for; the last fills registers well.
WIDTHS = (8, 16, 32)


def column_runs(count: int, widest: int = WIDTHS[-1]) -> Iterator[tuple[int, int, int]]:
    """Runs that cover so many columns: where each begins, the width of its pass, the columns in it.

    Passes come in few widths, as each is compiled by itself.

    >>> list(column_runs(35))
    [(0, 32, 32), (32, 8, 3)]
    """
    for column in range(0, count, widest):
        own = min(count - column, widest)
        yield column, next(width for width in WIDTHS if width >= own), own


class Columns(types.Type):
    """``width`` numbers of a dtype; ``full``: whether all of them are columns."""

    def __init__(self, dtype: types.Float, width: int, full: bool) -> None:
        self.dtype, self.width, self.full = dtype, width, full
        super().__init__(name=f"Columns({dtype} x {width}{'' if full else ', partly'})")

    @property
    def ir(self) -> ir.VectorType:
        return ir.VectorType(_scalar(self.dtype), self.width)


@register_model(Columns)
class _ColumnsModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Columns) -> None:
        super().__init__(dmm, fe_type, fe_type.ir)


def _scalar(dtype: types.Float) -> ir.Type:
    return ir.FloatType() if dtype == types.float32 else ir.DoubleType()


@intrinsic(prefer_literal=True)
def no_columns(typingctx, matrix, width, full):  # type: ignore[no-untyped-def]
    """Zeros: of a matrix's dtype, and as wide as two literals say. What other loads are modelled on."""
    of = Columns(matrix.dtype, width.literal_value, bool(full.literal_value))
    return of(matrix, width, full), lambda context, builder, signature, args: ir.Constant(of.ir, None)


@in_kernels(lambda matrix, row, column, like, count: like)
def load(matrix, row, column, like, count):  # type: ignore[no-untyped-def]
    """The columns from ``column`` on of a row; those from ``count`` on are 0 if not ``full``."""
    of, builder = like.type, like.builder
    pointer, align = _address(matrix, row, column, of), of.dtype.bitwidth // 8
    if of.full:
        return like.new(builder.load(pointer, align=align))
    mask, zeros = _mask(builder, count.value, of.width), ir.Constant(of.ir, None)
    return like.new(
        builder.call(_masked(builder, "load", of), [pointer, ir.Constant(_I32, align), mask, zeros])
    )


@in_kernels()
def store(matrix, row, column, value, count):  # type: ignore[no-untyped-def]
    """Write columns to a row of a matrix, from ``column`` on."""
    of, builder = value.type, value.builder
    pointer, align = _address(matrix, row, column, of), of.dtype.bitwidth // 8
    if of.full:
        builder.store(value.value, pointer, align=align)
    else:
        mask = _mask(builder, count.value, of.width)
        builder.call(_masked(builder, "store", of), [value.value, pointer, ir.Constant(_I32, align), mask])


@in_kernels()
def prefetch(matrix, row, column, like):  # type: ignore[no-untyped-def]
    """Ask for the cache lines of a row's columns, to be read or written soon."""
    builder, byte = like.builder, ir.IntType(8).as_pointer()
    function = builder.module.declare_intrinsic(
        "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    )
    start = builder.bitcast(matrix.address(row, column), byte)
    for offset in range(0, like.type.width * like.type.dtype.bitwidth // 8, 64):
        line = builder.gep(start, [ir.Constant(_I32, offset)])
        builder.call(function, [line, *(ir.Constant(_I32, i) for i in (0, 3, 1))])


@in_kernels(lambda array, at: array.dtype)
def item(array, at):  # type: ignore[no-untyped-def]
    """array[at] of a 1-D array, for ``at`` from 0 on: no place is counted from the end."""
    return array[at]


@in_kernels()
def add_to(totals, at, value):  # type: ignore[no-untyped-def]
    """totals[at, :] += value: float64 sums of columns, (any x width)."""
    builder, wide = value.builder, Columns(types.float64, value.type.width, True)
    pointer = _address(totals, at, 0, wide)
    more = value.value if value.type.dtype == types.float64 else builder.fpext(value.value, wide.ir)
    builder.store(builder.fadd(builder.load(pointer, align=8), more, flags=FLAGS), pointer, align=8)


def _address(matrix, row, column, columns):  # type: ignore[no-untyped-def]
    return matrix.array.builder.bitcast(matrix.address(row, column), columns.ir.as_pointer())


def _mask(builder, count, width):  # type: ignore[no-untyped-def]
    """True for the first ``count`` places."""
    places = ir.Constant(ir.VectorType(_I32, width), list(range(width)))
    return builder.icmp_signed("<", places, everywhere(builder, builder.trunc(count, _I32), width))


def _masked(builder, what, columns):  # type: ignore[no-untyped-def]
    pointer, mask = columns.ir.as_pointer(), ir.VectorType(ir.IntType(1), columns.width)
    scalar = "f32" if columns.dtype == types.float32 else "f64"
    if what == "load":
        function = ir.FunctionType(columns.ir, [pointer, _I32, mask, columns.ir])
    else:
        function = ir.FunctionType(ir.VoidType(), [columns.ir, pointer, _I32, mask])
    name = f"llvm.masked.{what}.v{columns.width}{scalar}.p0"
    return cgutils.get_or_insert_function(builder.module, function, name)


# value + value, value * value, number * value


@type_callable(operator.add)
def _type_add(context):  # type: ignore[no-untyped-def]
    return lambda a, b: a if isinstance(a, Columns) and a == b else None


@type_callable(operator.mul)
def _type_multiply(context):  # type: ignore[no-untyped-def]
    def typer(a, b):  # type: ignore[no-untyped-def]
        if isinstance(b, Columns) and (a == b or isinstance(a, types.Float)):
            return b
        return None

    return typer


lower_builtin(operator.add, Columns, Columns)(written(operator.add))
lower_builtin(operator.mul, Columns, Columns)(written(operator.mul))
lower_builtin(operator.mul, types.Float, Columns)(written(operator.mul))
