"""Pictures in a notebook: a table with thumbnails and terms."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping
from typing import Any

import pandas as pd

from .pictures import open_picture

# Pixels of the longer side of a thumbnail, and terms in a cell; our choice (not measured).
_SIDE, _TERMS = 96, 10


class PictureTable:
    """A table with pictures for notebooks.

    Attributes:
        html: The table as HTML, including the pictures.
    """

    def __init__(self, markup: str) -> None:
        self.html = markup

    def _repr_html_(self) -> str:
        return self.html


def show_pictures(frame: pd.DataFrame, column: str = "image") -> PictureTable:
    """Return a table in which a column of pictures is shown as thumbnails, and sparse vectors as their heaviest terms.

    Args:
        frame: Any frame, such as results of a search with a column of pictures.
        column: The column of the pictures: paths, bytes, pillow images or arrays.

    Raises:
        DataError: A picture cannot be read; the message names its docno.
    """
    names = frame["docno"].tolist() if "docno" in frame.columns else list(range(len(frame)))
    cells = {
        name: [
            _thumbnail(value, f"picture {docno}") if name == column else _cell(value)
            for docno, value in zip(names, frame[name])
        ]
        for name in frame.columns
    }
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in cells)
    rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in zip(*cells.values()))
    return PictureTable(f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")


def _thumbnail(picture: Any, name: str) -> str:
    small = open_picture(picture, name)
    small.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    small.save(file, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}" alt="{html.escape(name)}">'


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return html.escape(", ".join(f"{term} {weight:g}" for term, weight in list(value.items())[:_TERMS]))
    return html.escape(str(value))
