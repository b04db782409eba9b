"""Pictures in a terminal: which protocol, and bytes that decode to the picture again."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from serving.commands.pictures import SIDE, escape_of, protocol_of, sheet
from tests.serving_release import png


@pytest.mark.parametrize(("environ", "protocol"), [
    ({"TERM": "xterm-kitty"}, "kitty"), ({"TERM": "xterm", "KITTY_WINDOW_ID": "1"}, "kitty"),
    ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
    ({"TERM": "xterm", "TERM_PROGRAM": "iTerm.app"}, "iterm"),
    ({"TERM": "xterm", "LC_TERMINAL": "iTerm2"}, "iterm"), ({"TERM": "foot-extra"}, "sixel"),
    ({"TERM": "xterm-sixel"}, "sixel"), ({"TERM": "xterm-256color"}, None), ({}, None),
    ({"TERM": "screen", "KITTY_WINDOW_ID": "1"}, None), ({"TERM": "foot", "TMUX": "x"}, None),
])
def test_the_environment_says_which_protocol_and_a_pipe_takes_none(environ, protocol):
    assert protocol_of(environ, to_terminal=True) == protocol
    assert protocol_of(environ, to_terminal=False) is None


def test_a_sheet_holds_the_images_side_by_side_and_leaves_out_what_is_none():
    red = np.zeros((9, 9, 3), np.uint8)
    red[:, :, 0] = 255
    pixels = sheet([png(red), b"no image", png(255 - red)])
    assert pixels.shape == (SIDE, 2 * SIDE + 8, 3)
    np.testing.assert_array_equal(pixels[:, :SIDE], np.broadcast_to([255, 0, 0], (SIDE, SIDE, 3)))
    np.testing.assert_array_equal(pixels[:, -SIDE:],
                                  np.broadcast_to([0, 255, 255], (SIDE, SIDE, 3)))
    np.testing.assert_array_equal(pixels[:, SIDE:-SIDE], 255)
    assert sheet([b"no image"]) is None
    assert sheet([]) is None


PIXELS = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def test_kitty_gets_a_png_in_pieces_of_which_all_but_the_last_say_that_more_follows():
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", escape_of(PIXELS, "kitty"))
    assert len(pieces) > 2
    assert pieces[0][0] == "a=T,f=100,r=5,m=1"
    assert [head for head, _ in pieces[1:]] == ["m=1"] * (len(pieces) - 2) + ["m=0"]
    assert all(len(data) <= 4096 for _, data in pieces)
    png_file = base64.b64decode("".join(data for _, data in pieces))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_file))), PIXELS)


def test_iterm_gets_a_png_inline():
    shown = re.fullmatch(r"\x1b\]1337;File=inline=1;height=5;preserveAspectRatio=1:([^\x07]*)\x07",
                         escape_of(PIXELS, "iterm"))
    file = io.BytesIO(base64.b64decode(shown[1]))
    np.testing.assert_array_equal(np.asarray(Image.open(file)), PIXELS)


def drawn(text):
    """The pixels that a terminal would draw of sixels, by the rules of the standard."""
    head = re.match(r'\x1bPq"1;1;(\d+);(\d+)', text)
    width, height = int(head[1]), int(head[2])
    pixels = np.full((height + 6, width, 3), -1)
    palette, colour, left, top = {}, None, 0, 0
    for token in re.findall(r"#\d+;2;\d+;\d+;\d+|#\d+|[$-]|[?-~]", text[head.end() : -2]):
        if token.startswith("#") and ";" in token:
            number, _, *percent = (int(part) for part in token[1:].split(";"))
            palette[number] = np.asarray(percent)
        elif token.startswith("#"):
            colour = palette[int(token[1:])]
        elif token == "$":
            left = 0
        elif token == "-":
            left, top = 0, top + 6
        else:
            for bit in range(6):
                if (ord(token) - 63) >> bit & 1:
                    pixels[top + bit, left] = colour
            left += 1
    assert (pixels[height:] == -1).all()
    return pixels[:height]


def test_sixels_draw_the_picture_once_and_whole():
    flat = np.zeros((20, 31, 3), np.uint8)  # 20 lines are no whole number of bands
    flat[:7, :, 0] = 255
    flat[7:, 13:, 2] = 255
    flat[7:, :13] = 255
    np.testing.assert_array_equal(drawn(escape_of(flat, "sixel")), flat.astype(int) * 100 // 255)
