"""Paths as people write them and names as disks hold them; standard library only.

A manifest may come from another machine than its recordings: with accents composed otherwise (Mac), with `\\` between
folders (Windows), with the bytes of another encoding (an old archive, unpacked on Linux).
"""

import os
import unicodedata
from functools import lru_cache

ENCODINGS = ("gb18030", "big5", "shift_jis", "euc_kr", "cp1252", "cp850", "cp437")  # of names in archives


def printable(name):
    r"""A name as text that all files and terminals take: bytes that are no UTF-8 as `\xcd`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def below(root, path):
    """A path as written, relative to the folder `root` and without `..`; None where it leaves the folder.

    Links are not followed: what they point to is their owner's business. An absolute path may reach the folder
    through a link. `\\` separates folders where no name holds it.
    """
    if "\\" in path and not os.path.lexists(os.path.join(root, path)):
        path = path.replace("\\", "/")
    path = os.path.normpath(path)
    if not os.path.isabs(path):
        return None if path.split(os.sep)[0] == os.pardir else path
    folder = path
    while (parent := os.path.dirname(folder)) != folder:
        folder = parent
        if _same_folder(folder, os.path.abspath(root)):
            return os.path.relpath(path, folder)
    return None


@lru_cache(4096)
def _same_folder(folder, root):
    return folder == root or (os.path.isdir(folder) and os.path.isdir(root) and os.path.samefile(folder, root))


def on_disk(root, path):
    """A relative path as the disk spells it: itself where it is there, or where nothing of that name is.

    Finds accents that are composed otherwise, and names in the bytes of another encoding.
    """
    if not os.path.lexists(os.path.join(root, path)) and (found := similar(os.path.join(root, path), spellings)):
        return os.path.relpath(found, root)
    return path


def similar(path, spell):
    """The only path on disk whose names share a spelling with those of `path`; None where none or several do.

    `spell` is `spellings` or `loose_spellings`.
    """
    found = os.sep
    for name in os.path.abspath(path).split(os.sep)[1:]:
        if not os.path.lexists(os.path.join(found, name)):
            try:
                index = _index(found, os.stat(found).st_mtime_ns, spell)
            except OSError:
                return None
            alike = set().union(*(index.get(text, ()) for text in spell(name)))
            if len(alike) != 1:
                return None
            (name,) = alike
        found = os.path.join(found, name)
    return found


@lru_cache(64)
def _index(folder, changed, spell):
    """{spelling: names in the folder}, for the folder as of its time of change."""
    index = {}
    for name in os.listdir(folder):
        for text in spell(name):
            index.setdefault(text, set()).add(name)
    return index


def spellings(name):
    """Texts that a name may stand for: with composed accents, and where it is no UTF-8, its bytes in ENCODINGS."""
    texts = {unicodedata.normalize("NFC", name)}
    if not is_utf8(name):
        for encoding in ENCODINGS:
            try:
                texts.add(unicodedata.normalize("NFC", os.fsencode(name).decode(encoding)))
            except UnicodeDecodeError:
                continue
    return texts


def loose_spellings(name):
    """The spellings of a name without the difference between capitals and small letters."""
    return {unicodedata.normalize("NFKC", text).casefold() for text in spellings(name)}


def is_utf8(name):
    """True where the bytes of a name are UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def why_missing(path):
    """Line that explains why there is no file at a path, with the remedy."""
    path = str(path)
    if os.path.isdir(path):
        return f"{path}: is a folder and no such recording; name a file"
    part = path
    while part and part != os.path.dirname(part):
        if os.path.islink(part) and not os.path.exists(part):
            return f"{part}: is a link to {os.readlink(part)}, where nothing is; restore that, or the recordings here"
        part = os.path.dirname(part)
    if found := similar(path, loose_spellings):
        name = next(name for name in found.split(os.sep) if name not in path.split(os.sep))
        difference = "in other capitals" if is_utf8(name) else "in an encoding that is not UTF-8"
        if similar(path, spellings) == found and is_utf8(name):
            difference = "with accents that are composed otherwise"
        return f"{path}: no such recording, but {printable(found)} is there, spelt {difference}; spell them alike"
    return f"{path}: no such recording; restore it or take it off the list"
