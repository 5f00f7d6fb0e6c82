"""In which encoding a file is: said by its first bytes, or told by a library where that is certain."""

from __future__ import annotations

import codecs
from pathlib import Path

from llmx.errors import MissingPackageError

SAMPLE = 2**16
"""Bytes of lines that are no UTF-8 from which their encoding is told."""

FEWEST = 12
"""Bytes above ASCII without which nothing is certain."""

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

CERTAIN = {
    **dict.fromkeys(("gb2312", "gbk", "gb18030"), "gb18030"),
    **dict.fromkeys(("big5", "big5hkscs", "cp950"), "big5hkscs"),
    **dict.fromkeys(("euc_kr", "cp949"), "cp949"),
    **dict.fromkeys(("euc_jp", "euc_jis_2004", "euc_jisx0213"), "euc_jis_2004"),
    **dict.fromkeys(("cp932", "shift_jis"), "cp932"),
}
"""Encodings of two bytes a character: in them real text is plain, and hardly anything else is valid. One byte a
character is never certain: every text is valid in a dozen of those."""


def encoding_of(head: bytes, path: Path) -> tuple[str, int]:
    """Return the encoding of a file that begins with `head`, and the length of its mark; UTF-8 where it is not certain.

    Raises:
        MissingPackageError: it is not UTF-8, and the package that tells what it is is missing.
    """
    for mark, name in MARKS:
        if head.startswith(mark):
            return name, len(mark)
    if wide := _wide(head):
        return wide, 0
    lines = [line for line in (head[: head.rfind(b"\n")] if b"\n" in head else head).split(b"\n") if not line.isascii()]
    wrong = [line for line in lines if not _valid(line, "utf-8")]
    if 2 * len(wrong) <= len(lines) or (len(lines) == 1 and b"\n" not in head and _valid_so_far(head)):
        return "utf-8", 0
    return _told(wrong, path) or "utf-8", 0


def _wide(head: bytes) -> str | None:
    """Return UTF-16 without a mark where every second byte of the first ASCII characters is 0."""
    for name, zero in (("utf-16-le", 1), ("utf-16-be", 0)):
        first = head[:64]
        pairs = [first[i : i + 2] for i in range(0, len(first) - 1, 2)]
        ascii_pairs = sum(pair[zero] == 0 < pair[1 - zero] < 128 for pair in pairs)
        begins = len(pairs) > 1 and pairs[0][zero] == 0 < pairs[0][1 - zero] < 128
        whole = len(head) // 2 * 2  # and where the head cuts a pair of surrogates, two bytes less
        if begins and 4 * ascii_pairs >= len(pairs) and any(_valid(head[:end], name) for end in (whole, whole - 2)):
            return name
    return None


def _told(lines: list[bytes], path: Path) -> str | None:
    """Return the encoding of lines that are no UTF-8, None where it is not certain."""
    sample: list[bytes] = []
    for line in lines:
        sample.append(line)
        if sum(map(len, sample)) >= SAMPLE:
            break
    joined = b"\n".join(sample)
    if sum(byte > 127 for byte in joined) < FEWEST or b"\0" in joined:
        return None
    try:
        import charset_normalizer
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"{path}: is not UTF-8; to tell its encoding: pip install 'llmx[clean]'; or say it: --encoding gb18030",
            "charset-normalizer",
        ) from error
    best = charset_normalizer.from_bytes(joined).best()
    name = CERTAIN.get(best.encoding) if best is not None else None
    return name if name and all(_valid(line, name) for line in sample) else None


def _valid(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _valid_so_far(head: bytes) -> bool:
    """Return whether a beginning is UTF-8 but for a character that is cut at its end."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return True
