"""Loading of pictures: every form and every bad input has one clear outcome."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pyterrier_csplade import CspladeError
from pyterrier_csplade._errors import DataError
from pyterrier_csplade.images import open_picture
from support.pictures import drawn


def encoded(picture: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **settings)
    return file.getvalue()


def pixels(picture: Any) -> np.ndarray:
    opened = open_picture(picture, "picture p1")
    assert opened.mode == "RGB"
    return np.asarray(opened)


def test_every_form_gives_the_same_pixels(tmp_path: Path) -> None:
    array = drawn(1)
    picture = Image.fromarray(array)
    (tmp_path / "p.png").write_bytes(encoded(picture))
    for form in (array, picture, encoded(picture), bytearray(encoded(picture)), tmp_path / "p.png", str(tmp_path / "p.png")):
        np.testing.assert_array_equal(pixels(form), array)


def test_grey_pictures_of_8_and_16_bits() -> None:
    grey = drawn(2)[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(pixels(grey), expected)
    np.testing.assert_array_equal(pixels(grey[..., None]), expected)
    sixteen = encoded(Image.fromarray(grey.astype(np.uint16) * 256 + 17))
    np.testing.assert_array_equal(pixels(sixteen), expected)


def test_transparent_parts_become_white() -> None:
    array = np.zeros((2, 2, 4), dtype=np.uint8)
    array[0, 0] = (255, 0, 0, 255)
    array[0, 1] = (0, 0, 0, 128)
    found = pixels(array)
    assert found[0, 0].tolist() == [255, 0, 0] and found[1, 1].tolist() == [255, 255, 255]
    assert found[0, 1].tolist() == pytest.approx([127] * 3, abs=1)
    np.testing.assert_array_equal(pixels(encoded(Image.fromarray(array))), found)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert pixels(encoded(palette, transparency=0)).tolist() == [[[255] * 3] * 2] * 2


def test_cmyk_becomes_rgb() -> None:
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    found = pixels(encoded(red, "JPEG", quality=95))[4, 4]
    assert found[0] > 230 and found[1] < 30 and found[2] < 30


def test_exif_orientation_is_applied() -> None:
    array = drawn(3)
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was turned: the first row is at the right
    found = pixels(encoded(Image.fromarray(array), exif=exif.tobytes()))
    np.testing.assert_array_equal(found, np.rot90(array, -1))


def test_large_pictures_are_shrunk() -> None:
    assert open_picture(np.zeros((3000, 1500, 3), dtype=np.uint8), "p").size == (512, 1024)
    assert open_picture(np.zeros((1, 5000), dtype=np.uint8), "p").size == (1024, 1)


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("L", (4, 4), value) for value in (0, 255)]
    assert pixels(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).max() == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"not a picture", "p1: the picture is damaged or of an unknown kind"),
        (b"", "p1: the picture is damaged or of an unknown kind"),
        (encoded(Image.fromarray(drawn(1)))[:200], "p1: the picture is damaged"),
        (encoded(Image.fromarray(drawn(1)), "JPEG")[:300], "p1: the picture is damaged"),
        (np.zeros((0, 4, 3), dtype=np.uint8), r"p1: the picture has no pixels \(4 x 0\)"),
        (Image.new("RGB", (0, 3)), r"p1: the picture has no pixels \(0 x 3\)"),
        (np.zeros((4, 4, 3)), "p1: the array of a picture must be uint8 .* found float64"),
        (np.zeros((4, 4, 2), dtype=np.uint8), r"found uint8 \[4, 4, 2\]"),
        (Image.new("F", (2, 2)), "p1: .*pixels of mode F"),
        ("https://example.org/p.png", "p1: https://example.org/p.png is a URL, and pictures are not downloaded"),
        ("data:image/png;base64,AAAA", "is a URL"),
        ("no/such.png", "p1: there is no file no/such.png"),
        (None, "p1: a picture must be a path, bytes, a pillow image or an array of uint8, found None"),
        (float("nan"), "found nan"),
        (17, "found 17"),
    ],
)
def test_bad_pictures_are_refused_by_name(bad: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_picture(bad, "picture p1")


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a directory, not a picture"):
        open_picture(tmp_path, "picture p1")


def test_a_picture_of_100_megapixels_needs_bounded_memory(tmp_path: Path) -> None:
    Image.new("1", (10_000, 10_000)).save(tmp_path / "huge.png", compress_level=1)
    Image.new("L", (10_000, 10_000), 200).save(tmp_path / "huge.jpg")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="p1: the picture has 100,000,000 pixels, but at most 50,000,000 can be decoded"):
        open_picture(tmp_path / "huge.png", "picture p1")
    opened = open_picture(tmp_path / "huge.jpg", "picture p1")
    assert opened.size == (1024, 1024) and opened.getpixel((500, 500)) == (200, 200, 200)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_the_size_in_a_header_is_not_trusted() -> None:
    png = bytearray(encoded(Image.fromarray(drawn(1))))
    png[16:24] = (60_000).to_bytes(4, "big") * 2
    png[29:33] = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(DataError, match="p1: the picture has too many pixels"):
        open_picture(bytes(png), "picture p1")


def test_without_pillow_the_message_names_the_extra() -> None:
    code = (
        "import sys\nsys.modules['PIL'] = None\n"
        "from pyterrier_csplade import CspladeError\nfrom pyterrier_csplade.images import open_picture\n"
        "try:\n    open_picture(b'', 'p')\nexcept CspladeError as error:\n    sys.stdout.write(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "pictures need pillow: pip install 'pyterrier_csplade[images]'"
    assert issubclass(DataError, CspladeError)
