"""Reading of pictures in RGB from paths, bytes, pillow images and arrays."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyterrier_csplade._errors import CspladeError, DataError
from pyterrier_csplade.storage.files import sha256

if TYPE_CHECKING:
    from PIL.Image import Image

#: Maximum number of pixels to decode, which limits the memory of a picture to about 200 MB; our choice (not measured).
MOST_PIXELS = 50_000_000
#: Maximum pixels of the longer side of a picture, because common encoders use fewer; our choice (not measured).
LONGEST_SIDE = 1024
#: Processing of every picture before features are computed. It is part of the identity of a head.
LOADING = {"mode": "RGB", "background": "white", "orientation": "EXIF", "longest_side": LONGEST_SIDE, "shrinking": "lanczos"}

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
# Errors that pillow raises for files that are damaged or of an unknown kind.
_UNREADABLE = (OSError, SyntaxError, ValueError, LookupError, TypeError, AttributeError, EOFError, struct.error, OverflowError)
_CHANNELS = (1, 3, 4)


def open_picture(picture: object, name: str) -> Image:
    """Return a picture in RGB.

    Of an animation, the first frame is used. EXIF orientation is applied, and transparent parts become white. If the longer
    side of a picture has more than 1,024 pixels, the picture is shrunk to 1,024.

    Args:
        picture: Path, bytes of a file, pillow image, or array of uint8: [height, width] or [height, width, 1, 3 or 4 channels].
        name: Name of the picture in error messages.

    Raises:
        CspladeError: pillow is not installed.
        DataError: The picture is missing, a directory, a URL, damaged, too large, or has no pixels; the message names it.
    """
    opened = _opened(picture, name)
    if 0 in opened.size:
        raise DataError(f"{name}: the picture has no pixels ({opened.size[0]} x {opened.size[1]}): leave the document out")
    if (pixels := opened.size[0] * opened.size[1]) > MOST_PIXELS:
        raise DataError(
            f"{name}: the picture has {pixels:,} pixels, but at most {MOST_PIXELS:,} can be decoded: shrink it, or store it as "
            "JPEG, which is decoded at a reduced size"
        )
    try:
        return _shrunk(_in_rgb(_oriented(opened)))
    except _UNREADABLE as error:
        raise DataError(f"{name}: the picture is damaged or of an unknown kind ({_short(error)}): replace the file") from error


def picture_digest(picture: object, name: str) -> str:
    """Digest the content of a picture, in hexadecimal: of its file if it is given by path or bytes, of its pixels otherwise.

    Args:
        picture: As for ``open_picture``.
        name: Name of the picture in error messages.

    Raises:
        DataError: There is no picture; the message names it. Damage is found only when the picture is opened.
    """
    if isinstance(picture, (str, os.PathLike)):
        return sha256(_checked_path(picture, name))
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return hashlib.sha256(picture).hexdigest()
    opened = open_picture(picture, name)
    return hashlib.sha256(f"{opened.size} ".encode() + opened.tobytes()).hexdigest()


def _opened(picture: object, name: str) -> Image:
    pillow = _pillow()
    if isinstance(picture, pillow.Image):
        return picture  # type: ignore[no-any-return]
    if isinstance(picture, np.ndarray):
        return _of_array(picture, name)
    if isinstance(picture, (bytes, bytearray, memoryview)):
        source: Any = io.BytesIO(bytes(picture))
    elif isinstance(picture, (str, os.PathLike)):
        source = _checked_path(picture, name)
    else:
        raise DataError(f"{name}: a picture must be a path, bytes, a pillow image or an array of uint8, found {picture!r:.60}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pillow.DecompressionBombWarning)
            opened = pillow.open(source)
        if opened.size[0] * opened.size[1] > MOST_PIXELS and opened.format == "JPEG":
            opened.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
    except pillow.DecompressionBombError as error:
        raise DataError(f"{name}: the picture has too many pixels ({_short(error)}): shrink it") from error
    except _UNREADABLE as error:
        raise DataError(f"{name}: the picture is damaged or of an unknown kind ({_short(error)}): replace the file") from error
    return opened  # type: ignore[no-any-return]


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise CspladeError("pictures need pillow: pip install 'pyterrier_csplade[images]'") from error
    return Image


def _checked_path(picture: str | os.PathLike[Any], name: str) -> Path:
    text = os.fsdecode(os.fspath(picture))
    if isinstance(picture, str) and _URL.match(text):
        raise DataError(f"{name}: {text:.80} is a URL, and pictures are not downloaded: save it, and pass its path")
    path = Path(text)
    if path.is_dir():
        raise DataError(f"{name}: {text} is a directory, not a picture")
    if not path.is_file():
        raise DataError(f"{name}: there is no file {text:.200}")
    return path


def _of_array(array: np.ndarray, name: str) -> Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in _CHANNELS:
        raise DataError(
            f"{name}: the array of a picture must be uint8 [height, width] or [height, width, 1, 3 or 4 channels], found "
            f"{array.dtype} {list(array.shape)}"
        )
    if array.size == 0:
        raise DataError(f"{name}: the picture has no pixels ({array.shape[1]} x {array.shape[0]}): leave the document out")
    return _pillow().fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array)  # type: ignore[no-any-return]


def _oriented(picture: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture)


def _in_rgb(picture: Image) -> Image:
    pillow = _pillow()
    if picture.mode.startswith("I;16"):  # 16 bits for a grey pixel; convert() would cut values off at 255
        return pillow.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")  # type: ignore[no-any-return]
    if picture.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {picture.mode}, whose range is not known")
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        white = pillow.new("RGBA", seen.size, "white")
        return pillow.alpha_composite(white, seen).convert("RGB")  # type: ignore[no-any-return]
    return picture.convert("RGB")


def _shrunk(picture: Image) -> Image:
    longest = max(picture.size)
    if longest <= LONGEST_SIDE:
        return picture
    size = tuple(max(1, round(side * LONGEST_SIDE / longest)) for side in picture.size)
    return picture.resize(size, _pillow().Resampling.LANCZOS)  # type: ignore[arg-type]


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
