"""Separate the pixels of an image file from its metadata, of which only the orientation matters.

Cameras, phones and editors write metadata that break every rule, and Pillow refuses some of it together with the image.
So it gets to see only what is needed for the pixels.
"""

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

UPRIGHT = 1
MADE_BY_GANTRAIN = "Software", "gantrain"
"""Key and value of the text in PNG files of pictures that gantrain makes to be looked at, such as grids of samples."""

SAMPLE_BY_GANTRAIN = "gantrain sample"
"""The value of the same key in samples that are written one by one."""

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4
_MAX_TEXT_BYTES = 2**20  # of a compressed text, decompressed
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_FOR_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

_JPEG = b"\xff\xd8\xff"
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")  # all that have a length, except 0xD8 and 0xD9
_START_OF_SCAN, _END_OF_IMAGE, _COMMENT = 0xDA, 0xD9, 0xFE
_MIN_BYTES_FOR_PIXELS = {
    0xE0: 14,
    0xEE: 12,
}  # JFIF and Adobe segments decide about colors; libjpeg ignores shorter ones
_XMP = b"http://ns.adobe.com/xap/1.0/\0"

_TIFF = (b"II*\0", b"MM\0*")
_TIFF_FOR_PIXELS = {
    *range(254, 260),
    *(262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 332, 338, 339, 347),
    *range(512, 522),
    *range(529, 533),
}


@dataclass(frozen=True)
class Separated:
    """An image file without its metadata.

    Attributes:
        pixels: a complete file of the same format.
        orientation: 1 (upright) to 8, as EXIF counts; None: the decoder applies it, or the format has none.
        is_own: whether gantrain made the picture to be looked at.
    """

    pixels: bytes
    orientation: int | None = None
    is_own: bool = False


def separate(content: bytes) -> Separated:
    """Separate the pixels of an image file from its metadata; unknown formats and broken files are left as they are."""
    if content.startswith(_JPEG):
        return _separate_jpeg(content)
    if content.startswith(_PNG):
        return _separate_png(content)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return Separated(content, _orientation_of_webp(content))
    if content.startswith(_TIFF):
        return Separated(_tiff_for_pixels(content))
    if content[4:8] == b"ftyp":
        return Separated(_without_exif_items(content))
    return Separated(content)


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation that EXIF says, or else XMP, 1 to 8; 1 if it cannot be read.

    Args:
        exif: a block with or without the prefix "Exif".
    """
    found = _exif_orientation(exif)
    if found is None and (match := _XMP_ORIENTATION.search(xmp)):
        found = int(match[1])
    return found if found is not None and 1 <= found <= 8 else UPRIGHT


def _exif_orientation(exif: bytes) -> int | None:
    block = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None or block[2:4] not in (b"*\0", b"\0*"):
        return None
    found = None
    try:
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (num,) = struct.unpack_from(f"{order}H", block, start)
        for i in range(num):
            tag, kind, count = struct.unpack_from(f"{order}HHL", block, start + 2 + 12 * i)
            if tag == _ORIENTATION and kind in (_SHORT, _LONG) and count == 1:
                (found,) = struct.unpack_from(order + ("H" if kind == _SHORT else "L"), block, start + 10 + 12 * i)
    except struct.error:  # it ends earlier
        pass
    return found


def _separate_jpeg(content: bytes) -> Separated:
    kept, exif, xmp = [content[:2]], b"", b""
    start = position = 2
    while (match := _JPEG_MARKER.match(content, position)) is not None:
        marker, end = match[1][0], match.end() + int.from_bytes(content[match.end() : match.end() + 2])
        if marker in (0xD8, _END_OF_IMAGE, _START_OF_SCAN) or not match.end() + 2 <= end <= len(content):
            break
        if 0xE0 <= marker <= 0xEF or marker == _COMMENT:
            payload = content[match.end() + 2 : end]
            if len(payload) < _MIN_BYTES_FOR_PIXELS.get(marker, len(payload) + 1):
                kept.append(content[start:position])
                start = end
                if marker == 0xE1 and payload.startswith(b"Exif\0\0"):
                    exif += payload[6:]
                elif marker == 0xE1 and payload.startswith(_XMP):
                    xmp = payload[len(_XMP) :]
        position = end
    pixels = content if start == 2 else b"".join([*kept, content[start:]])
    return Separated(pixels, orientation_of(exif, xmp))


def until_end_of_jpeg(content: bytes) -> bytes:
    """Return a JPEG without what follows its end, such as the video of a motion photo."""
    position = 2
    while (match := _JPEG_MARKER.search(content, position)) is not None:
        if match[1][0] == _END_OF_IMAGE:
            return content[: match.end()]
        position = match.end() + max(2, int.from_bytes(content[match.end() : match.end() + 2]))
    return content


def _separate_png(content: bytes) -> Separated:
    kept, exif, is_own = [_PNG], None, False
    texts: dict[bytes, tuple[bytes, bytes]] = {}
    start = position = len(_PNG)
    while position + 8 <= len(content):
        kind = content[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(content[position : position + 4])
        if end > len(content):
            break
        if kind not in _PNG_FOR_PIXELS and kind[:1].islower():
            payload = content[position + 8 : end - 4]
            kept.append(content[start:position])
            start = end
            if kind == b"eXIf":
                exif = payload
            elif kind in (b"tEXt", b"zTXt", b"iTXt"):
                key, _, text = payload.partition(b"\0")
                texts[key] = kind, text  # decompressed only once, because there may be thousands of them
                is_own |= payload == "\0".join(MADE_BY_GANTRAIN).encode()
        position = end
        if kind == b"IEND":
            break
    kept.append(content[start:position] if content[position - 8 : position - 4] == b"IEND" else content[start:])
    if exif is None:
        exif = _unhexed(_text(texts, b"Raw profile type exif"))
    return Separated(b"".join(kept), orientation_of(exif, _text(texts, b"XML:com.adobe.xmp")), is_own)


def _text(texts: Mapping[bytes, tuple[bytes, bytes]], key: bytes) -> bytes:
    # As much of it as decompresses; b"" if there is none. A text is stored with the kind of its chunk.
    kind, content = texts.get(key, (b"tEXt", b""))
    compressed = kind == b"zTXt"
    if kind == b"iTXt":
        compressed = content[:1] == b"\1"
        content = content[2:].partition(b"\0")[2].partition(b"\0")[2]
    elif compressed:
        content = content[1:]
    if not compressed:
        return content
    try:
        return zlib.decompressobj().decompress(content, _MAX_TEXT_BYTES)
    except zlib.error:
        return b""


def _unhexed(text: bytes) -> bytes:
    # As ImageMagick writes EXIF: three lines, then the block in hexadecimal digits.
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""


def _orientation_of_webp(content: bytes) -> int:
    found: dict[bytes, bytes] = {}
    position = 12
    while position + 8 <= len(content):
        kind, num_bytes = struct.unpack_from("<4sL", content, position)
        if kind in (b"EXIF", b"XMP "):
            found.setdefault(kind, content[position + 8 : position + 8 + num_bytes])
        position += 8 + num_bytes + num_bytes % 2
    return orientation_of(found.get(b"EXIF", b""), found.get(b"XMP ", b""))


def _tiff_for_pixels(content: bytes) -> bytes:
    # The first directory keeps only the entries for the pixels, and becomes the last one.
    order = "<" if content[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(f"{order}L", content, 4)
        (num,) = struct.unpack_from(f"{order}H", content, start)
        entries = [content[at : at + 12] for at in range(start + 2, start + 2 + 12 * num, 12)]
        kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] in _TIFF_FOR_PIXELS]
    except struct.error:
        return content
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + bytes(4)
    return content[:start] + directory + content[start + len(directory) :]


def _without_exif_items(content: bytes) -> bytes:
    # In AVIF and HEIC the orientation is a property of the image; EXIF is an item that decoders would check. With an
    # unknown type they skip it, and all positions in the file stay the same.
    position = 0
    while position + 8 <= len(content):
        num_bytes, kind = struct.unpack_from(">L4s", content, position)
        if kind == b"meta":
            end = position + num_bytes
            return content[:position] + content[position:end].replace(b"Exif", b"skip") + content[end:]
        if num_bytes < 8:
            break
        position += num_bytes
    return content
