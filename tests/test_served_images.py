"""Images as clients send them, encoded: unusual, damaged and hostile ones."""

import io
import zlib

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import sfocus_tf as sf
from sfocus_tf import data, serving
from tests.conftest import PIXELS, encoded, tiny_classifier


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """The signature for encoded images of a small model."""
    keras.utils.set_random_seed(3)
    folder = tmp_path_factory.mktemp("served") / "1"
    sf.SharpenFocus(tiny_classifier(3, 16)).export(folder)
    return tf.saved_model.load(str(folder)).signatures["serving_bytes"]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def sixteen_bits() -> bytes:
    return tf.io.encode_png(np.full((5, 5, 3), 40_000, np.uint16)).numpy()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (encoded(PIXELS)[:8] + chunk(b"abCd", bytes([0, 0, 0, 1] * 2)) + encoded(PIXELS)[8:], "not a JPEG or PNG"),
        (b"", "not a JPEG or PNG"),
        (b"a text, no image", "not a JPEG or PNG"),
        (encoded(PIXELS, "GIF"), "not a JPEG or PNG"),
        (encoded(PIXELS, "BMP"), "not a JPEG or PNG"),
        (encoded(PIXELS)[:60], "PNG"),
        (encoded(PIXELS, "JPEG")[:200], "JPEG"),
        (b"\xff\xd8\xff", "JPEG"),
        (encoded(PIXELS)[:16] + bytes(8) + encoded(PIXELS)[24:], "too many pixels"),
        (encoded(PIXELS)[:16] + b"\x7f\xff\xff\xff" * 2 + encoded(PIXELS)[24:], "too many pixels"),
    ],
    ids=["hidden bomb", "empty", "text", "gif", "bmp", "cut png", "cut jpeg", "begun jpeg", "no sides", "bomb"],
)
def test_bad_images_fail_the_request_and_the_next_is_right(serve, file, message):
    good = encoded(PIXELS)
    expected = serve(image_bytes=tf.constant([good]))["logits"].numpy()
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        serve(image_bytes=tf.constant([good, file]))
    np.testing.assert_array_equal(serve(image_bytes=tf.constant([good]))["logits"], expected)


@pytest.mark.parametrize(
    "file",
    [
        encoded(PIXELS[:1, :1]),
        encoded(PIXELS, "JPEG", "CMYK"),
        encoded(PIXELS, "JPEG", "L"),
        encoded(PIXELS, "PNG", "LA"),
        encoded(PIXELS, "PNG", "P"),
        encoded(PIXELS, "PNG", "1"),
        sixteen_bits(),
        encoded(np.tile(PIXELS[:2], (1, 2000, 1)), "JPEG"),
    ],
    ids=["1x1", "cmyk", "grey", "grey and alpha", "palette", "one bit", "16 bits", "20,000 wide"],
)
def test_unusual_images_are_decoded_as_pillow_does(file):
    found = serving.decode_images(tf.constant([file]), (8, 8)).numpy()[0]
    with PIL.Image.open(io.BytesIO(file)) as image:
        pixels = np.asarray(image.convert("RGB"), np.float32)
    if file == sixteen_bits():
        pixels = np.full((5, 5, 3), 40_000 // 257.0)  # Pillow has no such mode
    expected = tf.image.resize(pixels, (8, 8), antialias=True)
    np.testing.assert_allclose(found, expected, atol=3)


def test_a_central_window_is_what_evaluation_takes(tmp_path):
    """Of encoded images, and of files: the same as `data.load` gives for that share."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(encoded(pixels))
    test = data.load("folder", "test", data_dir=tmp_path, image_size=8, center_crop=0.8)
    expected = next(iter(test.batches))[0][:1]
    found = serving.decode_images(tf.constant([encoded(pixels)]), (8, 8), 0.8)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    read = data.read_images([tmp_path / "test" / "ant" / "0.png"], (8, 8), 0.8)
    np.testing.assert_allclose(read, expected, atol=1e-4)
    whole = serving.decode_images(tf.constant([encoded(pixels)]), (8, 8))
    assert abs(whole - expected).numpy().max() > 10


def test_a_thousand_hostile_files(serve):
    """Mutated files: an error or finite numbers, never a crash, never another answer for the good image beside."""
    rng = np.random.default_rng(0)
    seeds = [encoded(PIXELS), encoded(PIXELS, "JPEG"), encoded(PIXELS, "PNG", "P"), encoded(PIXELS, "JPEG", "CMYK")]
    good = encoded(PIXELS)
    expected = serve(image_bytes=tf.constant([good]))["logits"].numpy()
    refused = 0
    for number in range(1000):
        file = bytearray(seeds[number % len(seeds)])
        for _ in range(rng.integers(1, 6)):
            place, kind = int(rng.integers(len(file) or 1)), rng.integers(4)
            if kind == 0:
                file[place : place + 1] = rng.bytes(1)
            elif kind == 1:
                del file[place : place + int(rng.integers(1, 30))]
            elif kind == 2:
                file[place:place] = rng.bytes(int(rng.integers(1, 30)))
            else:
                del file[max(place, 1) :]
        try:
            answer = serve(image_bytes=tf.constant([bytes(file), good]))["logits"].numpy()
        except tf.errors.InvalidArgumentError:
            refused += 1
            continue
        assert np.isfinite(answer).all()
        np.testing.assert_allclose(answer[1:], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(serve(image_bytes=tf.constant([good]))["logits"], expected)
    assert 300 < refused < 1000
