"""Containers of recordings: what the headers of WAV, RF64, W64 and FLAC files promise, and what the files hold.

libsndfile reads a file that is cut, or whose header is wrong, without complaint. WAV and its kin are inspected by their
chunks (EBU Tech 3306 for RF64), FLAC by the header of its last frame (RFC 9639, section 9.1).
"""

import os
import struct
from functools import lru_cache
from typing import NamedTuple

CODECS = {  # format tag -> codec; the bytes of these give the number of samples, so that a loss is noticed
    0x0001: "PCM", 0x0003: "floating point", 0x0006: "A-law", 0x0007: "u-law", 0x0002: "Microsoft ADPCM",
    0x0011: "IMA ADPCM", 0x0031: "GSM 6.10", 0x0038: "NMS ADPCM", 0x0040: "G.721 ADPCM",
}  # fmt: skip
OTHER_CODECS = {
    0x0050: "MPEG audio", 0x0055: "MP3", 0x00FF: "AAC", 0x1600: "AAC", 0x1602: "AAC", 0x1610: "AAC",
    0x0022: "TrueSpeech", 0x0014: "G.723 ADPCM", 0x0042: "G.723.1", 0x0045: "G.726 ADPCM", 0x0064: "G.726 ADPCM",
    0x0065: "G.722",
    0x028F: "G.722", 0x0083: "G.729", 0x0160: "WMA", 0x0161: "WMA", 0x0162: "WMA", 0x0163: "WMA", 0x2000: "AC-3",
    0x2001: "DTS", 0x674F: "Vorbis", 0x6750: "Vorbis", 0x6751: "Vorbis", 0x704F: "Opus", 0xA109: "Speex",
    0xF1AC: "FLAC",
}  # fmt: skip
UNCOMPRESSED = (0x0001, 0x0003, 0x0006, 0x0007)
STREAMED = 0x7FFF_F000  # bytes; a data chunk of this size or more was written before its length was known
SLACK = 0.01  # s; fewer bytes behind the samples are not taken for samples
REWRITE = "write it anew: ffmpeg -ignore_length 1 -i IN OUT"  # reads to the end of the file

UNKNOWN = {  # first bytes of formats that libsndfile does not know -> name
    b"BW64": "BW64", b"#!AMR": "AMR", b"0&\xb2u": "WMA", b"\x1aE\xdf\xa3": "Matroska or WebM",
    b"MAC ": "Monkey's Audio",
    b"wvpk": "WavPack",
}  # fmt: skip


def unknown_format(file):
    """Name of a format that libsndfile does not know, by the first bytes of a file; None for others."""
    file.seek(0)
    head = file.read(12)
    if head[4:8] == b"ftyp":
        return "MP4"
    return next((name for start, name in UNKNOWN.items() if head.startswith(start)), None)


# --------------------------------------------------------------------------------- WAV, RF64 and W64

W64_RIFF = b"riff.\x91\xcf\x11\xa5\xd6(\xdb\x04\xc1\x00\x00"
EXTENSIBLE = 0xFFFE  # format tag: the codec's own stands in the extension
METADATA = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX", b"JUNK", b"FLLR")  # chunks that may be cut


class WavHeader(NamedTuple):
    """What the chunks of a WAV, RF64 or W64 file hold."""

    container: str
    codec: int  # format tag
    block: int  # samples of a block of a compressed codec, else 0
    block_bytes: int  # of a block, or of a sample in all channels
    byte_rate: int  # bytes/s
    fact: int  # samples by the chunk `fact`, else 0
    promised: int | None  # bytes of samples by the header; None: all to the end of the file
    held: int  # bytes from the first sample to the end of the file
    behind: int  # bytes right behind the promised ones that are no chunk
    whole: int  # bytes of the file by the header
    size: int  # bytes of the file

    @property
    def codec_name(self):
        """Name of the codec."""
        return CODECS.get(self.codec) or OTHER_CODECS.get(self.codec) or f"codec 0x{self.codec:04x}"

    def problem(self):
        """Text for a header that promises more samples than the file holds, or fewer; else None."""
        if self.promised is None:
            return None
        slack = max(1, SLACK * self.byte_rate)  # bytes
        missing = self.promised - self.held
        is_of_file = self.promised in (self.size, self.size - 8)  # written instead of the samples' size
        is_whole = is_of_file or (missing < slack and self.whole == self.size)
        if missing > 0 and (self.whole > self.size or not is_whole):
            return (
                f"was cut short, or its header is wrong: it promises {missing} bytes more than there are; "
                f"restore it, or if it is whole {REWRITE}"
            )
        if self.behind >= slack:
            return (
                f"its header promises {self.promised} bytes of samples, and {self.behind} more follow; "
                f"restore it, or if they are samples {REWRITE}"
            )
        return None

    def true_frames(self, frames):
        """Number of samples of the `frames` that libsndfile finds; None where the header contradicts itself.

        Without those that fill up the last block of a compressed codec, and without what follows the samples of a W64.
        """
        blocks = (self.held if self.promised is None else min(self.promised, self.held)) // max(1, self.block_bytes)
        if self.block:
            frames = min(frames, blocks * self.block)
            return self.fact if 0 <= frames - self.fact < self.block else frames
        if self.codec in UNCOMPRESSED and self.block_bytes:
            return blocks if frames in (blocks, self.held // self.block_bytes) else None
        return frames


def read_wav_header(file):
    """WavHeader of a file opened in binary mode; None for another container, or without samples."""
    size = os.fstat(file.fileno()).st_size
    head = file.read(40).ljust(40, b"\0")
    order = ">" if head[:4] == b"RIFX" else "<"
    if head[:16] == W64_RIFF:
        container, chunks, whole = "W64", _w64_chunks(file, 40, size), struct.unpack("<Q", head[16:24])[0]
    elif head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        container = "RF64" if head[:4] == b"RF64" else "WAV"
        chunks, whole = _riff_chunks(file, 12, size, order), struct.unpack(order + "I", head[4:8])[0] + 8
    else:
        return None
    codec = block = block_bytes = byte_rate = fact = long_size = 0
    for name, start, length in chunks:
        file.seek(start)
        content = file.read(min(length, 40)).ljust(40, b"\0")
        if name == b"ds64":
            whole, long_size = struct.unpack("<QQ", content[:16])
            whole += 8
        elif name == b"fmt ":
            codec, _, rate, byte_rate, block_bytes, bits, _, block = struct.unpack(order + "HHIIHHHH", content[:20])
            byte_rate = min(byte_rate, rate * block_bytes)
            if codec == EXTENSIBLE:
                codec = struct.unpack(order + "H", content[24:26])[0]
            if bits >= 8:  # PCM and the like
                block = 0
        elif name == b"fact":
            fact = struct.unpack(order + "I", content[:4])[0]
        elif name == b"data":
            promised = long_size if container == "RF64" and length == 0xFFFF_FFFF else length
            behind = 0
            if container == "WAV" and promised >= STREAMED:
                promised = None
            elif start + promised < size:
                behind = _bytes_behind(file, start + promised, size, container, order)
            return WavHeader(
                container, codec, block, block_bytes, byte_rate, fact, promised, size - start, behind, whole, size
            )
    return None


def _riff_chunks(file, position, size, order):
    """Yield (name, first byte, number of bytes) of the chunks from a position on."""
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(order + "4sI", file.read(8))
        yield name, position + 8, length
        position += 8 + length + length % 2


def _w64_chunks(file, position, size):
    """Likewise for W64: a name is a GUID, and a length counts the 24 bytes of both."""
    while position + 24 <= size:
        file.seek(position)
        name, length = struct.unpack("<4s12xQ", file.read(24))
        yield name, position + 24, max(0, length - 24)
        position += max(24, length + -length % 8)


def _bytes_behind(file, position, size, container, order):
    """Bytes from a position to the end of the file; 0 where a chunk, zeros or the tag of a music player begin there."""
    file.seek(position)
    head = file.read(4096)
    if (head[:3] == b"TAG" and len(head) == 128) or (not head.strip(b"\0") and size - position <= len(head)):
        return 0
    for start in dict.fromkeys((position + position % 2, position)):  # some writers omit the byte that fills up
        if container == "W64":
            chunks = _w64_chunks(file, position + -position % 8, size)
        else:
            chunks = _riff_chunks(file, start, size, order)
        name, first, length = next(chunks, (b"", size, 0))
        fits = first + length <= size and name.isascii() and name.decode().isprintable()
        if name in METADATA or (fits and name not in (b"", b"data", b"RIFF")):  # a second recording is none
            return 0
    return size - position


# ----------------------------------------------------------------------------------------------- FLAC

FLAC_HEAD = 42  # bytes: marker, head of the first block, STREAMINFO
FLAC_TAIL = 1 << 20  # bytes that are searched for the last frame
FLAC_BLOCKS = {1: 192, **{2 + i: 576 << i for i in range(4)}, **{8 + i: 256 << i for i in range(8)}}  # code -> samples


def true_flac(file):
    """Compare the number of samples in a FLAC's header with its last frame: (problem or None, content or None).

    Content, as bytes with the true number, comes where the header leaves it open, as of a file written to a pipe, and
    the last frame is shorter than the others: then nothing follows it.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    head = file.read(FLAC_HEAD)
    if len(head) < FLAC_HEAD or head[:4] != b"fLaC":
        return None, None
    shortest, longest = struct.unpack(">HH", head[8:12])  # samples of a block
    promised = int.from_bytes(head[21:26]) & 0xF_FFFF_FFFF
    file.seek(max(FLAC_HEAD, size - FLAC_TAIL))
    found, samples = last_flac_frame(file.read(), longest, promised)
    anew = "write it anew: ffmpeg -i IN.flac OUT.flac"
    if promised and found > promised:
        return f"its header promises {promised} of {found} samples; restore it, or {anew}", None
    if promised and 0 < found < promised:
        short = f"was cut short, or its header is wrong: it promises {promised} samples and holds {found}"
        return f"{short}; restore it, or if it is whole {anew}", None
    if promised:
        return None, None
    if not found or shortest != longest or samples == longest:
        return f"its header leaves the number of samples open, so that a loss would not be noticed; {anew}", None
    file.seek(0)
    content = bytearray(file.read())
    content[21:26] = ((content[21] & 0xF0) << 32 | found).to_bytes(5)
    return None, bytes(content)


def last_flac_frame(data, block, expected=0):
    """Samples up to the end of the last frame in the data, and of this frame; (0, 0) where it is not whole.

    `block` is the number of samples of a full frame. Where the frame ends with the `expected` sample, its checksum is
    not computed.
    """
    at, tries = len(data), 3  # a frame's header may occur by chance within the last frame
    while tries and (at := data.rfind(b"\xff", 0, at)) >= 0:
        first, samples = _flac_frame(data[at : at + 16], block)
        if samples:
            tries -= 1
            if first + samples == expected or _crc(data[at:-2], 0x8005, 16) == int.from_bytes(data[-2:]):
                return first + samples, samples
    return 0, 0


def _flac_frame(head, block):
    """First sample and number of samples of the frame whose header these bytes begin with; (0, 0): none does."""
    if len(head) < 6 or head[1] not in (0xF8, 0xF9):
        return 0, 0
    ones = 8 - (head[4] ^ 0xFF).bit_length()  # the frame's number is written in the manner of UTF-8
    length, number = max(1, ones), head[4] & (0xFF >> (ones + 1))
    for byte in head[5 : 4 + length]:
        number = number << 6 | byte & 0x3F
    end, code = 4 + length, head[2] >> 4
    samples = FLAC_BLOCKS.get(code, 0)
    if code in (6, 7):  # written out, in 1 or 2 bytes
        samples = int.from_bytes(head[end : end + code - 5]) + 1
        end += code - 5
    end += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)  # the rate
    if len(head) <= end or _crc(head[:end], 0x07, 8) != head[end]:
        return 0, 0
    return number if head[1] == 0xF9 else number * block, samples


def _crc(data, polynomial, bits):
    """Cyclic redundancy check, most significant bit first, from 0."""
    table, top, mask, value = _crc_table(polynomial, bits), bits - 8, (1 << bits) - 1, 0
    for byte in data:
        value = (value << 8 & mask) ^ table[value >> top ^ byte]
    return value


@lru_cache
def _crc_table(polynomial, bits):
    table = []
    for byte in range(256):
        value = byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ polynomial * (value >> (bits - 1))) & ((1 << bits) - 1)
        table.append(value)
    return table
