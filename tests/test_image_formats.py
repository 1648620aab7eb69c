"""Each kind of image file has the colours that Pillow gives it, or is refused with its name and the reason."""

import io
import pickle
import shutil
import struct
import zlib

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from sfocus_tf.configs import folder

from sfocus_tf import data, training
from sfocus_tf.data.formats import decode

ROWS, COLUMNS = np.mgrid[:10, :13]
PIXELS = np.stack([ROWS * 25, COLUMNS * 19, (ROWS + COLUMNS) * 10], axis=-1).astype(np.uint8)
IMAGE = PIL.Image.fromarray(PIXELS)
GREY = np.asarray(IMAGE.convert("L"))
SIXTEEN = IMAGE.convert("P", palette=PIL.Image.Palette.ADAPTIVE, colors=16)
RED_GREEN_BLUE = struct.pack("<3I", 0xFF, 0xFF00, 0xFF0000)
BLUE_GREEN_RED = struct.pack("<3I", 0xFF0000, 0xFF00, 0xFF)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def translucent():
    image = IMAGE.convert("RGBA")
    image.putalpha(PIL.Image.fromarray((COLUMNS * 19).astype(np.uint8)))
    return image


def bmp(rows, bits, compression=0, table=b"", colours=0, header=40, top_down=False):
    """A BMP by hand; `rows` is `[height, bytes a row]` from the top, or bytes that are compressed."""
    if isinstance(rows, np.ndarray):
        rows = rows.reshape(len(rows), -1)
        rows = np.pad(rows if top_down else rows[::-1], ((0, 0), (0, -rows.shape[1] % 4))).tobytes()
    if header == 12:
        sizes = struct.pack("<IHHHH", 12, 13, 10, 1, bits)
    else:
        height = -10 if top_down else 10
        sizes = struct.pack("<IiiHHIIiiII", header, 13, height, 1, bits, compression, len(rows), 0, 0, colours, 0)
        # Later headers have the masks in them, at the same place.
        sizes += table[: header - 40].ljust(header - 40, b"\0")
        table = table[header - 40 :]
    start = 14 + len(sizes) + len(table)
    return struct.pack("<2sIII", b"BM", start + len(rows), 0, start) + sizes + table + rows


def four_bytes(pixels):
    return np.concatenate([pixels, np.zeros((10, 13, 1), np.uint8)], axis=-1)


def ramp(levels):
    return b"".join(bytes([level, level, level, 0]) for level in levels)


def sixteen_bits():
    red, green, blue = (PIXELS[..., channel].astype(np.uint16) >> 3 for channel in range(3))
    return (red << 10 | green << 5 | blue).astype("<u2").view(np.uint8)


def palette_of_sixteen():
    return four_bytes_of_palette(np.reshape(SIXTEEN.getpalette()[:48], (-1, 3)))


def four_bytes_of_palette(palette):
    palette = np.pad(palette.astype(np.uint8), ((0, 16 - len(palette)), (0, 1)))
    return palette[:, [2, 1, 0, 3]].tobytes()


def nibbles():
    numbers = np.pad(np.asarray(SIXTEEN), ((0, 0), (0, 1)))
    return numbers[:, ::2] << 4 | numbers[:, 1::2]


def run_lengths():
    rows = (b"".join(bytes([1, number]) for number in row) + b"\0\0" for row in np.asarray(SIXTEEN)[::-1])
    return b"".join(rows) + b"\0\1"


def png(rows, depth, colour_type, interlaced=False):
    """A PNG by hand, as Pillow writes neither interlaced ones nor colours of 16 bits."""
    if interlaced:
        passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
        parts = [rows[y::down, x::right] for x, y, right, down in passes]
    else:
        parts = [rows]
    lines = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    header = struct.pack(">IIBBBBB", 13, 10, depth, colour_type, 0, 0, interlaced)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    written = (struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def turned():
    """EXIF's note that the image is to be turned by a quarter."""
    exif = PIL.Image.Exif()
    exif[0x112] = 6
    return exif


def frames():
    return {"save_all": True, "append_images": [PIL.Image.fromarray(PIXELS[::-1].copy())]}


def small_frame(left, top):
    """A GIF whose only frame has 6x5 pixels of a canvas of 13x10."""
    data = bytearray(saved(SIXTEEN.crop((0, 0, 6, 5)), "GIF", interlace=False))
    data[6:10] = struct.pack("<HH", 13, 10)
    descriptor = data.index(b"," + bytes(4) + struct.pack("<HH", 6, 5))
    data[descriptor + 1 : descriptor + 5] = struct.pack("<HH", left, top)
    return bytes(data)


# Name of the file -> its bytes; the pixels are Pillow's.
RIGHT = {
    "24.bmp": saved(IMAGE, "BMP"),
    "24_top_down.bmp": bmp(PIXELS[..., ::-1], 24, top_down=True),
    "24_gap.bmp": bmp(PIXELS[..., ::-1], 24, table=bytes(64)),
    "24_v5.bmp": bmp(PIXELS[..., ::-1], 24, header=124),
    "32.bmp": bmp(four_bytes(PIXELS[..., ::-1]), 32),
    "32_top_down.bmp": bmp(four_bytes(PIXELS[..., ::-1]), 32, top_down=True),
    "32_masks.bmp": bmp(four_bytes(PIXELS[..., ::-1]), 32, 3, BLUE_GREEN_RED),
    "32_v4.bmp": bmp(four_bytes(PIXELS[..., ::-1]), 32, 3, BLUE_GREEN_RED, header=108),
    "rgba.bmp": saved(translucent(), "BMP"),
    "grey.bmp": saved(IMAGE.convert("L"), "BMP"),
    "grey_top_down.bmp": bmp(GREY, 8, table=ramp(range(256)), colours=256, top_down=True),
    "rgb.png": saved(IMAGE, "PNG"),
    "palette.png": saved(IMAGE.convert("P"), "PNG"),
    "palette_4.png": saved(SIXTEEN, "PNG", bits=4),
    "palette_transparent.png": saved(IMAGE.convert("P"), "PNG", transparency=3),
    "grey.png": saved(IMAGE.convert("L"), "PNG"),
    "grey_alpha.png": saved(translucent().convert("LA"), "PNG"),
    "rgba.png": saved(translucent(), "PNG"),
    "rgb_transparent.png": saved(IMAGE, "PNG", transparency=(0, 0, 0)),
    "1.png": saved(IMAGE.convert("1"), "PNG"),
    "interlaced.png": png(PIXELS, 8, 2, interlaced=True),
    "jpeg.jpg": saved(IMAGE, "JPEG"),
    "grey.jpg": saved(IMAGE.convert("L"), "JPEG"),
    "cmyk.jpg": saved(IMAGE.convert("CMYK"), "JPEG"),
    "progressive.jpg": saved(IMAGE, "JPEG", progressive=True),
    "turned.jpg": saved(IMAGE, "JPEG", exif=turned()),  # EXIF is not followed
    "still.gif": saved(SIXTEEN, "GIF", interlace=False),
    "interlaced.gif": saved(SIXTEEN, "GIF", interlace=True),
    "animated.gif": saved(IMAGE, "GIF", **frames()),
    "lossy.webp": saved(IMAGE, "WEBP"),
    "lossless.webp": saved(IMAGE, "WEBP", lossless=True),
    "profile.webp": saved(IMAGE, "WEBP", icc_profile=bytes(200)),
    "a_jpeg.png": saved(IMAGE, "JPEG"),
    "a_png.jpg": saved(IMAGE, "PNG"),
    "a_gif.bmp": saved(SIXTEEN, "GIF"),
    "UPPER.PNG": saved(IMAGE, "PNG"),
    "UPPER.JPEG": saved(IMAGE, "JPEG"),
}

SMALL = "GIF whose first frame is smaller than its canvas: save it as PNG"
PALETTE, ALPHA = "palette BMP: save it as PNG", "WebP with transparency: save it as PNG"
REFUSED = {
    "8.bmp": (saved(IMAGE.convert("P"), "BMP"), PALETTE),
    "8_top_down.bmp": (bmp(np.asarray(SIXTEEN), 8, 0, palette_of_sixteen(), 16, top_down=True), PALETTE),
    "8_v5.bmp": (bmp(GREY, 8, 0, bytes(84) + ramp(range(255, -1, -1)), header=124), PALETTE),
    "inverted.bmp": (bmp(GREY, 8, 0, ramp(range(255, -1, -1)), 256), PALETTE),
    "4.bmp": (bmp(nibbles(), 4, 0, palette_of_sixteen(), 16), PALETTE),
    "1.bmp": (saved(IMAGE.convert("1"), "BMP"), PALETTE),
    "16.bmp": (bmp(sixteen_bits(), 16), "16-bit BMP: save it as PNG"),
    "rle.bmp": (bmp(run_lengths(), 8, 1, palette_of_sixteen(), 16), "compressed BMP: save it as PNG"),
    "os2.bmp": (bmp(PIXELS[..., ::-1], 24, header=12), "BMP with an OS/2 header: save it as PNG"),
    "masks.bmp": (bmp(four_bytes(PIXELS), 32, 3, RED_GREEN_BLUE), "BMP with colour masks: save it as PNG"),
    "alpha.webp": (saved(translucent(), "WEBP"), ALPHA),
    "alpha_lossless.webp": (saved(translucent(), "WEBP", lossless=True), ALPHA),
    "animated.webp": (saved(IMAGE, "WEBP", **frames()), "animated WebP: save a frame as PNG"),
    "offset.gif": (small_frame(4, 3), SMALL),
    "corner.gif": (small_frame(0, 0), SMALL),
    "empty.jpg": (b"", "empty file"),
    "tiff.jpg": (saved(IMAGE, "TIFF"), "TIFF by its content: save it as PNG"),
    "page.jpg": (b"<html>404</html>", "no JPEG, PNG, GIF, BMP or WebP by its content"),
    "B.bmp": (b"BM", "damaged or cut off BMP"),
    "cut.jpg": (RIGHT["jpeg.jpg"][:-40], "damaged or cut off JPEG"),
    "cut.png": (RIGHT["rgb.png"][:-40], "damaged or cut off PNG"),
    "cut.gif": (RIGHT["still.gif"][:-40], "damaged or cut off GIF"),
    "cut.bmp": (RIGHT["24.bmp"][:-40], "damaged or cut off BMP"),
    "cut_grey.bmp": (RIGHT["grey.bmp"][:-40], "damaged or cut off BMP"),
    "cut.webp": (RIGHT["lossy.webp"][:-40], "damaged or cut off WebP"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_read_has_the_pixels_of_pillow(name, tmp_path):
    (tmp_path / name).write_bytes(RIGHT[name])
    expected = np.asarray(PIL.Image.open(tmp_path / name).convert("RGB")).astype(np.float32)
    assert expected.std() > 50  # else a wrong image could pass
    read = data.read_images([tmp_path / name], (10, 13))[0]
    # Two decoders of JPEG round differently.
    np.testing.assert_allclose(read, expected, atol=4 if RIGHT[name].startswith(b"\xff\xd8") else 0)


def test_sixteen_bits_a_channel_are_read_by_their_upper_eight():
    """Pillow's own conversion clips them instead."""
    for pixels, colour_type in ((PIXELS, 2), (GREY, 0)):
        wide = pixels.astype(">u2") * 256 + 129
        expected = pixels if pixels.ndim == 3 else np.repeat(pixels[..., np.newaxis], 3, axis=-1)
        np.testing.assert_array_equal(decode(png(wide.astype(">u2"), 16, colour_type)), expected)


def test_transparent_pixels_of_a_gif_are_black():
    numbers = np.asarray(SIXTEEN)
    hidden = numbers == numbers[5, 5]
    assert 0 < hidden.sum() < hidden.size
    expected = np.where(hidden[..., np.newaxis], 0, np.asarray(SIXTEEN.convert("RGB")))
    np.testing.assert_array_equal(
        decode(saved(SIXTEEN, "GIF", transparency=int(numbers[5, 5]), interlace=False)), expected
    )


@pytest.fixture
def class_folders(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            IMAGE.save(tmp_path / split / name / "good.png")
    return tmp_path


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_with_the_reason(name, class_folders):
    content, reason = REFUSED[name]
    file = class_folders / "train" / "cat" / name
    file.write_bytes(content)
    with pytest.raises(data.CorruptImageError) as caught:
        data.load("folder", "train", data_dir=class_folders)
    assert f"1 image(s) cannot be decoded: {file} ({reason}). Fix" in str(caught.value)
    assert caught.value.paths == (str(file),) and caught.value.reasons == (reason,)
    with pytest.raises(data.CorruptImageError, match=name):
        data.read_images([file], (10, 13))
    # Nor is it read, with wrong colours, where files are not checked beforehand.
    unchecked = data.load("folder", "train", data_dir=class_folders, check_images=False)
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(unchecked.epochs(0, 1))
    kept = data.load("folder", "train", data_dir=class_folders, skip_corrupt=True)
    assert kept.source.skipped == (str(file),) and kept.source.size == 2


@pytest.mark.parametrize("name", sorted(REFUSED)[:2])
def test_a_run_that_does_not_check_files_first_says_how_to_find_the_bad_one(name, class_folders):
    config = folder.get_config("tiny")
    config.update({"data_dir": str(class_folders), "check_images": False, "validation_fraction": 0.0})
    (class_folders / "train" / "cat" / name).write_bytes(REFUSED[name][0])
    with pytest.raises(ValueError, match="an image cannot be decoded. Run once with --config.check_images=true"):
        training.run(config, class_folders / "run")


def test_each_of_several_files_has_its_reason(class_folders):
    shutil.rmtree(class_folders / "test")
    for name in ("1.bmp", "empty.jpg", "alpha.webp"):
        (class_folders / "train" / "dog" / name).write_bytes(REFUSED[name][0])
    with pytest.raises(data.CorruptImageError) as caught:
        data.load("folder", "train", data_dir=class_folders)
    dog = class_folders / "train" / "dog"
    assert f"3 image(s) cannot be decoded: {dog / '1.bmp'} ({PALETTE}), {dog / 'alpha.webp'} ({ALPHA}), " in str(
        caught.value
    )
    assert caught.value.reasons == (PALETTE, ALPHA, "empty file")


def test_the_error_is_sent_to_other_processes_whole(tmp_path):
    """Also where the file is gone by then."""
    (tmp_path / "1.bmp").write_bytes(REFUSED["1.bmp"][0])
    error = data.CorruptImageError([str(tmp_path / "1.bmp")])
    (tmp_path / "1.bmp").unlink()
    other = pickle.loads(pickle.dumps(error))
    assert (other.paths, other.reasons, str(other)) == (error.paths, (PALETTE,), str(error))


def test_a_file_that_stops_pillow_is_named_all_the_same(tmp_path, monkeypatch):
    """As damaged AVIF files stop it, with a RuntimeError."""

    def broken(path):
        raise RuntimeError("Failed to decode image")

    monkeypatch.setattr(PIL.Image, "open", broken)
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x1cftypavif")
    with pytest.raises(data.CorruptImageError, match=r"a.jpg \(no JPEG, PNG, GIF, BMP or WebP by its content\)"):
        data.read_images([tmp_path / "a.jpg"], (8, 8))
