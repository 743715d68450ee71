"""Whether all servers say the same of the same photographs, which none was trained on."""

import io
import tempfile
from pathlib import Path

from bodies import square
from load import Client, Floor
from network import jpeg_of, photographs
from PIL import Image
from tables import NAMES
from timing import table

THRESHOLD = 0.5


def verdicts(started: dict, count: int) -> str:
    """Return a table: each server's right verdicts, and how far it is from the first one's."""
    chosen = photographs(test=True)[:count]
    rows, first = [], None
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, (source, _) in enumerate(chosen):
            files.append(Path(folder) / f"{number}.jpg")
            data = io.BytesIO(source.read_bytes())
            files[-1].write_bytes(jpeg_of(square(Image.open(data))))
        for name, server in started.items():
            found = _probabilities(server, files)
            first = first or found
            pairs = list(zip(found, first, strict=True))
            changed = sum((a >= THRESHOLD) != (b >= THRESHOLD) for a, b in pairs)
            right = sum(
                (p >= THRESHOLD) == bool(t) for p, (_, t) in zip(found, chosen, strict=True)
            )
            largest = max(abs(a - b) for a, b in pairs)
            rows.append((NAMES[name], f"{right}/{len(found)}", changed, f"{largest:.4f}"))
    head = ("512 px JPEG, photographs", "right", "verdicts unlike the first row's", "largest |dp|")
    return table(head, rows)


def _probabilities(server, files: list[Path]) -> list[float]:
    if isinstance(server, Floor):
        return server.probabilities(files)
    client = Client(server)
    return [server.probability(client.ask(server.body(file.read_bytes()))[1]) for file in files]
