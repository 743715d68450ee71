"""The one part of a multipart answer (RFC 2046, PS3.18 8.7.3), byte for byte, within a limit."""

from collections.abc import Iterable
from email.message import Message

from data_schemas.errors import ImageError


def limited(blocks: Iterable[bytes], most_bytes: int) -> bytes:
    """Join blocks; stop when they become more than ``most_bytes`` and the part's own header.

    Raises
    ------
    ImageError
        TOO_LARGE.
    """
    room = most_bytes + 2**16
    body = bytearray()
    for block in blocks:
        body += block
        if len(body) > room:
            raise ImageError("TOO_LARGE", f"more bytes than the contract's {most_bytes}")
    return bytes(body)


def first_part(body: bytes, content_type: str) -> bytes:
    """Return the content of the first part; a body that is not multipart is the content itself.

    Raises
    ------
    ImageError
        UNREADABLE, if there is no part, or it does not end.
    """
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_maintype() != "multipart":
        return body
    boundary = header.get_param("boundary")
    if not boundary:
        raise ImageError("UNREADABLE", "the archive's answer names no boundary of its parts")
    mark = b"--" + str(boundary).encode()
    start = body.find(mark)
    begin = body.find(b"\r\n\r\n", start)
    if start < 0 or begin < 0:
        raise ImageError("UNREADABLE", "the archive's answer holds no part")
    end = body.find(b"\r\n" + mark, begin + 2)
    if end < 0:
        raise ImageError("TRUNCATED", "the archive's answer ends inside the instance")
    return body[begin + 4 : end]
