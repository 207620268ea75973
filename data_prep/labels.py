"""Labels of images that do not lie in class folders: ILSVRC2012's devkit, or a file of names and classes."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from trainer.errors import UsageError

_GROUND_TRUTH: Final = "data/ILSVRC2012_validation_ground_truth.txt"
_SYNSETS: Final = "data/meta.mat"


class Labelling(ABC):
    """The class of each image by its file name."""

    def __init__(self, origin: Path, classes: list[str]) -> None:
        self.origin = origin
        self.classes = classes
        """Names in index order: sorted wnids (trap T20)."""

    @abstractmethod
    def class_of(self, name: str) -> str:
        """The class name of an image.

        Raises:
            UsageError: the image is not known here.
        """


class ValMap(Labelling):
    """Lines of `FILE NAME, white space, CLASS`, as in `ILSVRC2012_val_00000001.JPEG n01751748`."""

    def __init__(self, path: Path) -> None:
        self._classes: dict[str, str] = {}
        for number, line in enumerate(_read_text(path).splitlines(), 1):
            words = line.split()
            if len(words) not in (0, 2):
                raise UsageError(f"{path}:{number}: expected `file-name class`, found {line.strip()!r}")
            if words and self._classes.setdefault(words[0], words[1]) != words[1]:
                raise UsageError(f"{path}:{number}: {words[0]} has two classes")
        super().__init__(path, sorted(set(self._classes.values())))

    def class_of(self, name: str) -> str:
        try:
            return self._classes[name]
        except KeyError:
            raise UsageError(f"{self.origin}: no line for {name}") from None


class Devkit(Labelling):
    """ILSVRC2012_devkit_t12.tar.gz: the ground truth by image number, in ids of its own that meta.mat maps to wnids."""

    def __init__(self, path: Path) -> None:
        files = _read_members(path, (_GROUND_TRUTH, _SYNSETS))
        self._wnids = _leaf_synsets(files[_SYNSETS], path)
        self._ids = [int(line) for line in files[_GROUND_TRUTH].split()]
        unknown = sorted(set(self._ids) - set(self._wnids))
        if unknown:
            raise UsageError(f"{path}: the ground truth names id {unknown[0]}, which is no leaf of {_SYNSETS}")
        super().__init__(path, sorted(self._wnids.values()))

    def class_of(self, name: str) -> str:
        number = re.fullmatch(r"ILSVRC2012_val_(\d{8})\.\w+", name)
        if not number:
            raise UsageError(f"{name}: --devkit needs names as ILSVRC2012_val_00000001.JPEG; for others give --val-map")
        place = int(number[1])
        if not 1 <= place <= len(self._ids):
            raise UsageError(f"{self.origin}: no ground truth for {name} ({len(self._ids)} lines)")
        return self._wnids[self._ids[place - 1]]


def read_class_file(path: Path) -> list[str]:
    """Class names in index order, one a line.

    Raises:
        UsageError: unreadable, empty, or a name comes twice.
    """
    classes = [line.strip() for line in _read_text(path).splitlines() if line.strip()]
    twice = [name for name in classes if classes.count(name) > 1] if len(set(classes)) < len(classes) else []
    if twice or not classes:
        raise UsageError(f"{path}: {f'class {twice[0]!r} comes twice' if twice else 'no class name in it'}")
    return classes


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not a text file in UTF-8") from error


def _read_members(path: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    """Contents of the members whose paths end like `wanted`; the devkit has a folder of its own name on top."""
    found = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                for name in wanted:
                    if f"/{member.name}".endswith(f"/{name}") and (file := archive.extractfile(member)):
                        found[name] = file.read()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the devkit: {error.strerror or error}") from error
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: not a tar, or damaged: {' '.join(str(error).split())}") from error
    for name in wanted:
        if name not in found:
            raise UsageError(f"{path}: no {name} in it; expected ILSVRC2012_devkit_t12.tar.gz")
    return found


def _leaf_synsets(meta: bytes, origin: Path) -> dict[int, str]:
    """ILSVRC2012_ID -> wnid of the synsets without children: the classes. The others are inner nodes of WordNet."""
    import scipy.io  # here: it takes half a second, for this one source

    try:
        synsets = scipy.io.loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        return {
            int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets if int(synset["num_children"]) == 0
        }
    except Exception as error:  # a damaged file raises nearly anything
        raise UsageError(f"{origin}: cannot read {_SYNSETS}: {error}") from error
