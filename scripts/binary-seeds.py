#!/usr/bin/env python3
"""Writes the seeds that are not text: corpora/png and corpora/zlib-cve-2022-37434.

Run it after changing it and commit what it writes; nothing runs it at build time. Its output is
the same on every run of one Python (zlib's choice of deflate blocks may differ between versions).
"""

import struct
import zlib
from pathlib import Path

CORPORA = Path(__file__).resolve().parent.parent / "corpora"

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6


def chunk(kind, body=b""):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, before=b"", after=b"", interlace=0):
    """A PNG file; `rows` are filter byte and samples, `before` and `after` chunks round IDAT."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + before
        + chunk(b"IDAT", zlib.compress(b"".join(rows), 9))
        + after
        + chunk(b"IEND")
    )


def png_seeds():
    ramp = bytes(range(0, 256, 32))
    yield "grey8.png", png(8, 4, 8, GREY, [bytes([f]) + ramp for f in (0, 1, 2, 4)])
    yield "grey1.png", png(8, 2, 1, GREY, [b"\0\xa5", b"\0\x5a"], chunk(b"tRNS", b"\0\1"))
    yield "grey16.png", png(2, 2, 16, GREY, [b"\0\0\1\xff\xfe", b"\3\x80\0\x7f\xff"], chunk(b"sBIT", b"\x0c"))
    yield "rgb8.png", png(
        2, 2, 8, RGB, [b"\0\xff\0\0\0\xff\0", b"\1\0\0\xff\1\1\1"],
        chunk(b"gAMA", struct.pack(">I", 45455))
        + chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
        + chunk(b"bKGD", b"\0\x10\0\x20\0\x30"),
    )
    yield "palette.png", png(
        4, 2, 2, PALETTE, [b"\0\x1b", b"\0\xe4"],
        chunk(b"PLTE", b"\0\0\0\xff\0\0\0\xff\0\0\0\xff") + chunk(b"tRNS", b"\xff\x80\x40")
        + chunk(b"hIST", struct.pack(">4H", 1, 2, 3, 4)),
    )
    yield "grey_alpha.png", png(
        2, 1, 8, GREY_ALPHA, [b"\0\x40\x80\xc0\xff"],
        chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)) + chunk(b"tIME", b"\x07\xd0\1\1\0\0\0"),
        chunk(b"tEXt", b"Title\0grey"),
    )
    yield "rgba_interlaced.png", png(
        2, 2, 8, RGB_ALPHA,
        [b"\0\1\2\3\4", b"\0\5\6\7\x08", b"\0\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"],
        chunk(b"sRGB", b"\0") + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"hello", 9)),
        chunk(b"iTXt", b"Author\0\1\0en\0Writer\0" + zlib.compress(b"us", 9)),
        interlace=1,
    )
    profile = struct.pack(">I4sI4s4s4s", 132, b"none", 0x02000000, b"mntr", b"RGB ", b"XYZ ") + bytes(12)
    profile += b"acsp" + bytes(28) + bytes.fromhex("0000f6d6000100000000d32d")
    profile = profile.ljust(128, b"\0") + struct.pack(">I", 0)
    # Stored: libpng calls a chunk of less than 92 bytes too short.
    yield "icc.png", png(
        1, 1, 8, RGB, [b"\0\1\2\3"], chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile, 0))
    )


def gzip(body, name=b"", comment=b"", header_crc=False, level=9):
    """A gzip file without an extra field (flag 4), which is what the bug needs."""
    flags = (2 if header_crc else 0) | (8 if name else 0) | (16 if comment else 0)
    header = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\0\3"
    header += (name + b"\0" if name else b"") + (comment + b"\0" if comment else b"")
    header += struct.pack("<H", zlib.crc32(header) & 0xFFFF) if header_crc else b""
    deflate = zlib.compressobj(level, zlib.DEFLATED, -15)
    return header + deflate.compress(body) + deflate.flush() + struct.pack("<II", zlib.crc32(body), len(body))


def zlib_seeds():
    text = b"the quick brown fox jumps over the lazy dog, and the lazy dog looks at the quick brown fox.\n"
    counted = b"".join(b"%d %d\n" % (i, i * i) for i in range(24))
    yield "text.gz", gzip(text)
    yield "named.gz", gzip(text, name=b"fox.txt", comment=b"a fox")
    yield "checked.gz", gzip(counted, name=b"squares.txt", header_crc=True)
    yield "stored.gz", gzip(text, level=0)
    yield "text.zlib", zlib.compress(text, 9)
    yield "squares.zlib", zlib.compress(counted, 6)


def main():
    for name, seeds in (("png", png_seeds()), ("zlib-cve-2022-37434", zlib_seeds())):
        folder = CORPORA / name / "seeds"
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in seeds:
            (folder / file).write_bytes(content)
            print(f"{len(content):5} {(folder / file).relative_to(CORPORA)}")


if __name__ == "__main__":
    main()
