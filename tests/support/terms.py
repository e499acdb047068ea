"""Tokens as byte-level vocabularies spell them."""

from __future__ import annotations


def byte_to_character() -> dict[int, str]:
    """Spell bytes as GPT-2 does: printable Latin-1 is unchanged, the other bytes are numbered from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + i) for i, byte in enumerate(others)}}


BYTES = byte_to_character()


def spell(token: bytes) -> str:
    return "".join(BYTES[byte] for byte in token)
