"""Image formats: what is read, and what is rejected with which reason.

| format | extensions | read | rejected |
|---|---|---|---|
| JPEG | .jpg, .jpeg | grey, colour and CMYK; baseline and progressive | |
| PNG | .png | all kinds; the upper 8 bits of 16-bit channels | |
| GIF | .gif | the first frame; transparent pixels become black | a first frame smaller than the canvas |
| BMP | .bmp | 24 and 32 bits per pixel, and 8-bit greyscale | other palettes, 16 bits, compression, OS/2 headers |
| WebP | .webp | still, opaque images | animation, transparency |

The content decides, not the extension: a JPEG named `.png` is read. Alpha channels of PNG and BMP are dropped, so
transparent pixels keep their stored colour. EXIF orientation is ignored, as in TensorFlow: rotate such images
beforehand (`mogrify -auto-orient`).
"""

import struct

import PIL.Image
import tensorflow as tf

# What `decode` says of an image that TensorFlow would decode wrongly.
UNSUPPORTED = "unsupported kind of BMP or GIF: save it as PNG"
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
_BLUE_GREEN_RED = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)  # memory order without colour masks
_GREYS = b"".join(bytes([level, level, level, 0]) for level in range(256))
_BMP_HEADER = 54  # bytes in the two headers of a BMP
_SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG", b"GIF8": "GIF", b"BM": "BMP"}


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decodes an image to `[height, width, 3]` uint8; see the table above for the formats.

    Args:
        data: scalar string, the bytes of a file.

    Raises:
        tf.errors.InvalidArgumentError: the bytes cannot be decoded, or TensorFlow would decode them wrongly.
    """
    # TensorFlow reads BMP palette indices as grey levels, and ignores colour masks and compression.
    # It shifts and truncates a GIF's first frame that is smaller than the canvas.
    image = tf.io.decode_image(data, channels=3, expand_animations=False)
    image.set_shape([None, None, 3])
    start = tf.strings.substr(data, 0, 2)
    is_doubtful = tf.equal(start, b"BM") | tf.equal(start, b"GI")
    is_right = tf.cond(is_doubtful, lambda: _is_right(data, tf.shape(image)), lambda: True)
    with tf.control_dependencies([tf.Assert(is_right, [UNSUPPORTED])]):
        return tf.identity(image)


# Not inlined, or every operation of the branch would be scheduled for JPEG and PNG too.
@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([3], tf.int32)],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _is_right(data: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Whether TensorFlow decodes a BMP or GIF correctly; `shape` is that of the decoded image."""
    is_bmp = tf.equal(tf.strings.substr(data, 0, 2), b"BM")
    return tf.cond(is_bmp, lambda: _is_plain_bmp(data), lambda: _fills_canvas(data, shape))


def _fills_canvas(data: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Whether a GIF's first frame, which has this shape, fills the canvas."""
    width, height = tf.unstack(tf.io.decode_raw(tf.strings.substr(data, 6, 4), tf.uint16), 2)
    return tf.reduce_all(tf.equal(tf.cast(tf.stack([height, width]), tf.int32), shape[:2]))


def _is_plain_bmp(data: tf.Tensor) -> tf.Tensor:
    """Whether TensorFlow decodes a BMP correctly."""
    # Zero padding gives truncated files a full header, which is then rejected.
    start = tf.strings.substr(tf.strings.join([data, bytes(_BMP_HEADER)]), 14, 40)
    header, _, _, planes_and_bits, compression, _, _, _, colours, _ = tf.unstack(tf.io.decode_raw(start, tf.int32), 10)
    bits = tf.bitwise.right_shift(planes_and_bits, 16)
    plain = tf.equal(compression, 0)
    masked = tf.equal(compression, 3) & tf.equal(_at(data, _BMP_HEADER, 12), _BLUE_GREEN_RED)
    grey = tf.equal(_at(data, 14 + header, len(_GREYS)), _GREYS) & (tf.equal(colours, 0) | tf.equal(colours, 256))
    known = (tf.equal(bits, 24) & plain) | (tf.equal(bits, 32) & (plain | masked)) | (tf.equal(bits, 8) & plain & grey)
    return known & (header >= 40)


def _at(data: tf.Tensor, start: tf.Tensor | int, length: int) -> tf.Tensor:
    """`length` bytes from `start`; fewer at the end of the data."""
    return tf.strings.substr(data, tf.clip_by_value(start, 0, tf.strings.length(data)), length)


def fault(path: str) -> str:
    """A short reason why `decode` fails on a file, from its first bytes."""
    with open(path, "rb") as file:
        start = file.read(2048)
    if not start:
        return "empty file"
    if start.startswith(b"BM"):
        reason = _fault_of_bmp(start)
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        reason = _fault_of_webp(start)
    else:
        kind = next((name for signature, name in _SIGNATURES.items() if start.startswith(signature)), None)
        if kind == "GIF" and _has_small_frame(path):
            reason = "GIF whose first frame is smaller than its canvas: save it as PNG"
        else:
            reason = f"damaged or cut off {kind}" if kind else _other_format(path)
    return reason


def _fault_of_bmp(start: bytes) -> str:
    if len(start) < _BMP_HEADER:
        return "damaged or cut off BMP"
    (header,) = struct.unpack_from("<I", start, 14)
    bits, compression = struct.unpack_from("<HI", start, 28)
    if header < 40:
        kind = "BMP with an OS/2 header"
    elif compression in (1, 2, 4, 5) or (compression == 3 and bits not in (16, 32)):
        kind = "compressed BMP"
    elif bits < 8 or (bits == 8 and start[14 + header :][: len(_GREYS)] != _GREYS):
        kind = "palette BMP"
    elif bits == 16:
        kind = "16-bit BMP"
    elif compression and start[_BMP_HEADER:][:12] != _BLUE_GREEN_RED:
        kind = "BMP with colour masks"
    else:
        return "damaged or cut off BMP"
    return f"{kind}: save it as PNG"


def _fault_of_webp(start: bytes) -> str:
    chunk, flags = start[12:16], start[20:25].ljust(5, b"\0")
    if chunk == b"VP8X" and flags[0] & 0x02:
        return "animated WebP: save a frame as PNG"
    if (chunk == b"VP8X" and flags[0] & 0x10) or (chunk == b"VP8L" and flags[4] & 0x10):
        return "WebP with transparency: save it as PNG"
    return "damaged or cut off WebP"


def _has_small_frame(path: str) -> bool:
    try:
        with PIL.Image.open(path) as image:
            return any(extent != (0, 0, *image.size) for _, extent, *_ in image.tile)
    except Exception:  # damaged; Pillow raises many types
        return False


def _other_format(path: str) -> str:
    try:
        with PIL.Image.open(path) as image:
            return f"{image.format} by its content: save it as PNG"
    except Exception:  # Pillow's plugins raise many types, such as RuntimeError for a damaged AVIF
        return "no JPEG, PNG, GIF, BMP or WebP by its content"
