"""Word-to-word attention as pictures: PNG data in the page, one colour on a clear ground.

The colour's opacity is the square root of the weight, so that small weights show; the same scale
holds for all pictures. Axes: L layers, H heads, W words (rows look, columns are looked at).
"""

import base64
import struct
import zlib
from dataclasses import dataclass

import numpy as np

from pipelines.report.characters import shortened
from pipelines.report.numbers import plain

MOST_WORDS = 48
"""Words of a picture; of more only the last ones are shown."""

MOST_PICTURES = 600
"""Heads with a picture of their own; of more only the first layers are shown."""

DEPTH = 16
"""Strengths of colour: four bits a pixel."""

COLOUR = bytes((0, 122, 204))
"""Readable on a light and on a dark ground."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One matrix."""

    source: str
    """PNG as a data address."""
    title: str
    """Where it stands, and its largest weight away from the first word, in words."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """All pictures of one text."""

    words: tuple[str, ...]
    """The words shown, in order."""
    mean: Picture
    """Mean over all layers and heads."""
    layers: tuple[tuple[int, tuple[Picture, ...]], ...]
    """Number of the layer from 0, and its heads."""
    words_cut: int
    """Words before the ones shown."""
    layers_cut: int
    """Layers after the ones shown."""


def gallery(words: list[str], weights_LHWW: np.ndarray) -> Gallery:
    """Turn attention matrices into pictures.

    Args:
        words: What stands at each row and column.
        weights_LHWW: Attention, rows sum to at most 1.

    Returns:
        The pictures, and how much was left out.
    """
    layers, heads = weights_LHWW.shape[:2]
    names = tuple(shortened(word, 24) or "␣" for word in words[-MOST_WORDS:])
    shown_LHWW = np.nan_to_num(weights_LHWW[:, :, -MOST_WORDS:, -MOST_WORDS:])
    most = max(1, min(layers, MOST_PICTURES // max(1, heads)))
    return Gallery(
        words=names,
        mean=_picture("mean of all layers and heads", names, shown_LHWW.mean(axis=(0, 1))),
        layers=tuple(
            (
                layer,
                tuple(
                    _picture(f"layer {layer}, head {head}", names, shown_LHWW[layer, head])
                    for head in range(heads)
                ),
            )
            for layer in range(most)
        ),
        words_cut=len(words) - len(names),
        layers_cut=layers - most,
    )


def _picture(where: str, words: tuple[str, ...], weights_WW: np.ndarray) -> Picture:
    inside = weights_WW.copy()
    inside[:, 0] = 0.0  # most heads rest on the first word, which says little
    row, column = np.unravel_index(int(inside.argmax()), inside.shape)
    title = f"{where}; strongest: “{words[row]}” looks at “{words[column]}”, "
    return Picture(source=png(weights_WW), title=title + plain(float(inside[row, column]), 2))


def png(weights_RC: np.ndarray) -> str:
    """Encode weights as a PNG of one colour whose opacity is their square root.

    Args:
        weights_RC: In 0..1; clipped to it.

    Returns:
        A data address, the same for the same weights.
    """
    rows, columns = weights_RC.shape
    level_RC = np.rint(np.sqrt(np.clip(weights_RC, 0, 1)) * (DEPTH - 1)).astype(np.uint8)
    padded = np.pad(level_RC, ((0, 0), (0, columns % 2)))
    packed = padded[:, 0::2] << 4 | padded[:, 1::2]
    lines = b"".join(b"\0" + line.tobytes() for line in packed)
    opacity = bytes(round(255 * step / (DEPTH - 1)) for step in range(DEPTH))
    header = struct.pack(">IIBBBBB", columns, rows, 4, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", COLOUR * DEPTH),
        (b"tRNS", opacity),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    ]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
