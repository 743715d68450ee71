"""Single changes of a receipt log, drawn at random, and undone: bytes edited, lines deleted, swapped."""

from contextlib import contextmanager

from services.inference.receipt_files import files_of

CHANGES = ("edit", "deletion", "swap")


def edited(data, chance):
    """Change one byte, put one in or take one out; return the new bytes and the place."""
    at = chance.randrange(len(data))
    way = chance.choice(("replace", "insert", "remove"))
    if way == "replace":
        return data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :], at
    if way == "insert":
        return data[:at] + bytes([chance.randrange(256)]) + data[at:], at
    return data[:at] + data[at + 1 :], at


def without_a_line(data, chance):
    """Take out one line."""
    lines = data.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    return b"".join(lines[:at] + lines[at + 1 :]), len(b"".join(lines[:at]))


@contextmanager
def changed(folder, kind, chance):
    """Change a log in one place; yield (name of the file, line), then undo it."""
    if kind == "swap":
        yield from _swapped(folder, chance)
        return
    files = files_of(folder)
    file = chance.choices(files, [path.stat().st_size for path in files])[0]
    before = file.read_bytes()
    after, at = (edited if kind == "edit" else without_a_line)(before, chance)
    file.write_bytes(after)
    try:
        yield file.name, before.count(b"\n", 0, at) + 1
    finally:
        file.write_bytes(before)


def _swapped(folder, chance):
    places = [
        (path, number)
        for path in files_of(folder)
        for number in range(path.read_bytes().count(b"\n"))
    ]
    (one, i), (two, j) = sorted(chance.sample(places, 2))
    kept = {path: path.read_bytes() for path in {one, two}}
    lines = {path: data.splitlines(keepends=True) for path, data in kept.items()}
    lines[one][i], lines[two][j] = lines[two][j], lines[one][i]
    for path, found in lines.items():
        path.write_bytes(b"".join(found))
    try:
        yield one.name, i + 1
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
