"""Checks of the texts that users hand in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ._errors import DataError


class TokenizedTexts(list[str]):
    """Texts whose tokens are known already, so that encoding them only has to run the model.

    Attributes:
        sequences: Token ids of each text.
        cut: How many texts were cut to the maximum length.
    """

    def __init__(self, texts: Iterable[str], sequences: list[list[int]], cut: int = 0) -> None:
        super().__init__(texts)
        self.sequences = sequences
        self.cut = cut


def check_texts(texts: Sequence[object], names: Iterable[object]) -> list[str]:
    """Return the texts, each proved to be a string that UTF-8 can encode.

    Args:
        texts: What should be strings; the empty string is one.
        names: How an error calls each text, for example ``document d7``; at least as many as texts.

    Raises:
        ValueError: There are fewer names than texts.
        DataError: A text is None, NaN, a number, bytes, or holds a lone surrogate; the message names it.
    """
    if isinstance(texts, (str, bytes)):
        raise DataError(f"expected a list of texts, found one text, {texts[:40]!r}: put it in a list")
    checked = []
    for text, name in zip(texts, names):
        if not isinstance(text, str):
            raise DataError(f"{name}: expected text, found {text!r} ({type(text).__name__}); fill or drop it first")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{name}: the text is no valid Unicode (a lone surrogate at character {error.start}); "
                "clean it with text.encode('utf-8', 'replace').decode()"
            ) from error
        checked.append(text)
    if len(checked) < len(texts):
        raise ValueError(f"{len(texts)} texts need as many names, found {len(checked)}")
    return checked
