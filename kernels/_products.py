# mypy: allow-untyped-defs, allow-untyped-calls
"""Matrix products of many rows and few columns, as layers of narrow networks have them: what BLAS is slow at.

A block of the right factor is copied to where its rows are neighbours (`panel`), and stays in the first-level cache;
of each six rows of the left one, and of a panel's width, all sums are kept in registers. Every element is summed in
the order of k, whatever the shapes, so that a row's result depends on nothing but the row.
"""

from __future__ import annotations

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import lower_builtin, type_callable

from ._jit import jit
from ._lanemath import _fmuladd
from ._lanes import _BYTES, _first, broadcast, load_part, masked_load, masked_store, store_part, width
from ._row import narrow, number
from ._rows import START
from ._shapes import block
from ._slim import part, stretch
from ._turned import turn

__all__ = [
    "PACKED",
    "PANEL",
    "TIMES",
    "TIMES_TURNED",
    "TURNED_TIMES",
    "panels_jit",
    "panels_shape",
    "product_jit",
]

TIMES, TIMES_TURNED, TURNED_TIMES, PACKED = range(4)

ROWS = 6
"""Of the left factor at a time."""
DEEP = 64
"""Rows of a panel: with 64 columns of float32 they fill half of a first-level cache of 32 KiB."""
TALL = 86 * ROWS
"""Rows of the left factor that go together, if they are rows of the product."""
PANEL = DEEP * 64
"""Elements of the scratch that each product takes."""
_REGISTER = _BYTES // 4
# Registers of a panel's row: the sums of all rows leave some free, of 32 or of 16.
_WIDE = 4 if _REGISTER == 64 else 2
_I32, _I64 = ir.IntType(32), ir.IntType(64)


def panel_width(panel):
    """Columns of a full panel."""
    return len(panel) // DEEP


@type_callable(panel_width)
def _type_panel_width(context):
    return lambda panel: types.intp if isinstance(panel, types.Array) and number(panel) else None


@lower_builtin(panel_width, types.Array)
def _lower_panel_width(context, builder, sig, args):
    return _I64(_WIDE * _REGISTER * 8 // sig.args[0].dtype.bitwidth)


class _Memory:
    """Loads and stores of the first `wide` elements of a row, in `count` vectors."""

    def __init__(self, builder, kind, count, wide):
        self.builder, self.kind = builder, kind
        self.size = 4 if kind.element == ir.FloatType() else 8
        self.masks = [_first(builder, kind, _I64(v * kind.count), wide) for v in range(count)]

    def _place(self, row, v):
        return self.builder.gep(self.builder.bitcast(row, self.kind.as_pointer()), [_I64(v)])

    def load(self, row, v):
        return masked_load(self.builder, self._place(row, v), self.masks[v], self.size)

    def store(self, x, row, v):
        masked_store(self.builder, x, self._place(row, v), self.masks[v], self.size)


def _tile(registers):
    """A function that computes `ROWS` rows of a product, over the first registers of a panel's rows."""

    def tile(a, i, k, count, turned, panel, out, j, wide, add):
        """Writes, or adds, `ROWS` rows of out: those of a from k on, or its columns, times `count` of the panel."""
        rows = slice(i, i + ROWS)
        left = a[k : k + count, rows].T if turned else a[rows, k : k + count]
        product = left @ panel.reshape(DEEP, -1)[:count, :wide]
        out[rows, j : j + wide] = out[rows, j : j + wide] + product if add else product

    @type_callable(tile)
    def type_tile(context):
        return lambda a, i, k, count, turned, panel, out, j, wide, add: types.none

    number, flag, array = types.Integer, types.Boolean, types.Array

    @lower_builtin(tile, array, number, number, number, flag, array, array, number, number, flag)
    def lower_tile(context, builder, sig, args):
        a, i, k, count, turned, panel, out, j, wide, add = args
        a, panel, out = (
            context.make_array(kind)(context, builder, value)
            for kind, value in ((sig.args[0], a), (sig.args[5], panel), (sig.args[6], out))
        )
        element = context.get_data_type(sig.args[0].dtype)
        size = 4 if element == ir.FloatType() else 8
        vector = ir.VectorType(element, _REGISTER // size)
        a_step, _ = cgutils.unpack_tuple(builder, a.strides)
        out_step, _ = cgutils.unpack_tuple(builder, out.strides)
        rows, _ = cgutils.unpack_tuple(builder, out.shape)

        def moved(base, *offset):
            bytes_ = builder.mul(*offset) if len(offset) > 1 else offset[0]
            return cgutils.pointer_add(builder, base, bytes_, base.type)

        down = builder.select(turned, _I64(size), a_step)
        along = builder.select(turned, a_step, _I64(size))
        lefts, outs = [], []
        last = builder.sub(rows, _I64(1))
        for r in range(ROWS):
            # Where fewer are left the last one is computed, and written, several times.
            row = builder.add(i, _I64(r))
            row = builder.select(builder.icmp_signed("<", row, last), row, last)
            lefts.append(moved(moved(a.data, row, down), k, along))
            outs.append(moved(moved(out.data, row, out_step), j, _I64(size)))
        memory = _Memory(builder, vector, registers, wide)
        sums = [[cgutils.alloca_once(builder, vector) for _ in range(registers)] for _ in range(ROWS)]
        pairs = [(r, v) for r in range(ROWS) for v in range(registers)]
        zero = ir.Constant(vector, [ir.Constant(element, 0.0)] * vector.count)
        with builder.if_else(add) as (then, otherwise):
            with then:
                for r, v in pairs:
                    builder.store(memory.load(outs[r], v), sums[r][v])
            with otherwise:
                for r, v in pairs:
                    builder.store(zero, sums[r][v])
        with cgutils.for_range(builder, count) as loop:
            right = moved(panel.data, loop.index, _I64(_WIDE * _REGISTER))
            right = builder.bitcast(right, vector.as_pointer())
            vectors = [builder.load(builder.gep(right, [_I64(v)]), align=size) for v in range(registers)]
            offset = builder.mul(loop.index, along)
            for r in range(ROWS):
                factor = broadcast(builder, builder.load(moved(lefts[r], offset)), vector)
                for v in range(registers):
                    builder.store(_fmuladd(builder, factor, vectors[v], builder.load(sums[r][v])), sums[r][v])
        for r, v in pairs:
            memory.store(builder.load(sums[r][v]), outs[r], v)
        return context.get_dummy_value()

    return tile


_whole_tile, _half_tile = _tile(_WIDE), _tile(_WIDE // 2)


@jit(forceinline=True)
def _copy(b, k, stop, j, wide, panel):
    """Writes the panel: rows k to stop of b, columns from j on."""
    W = panel_width(panel)
    for n in range(k, stop):
        row, to = part(b, n, j, j + wide), stretch(panel, (n - k) * W, (n - k) * W + wide)
        v = 0
        while v < wide:
            store_part(to, v, wide, load_part(row, v, wide, narrow(0.0, panel)))
            v += width(to)


@jit(forceinline=True)
def _copy_turned(b, k, stop, j, wide, panel):
    """Writes the panel: columns k to stop of b as rows, its rows from j on as columns."""
    turn(b, k, stop - k, j, wide, START, START, block(panel, START, DEEP, panel_width(panel)))


@jit(forceinline=True)
def _copy_panel(b, kind, k, stop, j, wide, panel):
    """Writes the panel for rows k to stop and columns from j on of the right factor."""
    if kind == TIMES_TURNED:
        _copy_turned(b, k, stop, j, wide, panel)
    else:
        _copy(b, k, stop, j, wide, panel)


def panels_shape(deep, columns, itemsize):
    """(panels, elements of each) of a right factor of so many rows and columns."""
    full = _WIDE * _REGISTER // itemsize
    return -(-deep // DEEP) * -(-columns // full), DEEP * full


@jit
def panels_jit(b, kind, panels):
    """Writes w (C, F) for TIMES, or w' for TIMES_TURNED, as PACKED takes it; gives how many panels (`panels_shape`)."""
    deep, columns = (b.shape[1], b.shape[0]) if kind == TIMES_TURNED else b.shape
    width_ = panel_width(panels[0])
    n = 0
    for k in range(0, deep, DEEP):
        for j in range(0, columns, width_):
            _copy_panel(b, kind, k, min(k + DEEP, deep), j, min(width_, columns - j), panels[n])
            n += 1
    return n


@jit
def product_jit(a, b, kind, skip, panel, out):
    """One of three products for x (N, C), d (N, F) and w (C, F), of each only the columns from `skip` on but of C.

    TIMES writes out (N, F): x w. TIMES_TURNED writes out (N, C): d w'. TURNED_TIMES accumulates into out (C, F):
    x' d. `panel` (PANEL,) is scratch. PACKED writes what TIMES or TIMES_TURNED would, of all columns, where b begins
    with what `panels_jit` made of w: for few rows, and a w that many products have. Gives how many panels those were.
    """
    turned = kind == TURNED_TIMES
    first = skip if kind == TIMES_TURNED else 0
    width_ = panel_width(b[0] if kind == PACKED else panel)
    panels = -(-out.shape[1] // width_)
    # Sums of tall blocks, column by column, stay in the second-level cache until they are complete; where rows are
    # summed over, few of them stay in the first-level cache for all columns.
    height = DEEP if turned else TALL
    for begin in range(0, a.shape[0], height):
        end = min(begin + height, a.shape[0])
        top, bottom = (START, out.shape[0]) if turned else (begin, end)
        start, deep = (begin, end) if turned else (first, a.shape[1])
        for j in range(0 if kind == TIMES_TURNED else skip, out.shape[1], width_):
            wide = min(width_, out.shape[1] - j)
            for k in range(start, deep, DEEP):
                stop = min(k + DEEP, deep)
                add = turned or k > first
                right = panel
                if kind == PACKED:
                    right = b[k // DEEP * panels + j // width_]
                else:
                    _copy_panel(b, kind, k, stop, j, wide, panel)
                if wide > width_ // 2:
                    for i in range(top, bottom, ROWS):
                        _whole_tile(a, i, k, stop - k, turned, right, out, j, wide, add)
                else:
                    for i in range(top, bottom, ROWS):
                        _half_tile(a, i, k, stop - k, turned, right, out, j, wide, add)
    return -(-a.shape[1] // DEEP) * panels if kind == PACKED else 0
