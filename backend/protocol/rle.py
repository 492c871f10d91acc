"""Encodes and decodes Label Studio's run-length code of painted masks.

The format is that of the npm package ``@thi.ng/rle-pack``, over the mask repeated to RGBA and read row by row. A header
of 53 bits (32: number of values; 5: bits per value - 1; four times 4: bits of each of four run sizes - 1) is followed
by codes, most significant bit first: 1 bit "a run" or "literal values", 2 bits naming a run size, that many bits for
the count - 1, then one value (run) or count values (literals). Label Studio always uses 8 bits and sizes 3, 4, 8, 16.

``encode`` writes the same bytes as ``mask2rle`` of label-studio-sdk, including its padding: 1 to 8 zero bits, 8 where
the codes already end on a byte.

>>> mask = Mask.from_array(np.array([[False, True], [False, False]]))
>>> code = encode(mask)
>>> code[:4].hex()
'00000010'
>>> decode(code, (2, 2)).to_array().tolist()
[[False, True], [False, False]]
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from model.types import BoolArray, Mask

Ints: TypeAlias = npt.NDArray[np.int64]
Words: TypeAlias = npt.NDArray[np.uint64]

CHANNELS = 4
WORD_BITS = 8
RUN_SIZES = (3, 4, 8, 16)
HEADER_BITS = 32 + 5 + 4 * len(RUN_SIZES)
LONGEST_RUN = 1 << RUN_SIZES[-1]
MAX_VALUES = (1 << 32) - 1
FEW_RUNS = 20_000  # filling slice by slice beats one pass over all pixels up to about here


def encode(mask: Mask) -> bytes:
    """Return the code of a mask: 255 on the object, 0 elsewhere, ``height * width * 4`` values in all.

    The cost grows with the mask's crop and its number of runs, not with the image.

    Raises:
        ValueError: the image has more pixels than the format's 32-bit count can hold.
    """
    height, width = mask.original_size
    total = height * width * CHANNELS
    if total > MAX_VALUES:
        raise ValueError(f"mask: expected at most {MAX_VALUES // CHANNELS} pixels, got {height * width}")
    starts, ends = _runs_of(mask)
    bounds = np.empty(2 * len(starts) + 2, dtype=np.int64)
    bounds[0], bounds[-1], bounds[1:-1:2], bounds[2:-1:2] = 0, height * width, starts, ends
    lengths = np.diff(bounds) * CHANNELS
    values = np.zeros(len(lengths), dtype=np.uint64)
    values[1::2] = 255
    filled = lengths > 0
    codes, sizes = _run_codes(lengths[filled], values[filled])
    header, header_sizes = _header(total)
    return _pack(np.concatenate([header, codes]), np.concatenate([header_sizes, sizes]))


def decode(code: bytes, size: tuple[int, int]) -> Mask:
    """Return the mask of an image of ``size`` (height, width), true where alpha is not 0, as in the editor.

    Raises:
        ValueError: the code is damaged, or does not hold ``height * width * 4`` values.
    """
    height, width = size
    word_bits, run_sizes = _check_header(code, height * width * CHANNELS)
    lengths, values = _read_codes(code, word_bits, run_sizes)
    ends = np.cumsum(lengths)
    if not len(ends) or ends[-1] < height * width * CHANNELS:
        count = int(ends[-1]) if len(ends) else 0
        raise ValueError(f"rle: expected {height * width * CHANNELS} values, got {count}")
    # Pixel k's alpha is value 4 k + 3, so the run [a, b) of values colours the pixels [a // 4, b // 4).
    ends = np.minimum(ends, height * width * CHANNELS) // CHANNELS
    starts = np.concatenate([[0], ends[:-1]])
    on = (values != 0) & (starts < ends)
    return _fill(starts[on], ends[on], size)


def _runs_of(mask: Mask) -> tuple[Ints, Ints]:
    """Return where the runs of true pixels start and end in the whole image read row by row."""
    crop, (x, y), width = mask.crop, mask.offset, mask.original_size[1]
    if crop.size == 0:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty
    if crop.shape[1] == width:  # no gap between rows, so a run may continue in the next one
        stride, flat = width, crop.reshape(-1)
    else:  # one false column ends every run with its row
        stride = crop.shape[1] + 1
        padded = np.zeros((crop.shape[0], stride), dtype=np.bool_)
        padded[:, :-1] = crop
        flat = padded.reshape(-1)
    changes: Ints = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.concatenate([[0], changes])
    if len(changes) % 2:
        changes = np.concatenate([changes, [len(flat)]])
    rows, columns = np.divmod(changes, stride)
    whole = (rows + y) * width + columns + x
    return whole[0::2], whole[1::2]


def _run_codes(lengths: Ints, values: Words) -> tuple[Words, Ints]:
    """Return the codes of runs and their sizes in bits; a run longer than the largest size takes several codes."""
    pieces = (lengths + LONGEST_RUN - 1) // LONGEST_RUN
    counts: Ints = lengths
    if (pieces > 1).any():
        last = np.cumsum(pieces) - 1
        counts = np.full(int(pieces.sum()), LONGEST_RUN, dtype=np.int64)
        counts[last] = lengths - (pieces - 1) * LONGEST_RUN
        kind = np.searchsorted(np.array([8, 16, 256]), np.repeat(lengths, pieces))
        values = np.repeat(values, pieces)
    else:
        kind = np.searchsorted(np.array([8, 16, 256]), lengths)
    count_bits = np.array(RUN_SIZES)[kind]
    head = (np.uint64(4) + kind.astype(np.uint64)) << (count_bits + WORD_BITS).astype(np.uint64)
    codes = head | ((counts - 1).astype(np.uint64) << np.uint64(WORD_BITS)) | values
    return codes, 3 + count_bits + WORD_BITS


def _header(total: int) -> tuple[Words, Ints]:
    fields = [(total, 32), (WORD_BITS - 1, 5), *((size - 1, 4) for size in RUN_SIZES)]
    return np.array([value for value, _ in fields], dtype=np.uint64), np.array([bits for _, bits in fields])


def _pack(codes: Words, sizes: Ints) -> bytes:
    """Return codes of the given sizes in bits (each below 64), one after the other, padded with 1 to 8 zero bits."""
    ends = np.cumsum(sizes)
    starts = ends - sizes
    words, offsets = starts >> 6, starts & 63
    room = 64 - offsets - sizes
    inside = np.where(
        room >= 0,
        codes << np.maximum(room, 0).astype(np.uint64),
        codes >> np.maximum(-room, 0).astype(np.uint64),
    )
    # Every code is shorter than a word, so every word has a code that starts in it, and at most one spills into it.
    firsts = np.flatnonzero(np.diff(words, prepend=-1))
    packed = np.zeros(int(ends[-1] >> 6) + 1, dtype=np.uint64)
    packed[: len(firsts)] = np.bitwise_or.reduceat(inside, firsts)
    spilling = np.flatnonzero(room < 0)
    packed[words[spilling] + 1] |= codes[spilling] << (64 + room[spilling]).astype(np.uint64)
    return packed.astype(">u8").tobytes()[: int(ends[-1]) // 8 + 1]


def _check_header(code: bytes, total: int) -> tuple[int, tuple[int, ...]]:
    """Return the bits of a value and of the four run sizes; check that the code holds ``total`` values."""
    if len(code) * 8 < HEADER_BITS:
        raise ValueError(f"rle: expected at least {(HEADER_BITS + 7) // 8} bytes, got {len(code)}")
    header = int.from_bytes(code[:7], "big") >> (56 - HEADER_BITS)
    count, word_bits = header >> 21, ((header >> 16) & 31) + 1
    if count != total:
        raise ValueError(f"rle: expected {total} values, got {count}")
    if word_bits > WORD_BITS:
        raise ValueError(f"rle: expected values of at most {WORD_BITS} bits, got {word_bits}")
    run_sizes = tuple(((header >> shift) & 15) + 1 for shift in (12, 8, 4, 0))
    longest = (HEADER_BITS + total * (3 + max(run_sizes) + word_bits)) // 8 + 2  # each value in a code of its own
    if len(code) > longest:
        raise ValueError(f"rle: expected at most {longest} bytes for {total} values, got {len(code)}")
    return word_bits, run_sizes


def _read_codes(code: bytes, word_bits: int, run_sizes: tuple[int, ...]) -> tuple[Ints, Words]:
    """Return the lengths and values of all runs; a literal value is a run of one."""
    data = np.frombuffer(code + bytes(8), dtype=np.uint8)
    starts, literal_counts = _code_starts(code, word_bits, run_sizes)
    heads = _bits(data, starts, 3).astype(np.int64)
    count_bits = np.array(run_sizes)[heads & 3]
    counts = _bits(data, starts + 3, count_bits).astype(np.int64) + 1
    at = starts + 3 + count_bits
    if literal_counts:
        pieces = np.where(heads & 4, 1, counts)
        within = np.arange(int(pieces.sum())) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        at = np.repeat(at, pieces) + within * word_bits
        counts = np.repeat(np.where(heads & 4, counts, 1), pieces)
    return counts, _bits(data, at, word_bits)


def _code_starts(code: bytes, word_bits: int, run_sizes: tuple[int, ...]) -> tuple[Ints, int]:
    """Return the bit at which each code starts, and how many of the codes hold literal values.

    The length of a code is in its own first bits, so codes can only be walked one by one; the tables for each step are
    computed for all bits at once.
    """
    bits = np.unpackbits(np.frombuffer(code, dtype=np.uint8))
    ahead = bits[:-2] * 4 + bits[1:-1] * 2 + bits[2:]
    table = bytes([0] * 4 + [3 + size + word_bits for size in run_sizes] + [0] * 248)
    jumps = ahead.tobytes().translate(table)  # 0 means literals, whose count must be read
    end = len(bits)
    starts: list[int] = []
    append, position, literals = starts.append, HEADER_BITS, 0
    last = end - (3 + min(run_sizes) + word_bits)
    while position <= last:
        jump = jumps[position]
        if not jump:
            size = run_sizes[ahead[position]]
            first = (position + 3) >> 3
            window = int.from_bytes(code[first : first + 4].ljust(4, b"\0"), "big")
            count = ((window >> (32 - ((position + 3) & 7) - size)) & ((1 << size) - 1)) + 1
            jump = 3 + size + count * word_bits
            literals += 1
        if position + jump > end:  # padding, or a truncated code; the caller's count of values tells which
            literals -= not jumps[position]
            break
        append(position)
        position += jump
    return np.array(starts, dtype=np.int64), literals


def _bits(data: npt.NDArray[np.uint8], starts: Ints, count: Ints | int) -> Words:
    """Return up to 16 bits from each of the bit positions ``starts``."""
    at = starts >> 3
    window = data[at].astype(np.int64) << 16 | data[at + 1].astype(np.int64) << 8 | data[at + 2]
    values: Ints = (window >> (24 - (starts & 7) - count)) & ((1 << np.asarray(count)) - 1)
    return values.astype(np.uint64)


def _fill(starts: Ints, ends: Ints, size: tuple[int, int]) -> Mask:
    """Return the mask that is true on the pixels [starts, ends) of the image read row by row."""
    width = size[1]
    if not len(starts):
        return Mask(np.zeros((0, 0), dtype=np.bool_), (0, 0), size)
    first_rows, last_rows = starts // width, (ends - 1) // width
    top, bottom = int(first_rows[0]), int(last_rows[-1]) + 1
    left, right = 0, width
    if (first_rows == last_rows).all():
        left, right = int((starts - first_rows * width).min()), int((ends - last_rows * width).max())
        shift = first_rows * width + left - (first_rows - top) * (right - left)
        starts, ends = starts - shift, ends - shift
    else:
        starts, ends = starts - top * width, ends - top * width
    crop: BoolArray = np.zeros((bottom - top, right - left), dtype=np.bool_)
    flat = crop.reshape(-1)
    if len(starts) <= FEW_RUNS:
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            flat[start:end] = True
    else:
        steps = np.zeros(flat.size + 1, dtype=np.int8)
        steps[starts] += 1
        steps[ends] -= 1
        flat[:] = np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
    return Mask(crop, (left, top), size)
