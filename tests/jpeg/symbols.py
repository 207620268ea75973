"""Gray JPEGs made symbol by symbol, under Huffman codes of any lengths: what no encoder writes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, TypeAlias

from tests.jpeg.surgery import DHT, DQT, SOF0, SOS, Segment, put_together

Symbols: TypeAlias = Sequence[tuple[int, int]]
"""Of a block: (symbol, bits of its value), the DC first."""

LENGTHS: Final = {
    "as short as can be": [0, 0, 0, 0, 0, 0, 0, 255, 1],
    "short and long": [1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 249],
    "all but one long": [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255],
    "at the limit of the lookup": [0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 128],
}
"""How many codes of 1, 2, ... bits a table of 256 symbols has."""


def codes(lengths: Sequence[int], symbols: Sequence[int]) -> dict[int, str]:
    """The canonical code of each symbol."""
    found, code, left = {}, 0, iter(symbols)
    for length, count in enumerate(lengths, start=1):
        for _ in range(count):
            if (symbol := next(left, None)) is not None:
                found[symbol] = f"{code:0{length}b}"
            code += 1
        code <<= 1
    return found


def table(kind: int, lengths: Sequence[int], symbols: Sequence[int]) -> Segment:
    counts, left = [], len(symbols)
    for count in [*lengths, *([0] * (16 - len(lengths)))]:
        counts.append(min(count, left))
        left -= counts[-1]
    return Segment(DHT, bytes((kind, *counts, *symbols)))


def of_symbols(blocks: Sequence[Symbols], lengths: Sequence[int], commonest: int = 0, padding: str = "1") -> bytes:
    """A gray JPEG, 8 pixels high, of these blocks. The commonest AC symbol has the shortest code."""
    ac_symbols = sorted(range(256), key=lambda symbol: (symbol != commonest, symbol % 16 + symbol // 16, symbol))
    dc_symbols = list(range(16))
    dc_codes, ac_codes = codes(lengths, dc_symbols), codes(lengths, ac_symbols)
    text = ""
    for block in blocks:
        for place, (symbol, value) in enumerate(block):
            size = symbol & 15
            text += (ac_codes if place else dc_codes)[symbol]
            text += f"{value & ((1 << size) - 1):0{size}b}" if size else ""
    text += padding * (-len(text) % 8)
    coded = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    sof = Segment(SOF0, struct.pack(">BHHBBBB", 8, 8, 8 * len(blocks), 1, 1, 0x11, 0))
    tables = [table(0x00, lengths, dc_symbols), table(0x10, lengths, ac_symbols)]
    return put_together(
        [Segment(DQT, bytes((0, *([1] * 64)))), sof, *tables, Segment(SOS, bytes((1, 1, 0, 0, 63, 0)), coded)]
    )


def symbols_of(coefficients: Sequence[int]) -> list[tuple[int, int]]:
    """A block's symbols as an encoder writes them; the first coefficient is a DC difference."""

    def valued(run: int, value: int) -> tuple[int, int]:
        size = abs(value).bit_length()
        return run << 4 | size, value if value > 0 else value + (1 << size) - 1

    found, run = [valued(0, coefficients[0])], 0
    for value in coefficients[1:]:
        if value == 0:
            run += 1
            continue
        found += [(0xF0, 0)] * (run // 16)
        found.append(valued(run % 16, value))
        run = 0
    return [*found, (0, 0)] if run else found
