"""What a Xet content store answers about a file: chunks in xorbs, not compressed."""

from __future__ import annotations

import hashlib
from typing import Any

CHUNK_BYTES, XORB_BYTES = 64 << 10, 4 << 20


def reconstruction(size: int, first: int, last: int, xorbs_url: str) -> dict[str, Any]:
    """Which chunks of which xorbs make up the bytes from `first` to `last`, and where they are."""
    terms, fetch_info = [], {}
    for number in range(first // XORB_BYTES, -(-last // XORB_BYTES)):
        length = min(XORB_BYTES, size - number * XORB_BYTES)
        chunks = {"start": 0, "end": -(-length // CHUNK_BYTES)}
        url = f"{xorbs_url}/{number}"
        name = hashlib.sha256(url.encode()).hexdigest()
        span = {"start": 0, "end": length + 8 * chunks["end"] - 1}
        terms.append({"hash": name, "unpacked_length": length, "range": chunks})
        fetch_info[name] = [{"range": chunks, "url": url, "url_range": span}]
    return {"offset_into_first_range": first % XORB_BYTES, "terms": terms, "fetch_info": fetch_info}


def xorb(data: bytes, number: int) -> bytes:
    """One of the blocks that a file is cut into: chunks, each behind a header with its sizes."""
    whole = data[number * XORB_BYTES : (number + 1) * XORB_BYTES]
    packed = bytearray()
    for at in range(0, len(whole), CHUNK_BYTES):
        chunk = whole[at : at + CHUNK_BYTES]
        length = len(chunk).to_bytes(3, "little")
        packed += b"\0" + length + b"\0" + length + chunk
    return bytes(packed)
