"""Decoding images that people really send, and embedding with the exported model."""

import dataclasses
import io
import struct
import zlib

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.encoding.encoder import Encoder, EncoderError, ImageError, decode_image
from pipeline.encoding.export import export_onnx
from pipeline.models.registry import build_model
from tests.training_world import exported, images, vectors


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def quarters():
    """8 x 8 with red, green, blue and black quarters."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4, :4, 0] = pixels[:4, 4:, 1] = pixels[4:, :4, 2] = 255
    return pixels


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("GIF", {})],
)
def test_an_image_of_the_right_size_keeps_its_pixels(form, options):
    data = encoded(Image.fromarray(quarters()), form, **options)
    decoded = decode_image(data, 8)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, quarters())


def test_jpeg_comes_close():
    large = quarters().repeat(8, 0).repeat(8, 1)
    decoded = decode_image(encoded(Image.fromarray(large), "JPEG", quality=95, subsampling=0), 64)
    np.testing.assert_allclose(decoded.astype(int), large, atol=12)


# The EXIF orientations and what undoes them, from the standard's own definition (row 0, column 0).
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: p.transpose(1, 0, 2)[::-1]),
        (7, lambda p: p.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda p: p.transpose(1, 0, 2)[:, ::-1]),
    ],
)
def test_the_cameras_orientation_is_applied(orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored(quarters())))
    np.testing.assert_array_equal(decode_image(encoded(image, exif=exif), 8), quarters())


def test_transparency_lies_over_white_before_the_image_is_made_smaller():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = (255, 0, 0, 255)  # the transparent half is black underneath
    pixels[:4, 4:, 3] = 128
    decoded = decode_image(encoded(Image.fromarray(pixels)), 8)
    np.testing.assert_array_equal(decoded[:, :4], 255)
    np.testing.assert_array_equal(decoded[4:, 4:], [[[255, 0, 0]] * 4] * 4)
    np.testing.assert_allclose(decoded[:4, 4:], [[[255, 127, 127]] * 4] * 4, atol=1)
    # A grey seam would show that black shone through: every channel but red stays between.
    small = decode_image(encoded(Image.fromarray(pixels)), 4)
    np.testing.assert_array_equal(small[:, :, 0], 255)


def test_palette_and_grey_images_with_a_transparent_colour_lie_over_white():
    grey = Image.fromarray(np.asarray([[0, 200], [200, 0]], np.uint8))
    for image in (grey, grey.convert("P")):
        data = encoded(image, transparency=image.getpixel((0, 0)))
        expected = [[[255] * 3, [200] * 3], [[200] * 3, [255] * 3]]
        np.testing.assert_array_equal(decode_image(data, 2), expected)


def test_sixteen_bit_grey_keeps_its_upper_byte():
    data = encoded(Image.fromarray(np.asarray([[0, 257 * 40], [257 * 200, 65535]], np.uint16)))
    expected = np.asarray([[0, 40], [200, 255]])[:, :, None].repeat(3, 2)
    np.testing.assert_array_equal(decode_image(data, 2), expected)


def test_an_oblong_image_keeps_its_proportions_between_white_margins():
    black = Image.fromarray(np.zeros((4, 8, 3), np.uint8))
    decoded = decode_image(encoded(black), 8)
    np.testing.assert_array_equal(decoded[2:6], 0)
    np.testing.assert_array_equal(decoded[[0, 1, 6, 7]], 255)
    turned = decode_image(encoded(black.transpose(Image.Transpose.ROTATE_90)), 8)
    np.testing.assert_array_equal(turned, decoded.transpose(1, 0, 2))
    thin = decode_image(encoded(Image.fromarray(np.zeros((1, 1000, 3), np.uint8))), 8)
    assert (thin == 0).any(axis=(1, 2)).sum() == 1


def test_making_an_image_smaller_averages_it():
    # Bands of black and white, one pixel each: without antialiasing they would alias to bands.
    bands = np.zeros((96, 96, 3), np.uint8)
    bands[:, ::2] = 255
    inner = decode_image(encoded(Image.fromarray(bands)), 8)[:, 1:-1].astype(int)
    np.testing.assert_allclose(inner, 127, atol=8)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(100, 80, 32), (375, 500, 256), (500, 375, 256), (33, 1000, 48), (20, 30, 64), (40, 40, 20),
     (1023, 767, 224), (1, 300, 16)],
)  # fmt: skip
def test_a_cropped_image_is_scaled_by_its_shorter_side_and_cut_from_the_middle(width, height, size):
    down, across = np.mgrid[:height, :width]
    waves = [np.sin(across / 9) * np.cos(down / 7), np.cos(across / 5), np.sin(down / 11)]
    image = Image.fromarray((127 + 90 * np.stack(waves, -1)).astype(np.uint8))
    # The published recipe in two steps, as torchvision's Resize and CenterCrop round them.
    shortest = min(width, height)
    scaled = image.resize((size * width // shortest, size * height // shortest),
                          Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2.0) for side in scaled.size)
    expected = np.asarray(scaled.crop((left, top, left + size, top + size))).astype(int)
    np.testing.assert_allclose(decode_image(encoded(image), size, "crop"), expected, atol=2)


def test_a_thin_image_is_cropped_without_being_blown_up_whole():
    # Its longer side alone would become 256,000,000 pixels.
    thin = Image.fromarray(np.full((1, 1_000_000, 3), 9, np.uint8))
    np.testing.assert_array_equal(decode_image(encoded(thin), 256, "crop"), 9)


VALID = {
    form: encoded(Image.fromarray(quarters().repeat(4, 0).repeat(4, 1)), form)
    for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
}


@pytest.mark.parametrize(
    "data", [b"", b"not an image", VALID["PNG"][:40], VALID["JPEG"][:-200], VALID["WEBP"][:60]]
)
def test_bytes_that_are_no_whole_image_are_refused(data):
    with pytest.raises(ImageError, match=rf"undecodable image \({len(data)} bytes"):
        decode_image(data, 8)


@pytest.mark.filterwarnings("ignore:Truncated File Read", "ignore:Corrupt EXIF data")
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
    st.integers(0, 10**6),
)
def test_damaged_bytes_decode_or_are_refused_and_nothing_else(form, flips, cut):
    data = bytearray(VALID[form])
    for place, value in flips:
        data[place % len(data)] = value
    try:
        decoded = decode_image(bytes(data[: max(1, cut % (2 * len(data)))]), 8)
    except ImageError:
        return
    assert decoded.shape == (8, 8, 3)


def bomb(width, height):
    """A PNG of a few bytes whose header claims width x height."""

    def chunk(name, body):
        checksum = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("width", "height", "match"),
    [
        (8001, 8000, "8001 x 8000 pixels; expected at most 64000000"),
        (10000, 10000, "10000 x 10000 pixels; expected at most 64000000"),  # Pillow only warns
        (10**6, 10**6, "DecompressionBombError"),
    ],
)
def test_a_few_bytes_that_claim_too_many_pixels_are_refused(width, height, match):
    with pytest.raises(ImageError, match=match):
        decode_image(bomb(width, height), 8)


def test_formats_that_would_start_other_programs_are_not_opened():
    buffer = io.BytesIO()
    Image.fromarray(quarters()).save(buffer, "EPS")
    with pytest.raises(ImageError, match="undecodable"):
        decode_image(buffer.getvalue(), 8)


@pytest.fixture
def image_file():
    return exported("image")[1]


@pytest.fixture
def vector_file():
    return exported("vector")[1]


def test_an_encoder_knows_what_it_takes_and_gives(image_file, vector_file):
    image, vector = Encoder(image_file), Encoder(vector_file)
    facts = [(e.kind, e.dimension, e.image_size, e.input_dimension) for e in (image, vector)]
    assert facts == [("image", 8, 16, None), ("vector", 8, None, 10)]


def test_rows_are_unit_float32_with_the_same_bits_in_any_batch(image_file):
    encoder, pixels = Encoder(image_file), np.concatenate([images(seed)[0] for seed in range(8)])
    rows = encoder.embed(pixels)
    assert rows.dtype == np.float32
    assert rows.shape == (576, 8)  # more than the encoder takes at once
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    for batch in (1, 2, 7, 32):
        np.testing.assert_array_equal(encoder.embed(pixels[300 : 300 + batch]),
                                      rows[300 : 300 + batch])


def test_no_rows_and_rows_that_are_not_contiguous_are_embedded(image_file):
    encoder, pixels = Encoder(image_file), images()[0]
    assert encoder.embed(pixels[:0]).shape == (0, 8)
    np.testing.assert_array_equal(encoder.embed(pixels[::-3]), encoder.embed(pixels)[::-3])


@pytest.mark.parametrize(
    "batch",
    [
        np.zeros((2, 16, 16, 3), np.float32),
        np.zeros((2, 16, 15, 3), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((), np.uint8),
    ],
    ids=["type", "size", "no batch axis", "scalar"],
)
def test_pixels_of_another_shape_or_type_are_refused(image_file, batch):
    with pytest.raises(EncoderError, match=r"expected uint8 \(n, 16, 16, 3\)"):
        Encoder(image_file).embed(batch)


def test_vectors_that_cannot_be_embedded_are_refused_naming_the_row(vector_file):
    encoder, inputs = Encoder(vector_file), vectors()[0]
    for bad in (np.nan, np.inf):
        changed = inputs.copy()
        changed[5, 3] = bad
        with pytest.raises(EncoderError, match="row 5: vector is not finite"):
            encoder.embed(changed)
    with pytest.raises(EncoderError, match=r"expected float32 \(n, 10\)"):
        encoder.embed(inputs[:, :9])
    with pytest.raises(EncoderError, match="embeds vectors; it takes no image"):
        encoder.decode(VALID["PNG"])


def test_decode_gives_what_embed_takes(image_file):
    encoder = Encoder(image_file)
    assert encoder.embed(encoder.decode(VALID["WEBP"])[None]).shape == (1, 8)


def changed(image_file, path, **facts):
    """A copy of the export with other metadata."""
    model = onnx.load(image_file)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, kept | facts)
    onnx.save(model, path)
    return path


def test_an_encoder_decodes_as_its_metadata_says_and_pads_where_that_says_nothing(
    tmp_path, image_file
):
    oblong = encoded(Image.fromarray(np.zeros((16, 32, 3), np.uint8)))
    padding = Encoder(image_file)
    assert (padding.decode(oblong) == 255).any()
    config = dataclasses.replace(exported("image")[0].config, fit="crop")
    export_onnx(build_model(config, kind="image"), tmp_path / "crop.onnx")
    cropping = Encoder(tmp_path / "crop.onnx")
    np.testing.assert_array_equal(cropping.decode(oblong), 0)
    assert cropping.preparation != padding.preparation
    for facts in ({"fit": "stretch"}, {"kind": "sound"}):
        with pytest.raises(EncoderError, match="expected one of image, vector, text and of pad, "):
            Encoder(changed(image_file, tmp_path / "new.onnx", **facts))


def test_a_file_that_is_no_export_is_refused(tmp_path, image_file):
    foreign = onnx.load(image_file)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    (tmp_path / "text.onnx").write_text("not a model")
    for name, match in (
        ("foreign.onnx", "no usable metadata"),
        ("text.onnx", "not a usable ONNX model"),
        ("missing.onnx", "not a usable ONNX model"),
    ):
        with pytest.raises(EncoderError, match=match):
            Encoder(tmp_path / name)


def test_a_device_that_onnxruntime_cannot_use_is_refused_and_not_replaced(image_file):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(EncoderError, match=r"no CUDAExecutionProvider; install limen\[gpu\]"):
        Encoder(image_file, device="cuda")
