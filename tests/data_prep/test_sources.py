"""Which images a source holds, in which order, with which labels."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import scipy.io

from data_prep.sources import FileItem, Item, Names, PixelItem, Source, open_labelling, open_source, with_classes
from trainer.errors import UsageError

Write = Callable[[Path, Mapping[str, bytes]], Path]
Tar = Callable[..., bytes]


def content(item: Item) -> bytes:
    if isinstance(item, PixelItem):
        return item.pixels
    data = Path(item.path).read_bytes()
    return data if item.size < 0 else data[item.offset : item.offset + item.size]


def listing(source: Source) -> list[tuple[str, str, bytes]]:
    return [(source.classes[source.labels[i]], source.names[i], content(source.item(i))) for i in range(len(source))]


FILES = {
    "n02/b_10.JPEG": b"210",
    "n02/b_2.JPEG": b"22",
    "n01/sub/deep.png": b"1d",
    "n01/a.JPEG": b"1a",
    "n10/c.JPEG": b"10c",
}
SORTED = [
    ("n01", "n01/a.JPEG", b"1a"),
    ("n01", "n01/sub/deep.png", b"1d"),
    ("n02", "n02/b_10.JPEG", b"210"),
    ("n02", "n02/b_2.JPEG", b"22"),
    ("n10", "n10/c.JPEG", b"10c"),
]


def test_names_are_a_list_of_strings_of_any_kind() -> None:
    names = ["", "a", "größe/é", os.fsdecode(b"\xff\xfe"), "x" * 1000]
    table = Names(names)
    assert [table[i] for i in range(len(table))] == names


class TestClassFolders:
    def test_sorted_by_class_then_file_name_at_any_depth(self, tmp_path: Path, write: Write) -> None:
        source = open_source(write(tmp_path, FILES), "train")
        assert source.classes == ["n01", "n02", "n10"]
        assert listing(source) == SORTED
        assert source.notes == []

    def test_hidden_and_stray_files_are_left_aside_and_told(self, tmp_path: Path, write: Write) -> None:
        extra = {"README": b"", ".DS_Store": b"", "n01/.thumbs/a.JPEG": b"", "n01/._a.JPEG": b"", ".git/x/y": b""}
        source = open_source(write(tmp_path, {**FILES, **extra}), "train")
        assert listing(source) == SORTED
        assert source.notes == [
            "left aside files beside the class folders: 1, e.g. README",
            "left aside hidden entries: 4, e.g. " + source.notes[1].rsplit(" ", 1)[1],
        ]

    def test_links_are_followed_and_dangling_ones_are_not_dropped(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path / "elsewhere", {"n05/x": b"5"})
        root = write(tmp_path / "root", {"n01/a": b"1"})
        (root / "n05").symlink_to(tmp_path / "elsewhere/n05")
        (root / "n01/gone").symlink_to(tmp_path / "nowhere")
        source = open_source(root, "train")
        assert [source.names[i] for i in range(3)] == ["n01/a", "n01/gone", "n05/x"]

    def test_an_empty_class_is_an_error(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path, FILES)
        (tmp_path / "n03").mkdir()
        with pytest.raises(UsageError, match="class 'n03' is empty"):
            open_source(tmp_path, "train")

    def test_a_folder_of_splits_is_not_taken_for_two_classes(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path, {"train/n01/a": b"1", "val/n01/b": b"1"})
        with pytest.raises(
            UsageError, match=rf"it holds splits, not classes; give one of them, e\.g\. {tmp_path}/train"
        ):
            open_source(tmp_path, "train")

    def test_special_files_are_errors(self, tmp_path: Path, write: Write) -> None:
        write(tmp_path, FILES)
        os.mkfifo(tmp_path / "n01/pipe")
        with pytest.raises(UsageError, match="pipe: neither a file nor a folder"):
            open_source(tmp_path, "train")
        with pytest.raises(UsageError, match="pipe: neither a folder nor a file"):
            open_source(tmp_path / "n01/pipe", "train")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no class folders"):
            open_source(tmp_path, "train")
        with pytest.raises(UsageError, match="missing: cannot read it: No such file"):
            open_source(tmp_path / "missing", "train")


class TestTarOfClassTars:
    def test_it_lists_what_the_folder_lists(
        self, tmp_path: Path, class_tars: Callable[[Mapping[str, bytes]], bytes]
    ) -> None:
        flat = {name: data for name, data in FILES.items() if name.count("/") == 1}
        (tmp_path / "any name").write_bytes(class_tars(flat))
        source = open_source(tmp_path / "any name", "train")
        assert source.classes == ["n01", "n02", "n10"]
        assert listing(source) == [entry for entry in SORTED if entry[1] in flat]

    def test_class_tars_may_repeat_their_folder(self, tmp_path: Path, tar: Tar) -> None:
        path = tmp_path / "train.tar"
        path.write_bytes(tar({"./n01.tar": tar({"./n01/a.JPEG": b"1a", "n01/._a.JPEG": b""}), "._n01.tar": b"x"}))
        source = open_source(path, "train")
        assert listing(source) == [("n01", "n01/a.JPEG", b"1a")]
        assert source.notes == ["left aside hidden entries: 2, e.g. ._n01.tar"]

    def test_a_stranger_among_the_class_tars_is_an_error(self, tmp_path: Path, tar: Tar) -> None:
        path = tmp_path / "train.tar"
        path.write_bytes(tar({"n01.tar": tar({"a": b"1"}), "README": b"text"}))
        with pytest.raises(UsageError, match="README is no tar"):
            open_source(path, "train")

    def test_a_damaged_class_tar_is_an_error_that_names_it(self, tmp_path: Path, tar: Tar) -> None:
        path = tmp_path / "train.tar"
        path.write_bytes(tar({"n01.tar": tar({"a": bytes(2000)})[:1000], "n02.tar": tar({"b": b"2"})}))
        with pytest.raises(UsageError, match=r"train\.tar: n01\.tar: the tar is truncated"):
            open_source(path, "train")

    def test_names_must_be_unique(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a"))
            archive.addfile(tarfile.TarInfo("a"))
        outer = io.BytesIO()
        with tarfile.open(fileobj=outer, mode="w") as archive:
            member = tarfile.TarInfo("n01.tar")
            member.size = len(buffer.getvalue())
            archive.addfile(member, io.BytesIO(buffer.getvalue()))
        (tmp_path / "train.tar").write_bytes(outer.getvalue())
        with pytest.raises(UsageError, match=r"n01\.tar: a is in it twice"):
            open_source(tmp_path / "train.tar", "train")

    def test_what_is_no_tar(self, tmp_path: Path, tar: Tar) -> None:
        (tmp_path / "train.tar.gz").write_bytes(b"\x1f\x8b" + bytes(1000))
        with pytest.raises(UsageError, match="not an uncompressed tar"):
            open_source(tmp_path / "train.tar.gz", "train")
        (tmp_path / "tree.tar").write_bytes(tar({"n01/a.JPEG": b"1"}))
        with pytest.raises(UsageError, match="unpack it and give the folder"):
            open_source(tmp_path / "tree.tar", "train")


# The ids of the devkit are in another order than the wnids, and inner nodes have wnids as well (trap T20).
SYNSETS = [(1, "n30", 0), (2, "n10", 0), (3, "n20", 0), (4, "n05", 2), (5, "n00", 3)]
VAL = {f"ILSVRC2012_val_{i:08d}.JPEG": bytes([i]) for i in (3, 1, 4, 2)}
GROUND_TRUTH = "2\n1\n3\n2\n"
VAL_LISTING = [
    ("n10", "ILSVRC2012_val_00000001.JPEG", b"\1"),
    ("n10", "ILSVRC2012_val_00000004.JPEG", b"\4"),
    ("n20", "ILSVRC2012_val_00000003.JPEG", b"\3"),
    ("n30", "ILSVRC2012_val_00000002.JPEG", b"\2"),
]


def devkit(tar: Tar, path: Path, ground_truth: str = GROUND_TRUTH, **members: bytes) -> Path:
    """An archive with the members and the MATLAB structure of ILSVRC2012_devkit_t12.tar.gz."""
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O"), ("children", "O")]
    synsets = np.empty((len(SYNSETS), 1), dtype=fields)
    for row, (number, wnid, children) in zip(synsets, SYNSETS, strict=True):
        row[0] = (float(number), wnid, f"words of {wnid}", float(children), np.arange(children, dtype=float))
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    files = {
        "readme.txt": b"",
        "data/meta.mat": meta.getvalue(),
        "data/ILSVRC2012_validation_ground_truth.txt": ground_truth.encode(),
        **members,
    }
    plain = tar({f"ILSVRC2012_devkit_t12/{name}": data for name, data in files.items() if data is not None})
    with tarfile.open(path, "w:gz") as archive, tarfile.open(fileobj=io.BytesIO(plain)) as source:
        for member in source:
            archive.addfile(member, source.extractfile(member))
    return path


class TestFlatSources:
    @pytest.fixture(params=["tar", "folder"])
    def val(self, request: pytest.FixtureRequest, tmp_path: Path, tar: Tar, write: Write) -> Path:
        if request.param == "folder":
            return write(tmp_path / "val", VAL)
        (tmp_path / "val.tar").write_bytes(tar(VAL))
        return tmp_path / "val.tar"

    def test_the_devkit_maps_its_ids_to_sorted_wnids(self, val: Path, tar: Tar, tmp_path: Path) -> None:
        source = open_source(val, "val", open_labelling(devkit(tar, tmp_path / "devkit.tar.gz"), None))
        assert source.classes == ["n10", "n20", "n30"]
        assert listing(source) == VAL_LISTING

    def test_a_map_gives_the_same(self, val: Path, tmp_path: Path) -> None:
        lines = [f"{name}\t{wnid}\n" for wnid, name, _ in reversed(VAL_LISTING)]
        (tmp_path / "map.txt").write_text("".join(["\n", *lines]))
        source = open_source(val, "val", open_labelling(None, tmp_path / "map.txt"))
        assert source.classes == ["n10", "n20", "n30"]
        assert listing(source) == VAL_LISTING

    def test_without_labels_it_is_an_error_that_says_what_to_give(self, val: Path) -> None:
        with pytest.raises(UsageError, match=r"give them with --devkit .* or --val-map"):
            open_source(val, "val")

    def test_an_image_that_the_labels_do_not_know_is_an_error(self, val: Path, tar: Tar, tmp_path: Path) -> None:
        (tmp_path / "map.txt").write_text("ILSVRC2012_val_00000001.JPEG n10\n")
        with pytest.raises(UsageError, match=r"map\.txt: no line for ILSVRC2012_val_00000002\.JPEG"):
            open_source(val, "val", open_labelling(None, tmp_path / "map.txt"))
        short = open_labelling(devkit(tar, tmp_path / "devkit.tar.gz", "2\n1\n3\n"), None)
        with pytest.raises(UsageError, match=r"no ground truth for ILSVRC2012_val_00000004\.JPEG \(3 lines\)"):
            open_source(val, "val", short)

    def test_other_names_need_a_map(self, tmp_path: Path, tar: Tar) -> None:
        (tmp_path / "x.tar").write_bytes(tar({"cat.jpg": b"1"}))
        with pytest.raises(UsageError, match=r"cat\.jpg: --devkit needs names as"):
            open_source(tmp_path / "x.tar", "val", open_labelling(devkit(tar, tmp_path / "d.tar.gz"), None))

    def test_labels_do_not_apply_to_classes(self, tmp_path: Path, tar: Tar, write: Write) -> None:
        labelling = open_labelling(devkit(tar, tmp_path / "devkit.tar.gz"), None)
        (tmp_path / "train.tar").write_bytes(tar({"n01.tar": tar({"a": b"1"})}))
        for path in (write(tmp_path / "folder", FILES), tmp_path / "train.tar"):
            with pytest.raises(UsageError, match="so --devkit and --val-map do not apply"):
                open_source(path, "val", labelling)

    def test_damaged_devkits(self, tar: Tar, tmp_path: Path) -> None:
        path = tmp_path / "devkit.tar.gz"
        with pytest.raises(UsageError, match="the ground truth names id 4, which is no leaf"):
            open_labelling(devkit(tar, path, "1\n4\n"), None)
        with pytest.raises(UsageError, match=r"cannot read data/meta\.mat"):
            open_labelling(devkit(tar, path, **{"data/meta.mat": b"no matlab"}), None)
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(UsageError, match=r"devkit\.tar\.gz: "):
            open_labelling(path, None)
        with tarfile.open(path, "w:gz"):
            pass
        with pytest.raises(UsageError, match=r"no data/ILSVRC2012_validation_ground_truth\.txt in it"):
            open_labelling(path, None)
        with pytest.raises(UsageError, match="missing: cannot read the devkit: No such file"):
            open_labelling(tmp_path / "missing", None)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("a n1\nb\n", r"map:2: expected `file-name class`, found 'b'"), ("a n1\na n2", "map:2: a has two classes")],
    )
    def test_damaged_maps(self, tmp_path: Path, text: str, expected: str) -> None:
        (tmp_path / "map").write_text(text)
        with pytest.raises(UsageError, match=expected):
            open_labelling(None, tmp_path / "map")


class TestClassLists:
    def test_indices_follow_the_list(self, tmp_path: Path, write: Write) -> None:
        source = with_classes(open_source(write(tmp_path, FILES), "train"), ["n10", "n99", "n02", "n01"], Path("list"))
        assert source.classes == ["n10", "n99", "n02", "n01"]
        assert source.labels.tolist() == [3, 3, 2, 2, 0]
        assert listing(source) == SORTED

    def test_a_class_that_is_not_in_the_list_is_an_error(self, tmp_path: Path, write: Write) -> None:
        source = open_source(write(tmp_path, FILES), "train")
        with pytest.raises(UsageError, match=r"list: class 'n02' of .* is not in it"):
            with_classes(source, ["n01", "n03", "n10"], Path("list"))


CIFAR_CLASSES = ["airplane", "automobile", "bird"]


PythonPickler: Any = pickle._Pickler  # type: ignore[attr-defined]  # the one in Python: it can be changed


class OldPickler(PythonPickler):  # type: ignore[misc]
    """Writes bytes as Python 2, which made the published batches, wrote its strings."""

    dispatch: ClassVar[dict[type, Any]] = dict(PythonPickler.dispatch)

    def save_bytes(self, value: bytes) -> None:
        self.write(pickle.BINSTRING + len(value).to_bytes(4, "little") + value)
        self.memoize(value)

    def save_text(self, value: str) -> None:
        self.save_bytes(value.encode("ascii"))

    dispatch[bytes] = save_bytes
    dispatch[str] = save_text


def old_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    OldPickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


class TestCifarBatches:
    @pytest.fixture
    def batches(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        rng = np.random.default_rng(0)
        return {
            name: (rng.integers(0, 256, (4, 3072), np.uint8), rng.integers(0, 3, 4))
            for name in ("data_batch_1", "data_batch_2", "test_batch")
        }

    @pytest.fixture
    def binary(self, batches: Any, tmp_path: Path, write: Write) -> Path:
        files = {
            f"{name}.bin": np.column_stack([labels.astype(np.uint8), pixels]).tobytes()
            for name, (pixels, labels) in batches.items()
        }
        return write(tmp_path / "bin", {**files, "batches.meta.txt": "\n".join([*CIFAR_CLASSES, "", ""]).encode()})

    @pytest.fixture(params=[old_pickle, pickle.dumps], ids=["published", "new"])
    def python(self, request: pytest.FixtureRequest, batches: Any, tmp_path: Path, write: Write) -> Path:
        def dump(value: object) -> bytes:
            return old_pickle(value) if request.param is old_pickle else pickle.dumps(value, protocol=2)

        files = {
            name: dump({b"data": pixels, b"labels": labels.tolist(), b"batch_label": b"batch"})
            for name, (pixels, labels) in batches.items()
        }
        meta = dump({b"label_names": [name.encode() for name in CIFAR_CLASSES]})
        return write(tmp_path / "py", {**files, "batches.meta": meta})

    @pytest.mark.parametrize(("split", "names"), [("train", ["data_batch_1", "data_batch_2"]), ("val", ["test_batch"])])
    def test_both_kinds_give_the_batches_of_the_split(
        self, python: Path, binary: Path, batches: Any, split: str, names: list[str]
    ) -> None:
        for folder in (python, binary):
            source = open_source(folder, split)
            assert source.classes == CIFAR_CLASSES
            assert source.labels.tolist() == [label for name in names for label in batches[name][1]]
            planes = np.concatenate([batches[name][0] for name in names]).reshape(-1, 3, 32, 32)
            for i in range(len(source)):
                item = source.item(i)
                assert isinstance(item, PixelItem)
                assert item.pixels == planes[i].transpose(1, 2, 0).tobytes()
                assert (item.height, item.width) == (32, 32)
            assert source.names[1].startswith(names[0])
            assert source.names[1].endswith("[1]")

    def test_a_pickle_that_would_run_code_is_refused(self, python: Path, tmp_path: Path) -> None:
        class Evil:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "broken in"),)

        (python / "data_batch_2").write_bytes(pickle.dumps({b"data": Evil()}))
        with pytest.raises(UsageError, match=r"data_batch_2: not a CIFAR-10 python batch: it wants posix\.mkdir"):
            open_source(python, "train")
        assert not (tmp_path / "broken in").exists()

    @pytest.mark.parametrize("damage", [b"", b"\x80\x02", pickle.dumps([1]), pickle.dumps({b"data": b"x"})])
    def test_damaged_python_batches(self, python: Path, damage: bytes) -> None:
        (python / "data_batch_1").write_bytes(damage)
        with pytest.raises(UsageError, match="data_batch_1: not a CIFAR-10"):
            open_source(python, "train")

    def test_damaged_binary_batches(self, binary: Path) -> None:
        (binary / "batches.meta.txt").write_text("airplane\n")
        with pytest.raises(UsageError, match="labels outside of the 1 classes"):
            open_source(binary, "train")
        (binary / "batches.meta.txt").unlink()
        with pytest.raises(UsageError, match=r"batches\.meta\.txt: cannot read it: No such file"):
            open_source(binary, "train")
        (binary / "data_batch_1.bin").write_bytes(bytes(3072))
        with pytest.raises(UsageError, match=r"data_batch_1\.bin: 3072 bytes are no multiple of 3073"):
            open_source(binary, "train")

    def test_labels_do_not_apply(self, binary: Path, tmp_path: Path) -> None:
        (tmp_path / "map").write_text("a n1\n")
        with pytest.raises(UsageError, match="so --devkit and --val-map do not apply"):
            open_source(binary, "val", open_labelling(None, tmp_path / "map"))

    def test_a_missing_split_is_an_error(self, binary: Path) -> None:
        (binary / "test_batch.bin").unlink()
        with pytest.raises(UsageError, match=r"it has no test_batch\*, so no split 'val'"):
            open_source(binary, "val")


def test_items_of_a_tar_are_regions_of_it(tmp_path: Path, tar: Tar) -> None:
    path = tmp_path / "train.tar"
    path.write_bytes(tar({"n01.tar": tar({"a": b"12345"})}))
    assert open_source(path, "train").item(0) == FileItem(str(path), 1024, 5)
