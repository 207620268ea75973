"""Where images come from: class folders, a flat folder, ILSVRC2012's tars read in place, CIFAR-10's batches.

The order of a source is canonical: by class index, then by file name. So the same images give the same beton whether
they lie in folders or in tars. (The batches of CIFAR-10 keep their own order.)
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from data_prep import cifar, tar_index
from data_prep.labels import Devkit, Labelling, ValMap
from trainer.errors import UsageError

_SPLIT_NAMES = {"train", "val", "valid", "validation", "test"}


class FileItem(NamedTuple):
    """An image file, or one inside a tar, as bytes [offset, offset + size) of `path`; size -1 means all of it."""

    path: str
    offset: int = 0
    size: int = -1


class PixelItem(NamedTuple):
    """An image given as pixels: height x width x 3 bytes of RGB."""

    pixels: bytes
    height: int
    width: int


Item: TypeAlias = FileItem | PixelItem
"""What a worker needs to get at one image."""


class Names:
    """An immutable list of strings in two arrays: a million `str` objects would take five times the memory."""

    def __init__(self, names: Iterable[str]) -> None:
        joined, ends = bytearray(), array("q", [0])
        for name in names:
            joined += os.fsencode(name)
            ends.append(len(joined))
        self._joined, self._ends = bytes(joined), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return os.fsdecode(self._joined[self._ends[index] : self._ends[index + 1]])


@dataclass(frozen=True)
class Source:
    """Labelled images in canonical order."""

    kind: str
    path: Path
    classes: list[str]
    """Names in index order."""
    labels: npt.NDArray[np.int64]
    """int64 [N], class indices."""
    names: Names
    """How errors name each image; for a folder, its path relative to `path`."""
    notes: list[str] = field(default_factory=list, kw_only=True)
    """What was left aside, for people to read."""

    def __len__(self) -> int:
        return len(self.labels)

    def item(self, index: int) -> Item:
        """Where image `index` is."""
        return FileItem(os.path.join(self.path, self.names[index]))


@dataclass(frozen=True)
class TarSource(Source):
    """Images inside a tar."""

    regions: npt.NDArray[np.int64]
    """int64 [N, 2]: offset and size of each image in the tar."""

    def item(self, index: int) -> Item:
        offset, size = self.regions[index].tolist()
        return FileItem(str(self.path), offset, size)


@dataclass(frozen=True)
class PixelSource(Source):
    """Images that are held in memory as pixels."""

    pixels: npt.NDArray[np.uint8]
    """uint8 [N, height, width, 3], RGB."""

    def item(self, index: int) -> Item:
        image = self.pixels[index]
        return PixelItem(image.tobytes(), *image.shape[:2])


def open_source(path: Path, split: str, labelling: Labelling | None = None) -> Source:
    """List the images of `path`, told apart by content.

    Args:
        split: "train" or "val"; decides which batches of CIFAR-10 are read, and nothing else.
        labelling: gives the classes of images that lie in no class folders.

    Raises:
        UsageError: nothing there that can be converted.
    """
    try:
        if path.is_dir():
            source = _open_folder(path, split, labelling)
        elif path.exists() and not path.is_file():
            raise UsageError(f"{path}: neither a folder nor a file")
        else:
            source = _open_tar(path, labelling)
    except OSError as error:
        raise UsageError(f"{error.filename or path}: cannot read it: {error.strerror}") from error
    if len(source) == 0:
        raise UsageError(f"{path}: no image in it")
    return source


def open_labelling(devkit: Path | None, val_map: Path | None) -> Labelling | None:
    """The labelling that the options ask for."""
    if devkit is not None:
        return Devkit(devkit)
    return None if val_map is None else ValMap(val_map)


def with_classes(source: Source, classes: list[str], origin: Path) -> Source:
    """The same images with the class indices of `classes`, which must name every class of the source.

    Raises:
        UsageError: a class of the source is not among them.
    """
    index = {name: i for i, name in enumerate(classes)}
    used = np.bincount(source.labels, minlength=len(source.classes)) > 0
    for name, is_used in zip(source.classes, used, strict=True):
        if is_used and name not in index:
            raise UsageError(f"{origin}: class {name!r} of {source.path} is not in it")
    mapping = np.array([index.get(name, -1) for name in source.classes], np.int64)
    return replace(source, classes=classes, labels=mapping[source.labels])


class _Found(NamedTuple):
    """An image file found: its name within its class (or the flat source), and where it is in a tar."""

    name: str
    offset: int = 0
    size: int = -1


class _Hidden:
    """Files and folders whose names begin with a dot are no part of a data set; they are counted, to be told."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> bool:
        hidden = name.startswith(".") or "/." in name
        if hidden:
            self.names.append(name)
        return hidden

    def notes(self) -> list[str]:
        return [f"left aside hidden entries: {len(self.names)}, e.g. {self.names[0]}"] if self.names else []


# ------------------------------------------------------------------------------------------------------------ folders


def _open_folder(path: Path, split: str, labelling: Labelling | None) -> Source:
    batches = cifar.find_batches(path, split)
    if batches and labelling is not None:
        raise UsageError(f"{path}: the batches of CIFAR-10 have labels, so --devkit and --val-map do not apply")
    if batches:
        content = cifar.load_batches(batches)
        return PixelSource(
            "CIFAR-10 batches", path, content.classes, content.labels, Names(content.names), content.pixels
        )
    hidden = _Hidden()
    with os.scandir(path) as scan:
        entries = sorted((entry for entry in scan if not hidden(entry.name)), key=lambda entry: entry.name)
    folders = [entry.name for entry in entries if entry.is_dir()]
    files = [_Found(entry.name) for entry in entries if _is_candidate(entry)]
    if labelling is not None:
        if folders:
            raise UsageError(f"{path}: it has class folders, so --devkit and --val-map do not apply")
        return _label("flat folder", path, files, labelling, hidden.notes())
    if not folders:
        raise _no_labels(path) if files else UsageError(f"{path}: no class folders in it")
    if set(folders) <= _SPLIT_NAMES:
        raise UsageError(f"{path}: it holds splits, not classes; give one of them, e.g. {path / folders[0]}")
    notes = [f"left aside files beside the class folders: {len(files)}, e.g. {files[0].name}"] if files else []
    listing = ((name, sorted(_files_below(path / name, "", hidden))) for name in folders)
    labels, names, _ = _tabulate(path, listing)
    return Source("class folders", path, folders, labels, names, notes=notes + hidden.notes())


def _files_below(folder: Path, prefix: str, hidden: _Hidden) -> Iterator[_Found]:
    with os.scandir(folder) as scan:
        for entry in scan:
            if hidden(entry.name):
                continue
            if entry.is_dir():
                yield from _files_below(folder / entry.name, f"{prefix}{entry.name}/", hidden)
            elif _is_candidate(entry):
                yield _Found(prefix + entry.name)


def _is_candidate(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file. A dangling link counts: reading it will say what is wrong."""
    if entry.is_dir():
        return False
    if entry.is_file() or entry.is_symlink():
        return True
    raise UsageError(f"{entry.path}: neither a file nor a folder")


def _tabulate(
    path: Path, listing: Iterable[tuple[str, list[_Found]]]
) -> tuple[npt.NDArray[np.int64], Names, npt.NDArray[np.int64]]:
    """Labels, names and regions of the sorted files of each class, given in index order."""
    counts, regions = array("q"), array("q")

    def names() -> Iterator[str]:
        for class_name, files in listing:
            if not files:
                raise UsageError(f"{path}: class {class_name!r} is empty; remove it")
            counts.append(len(files))
            for file in files:
                regions.extend((file.offset, file.size))
                yield f"{class_name}/{file.name}"

    table = Names(names())
    return np.repeat(np.arange(len(counts)), np.array(counts)), table, np.array(regions).reshape(-1, 2)


# --------------------------------------------------------------------------------------------------------------- tars


def _open_tar(path: Path, labelling: Labelling | None) -> Source:
    fd = os.open(path, os.O_RDONLY)
    try:
        hidden = _Hidden()
        members = [member for member in tar_index.members(fd, str(path)) if not hidden(member.name)]
        nested = [tar_index.is_tar(fd, member.offset, member.size) for member in members]
        if not any(nested):
            if labelling is None and any("/" in member.name for member in members):
                raise UsageError(f"{path}: a tar of folders is not read in place; unpack it and give the folder")
            if labelling is None:
                raise _no_labels(path)
            return _label("tar of images", path, [_Found(*member) for member in members], labelling, hidden.notes())
        if labelling is not None:
            raise UsageError(f"{path}: a tar of class tars, so --devkit and --val-map do not apply")
        if not all(nested):
            raise UsageError(f"{path}: a tar of class tars, but {members[nested.index(False)].name} is no tar")
        return _from_class_tars(path, fd, members, hidden)
    finally:
        os.close(fd)


def _from_class_tars(path: Path, fd: int, members: list[tar_index.Member], hidden: _Hidden) -> Source:
    by_class = {PurePosixPath(member.name).name.removesuffix(".tar"): member for member in members}
    if len(by_class) < len(members):
        raise UsageError(f"{path}: two of its tars have the same name")
    classes = sorted(by_class)

    def files(class_name: str) -> list[_Found]:
        tar = by_class[class_name]
        inner = tar_index.members(fd, f"{path}: {tar.name}", tar.offset, tar.offset + tar.size)
        # Some class tars repeat the class as a folder.
        found = [_Found(name.removeprefix(f"{class_name}/"), *region) for name, *region in inner if not hidden(name)]
        return _sorted_unique(found, f"{path}: {tar.name}")

    labels, names, regions = _tabulate(path, ((name, files(name)) for name in classes))
    return TarSource("tar of class tars", path, classes, labels, names, regions, notes=hidden.notes())


def _sorted_unique(files: list[_Found], label: str) -> list[_Found]:
    files = sorted(files)
    for one, other in pairwise(files):
        if one.name == other.name:
            raise UsageError(f"{label}: {one.name} is in it twice")
    return files


# ------------------------------------------------------------------------------------------------------- flat sources


def _label(kind: str, path: Path, files: list[_Found], labelling: Labelling, notes: list[str]) -> Source:
    """A source of the flat list `files`, in the canonical order of the classes that `labelling` gives them."""
    index = {name: i for i, name in enumerate(labelling.classes)}
    files = _sorted_unique(files, str(path))
    labels = np.array([index[labelling.class_of(PurePosixPath(file.name).name)] for file in files], np.int64)
    order = np.argsort(labels, kind="stable")
    files = [files[i] for i in order]
    names, regions = Names(file.name for file in files), np.array([file[1:] for file in files], np.int64).reshape(-1, 2)
    if path.is_dir():
        return Source(kind, path, labelling.classes, labels[order], names, notes=notes)
    return TarSource(kind, path, labelling.classes, labels[order], names, regions, notes=notes)


def _no_labels(path: Path) -> UsageError:
    return UsageError(
        f"{path}: images without class folders have no labels; give them with --devkit ILSVRC2012_devkit_t12.tar.gz "
        "or --val-map FILE"
    )
