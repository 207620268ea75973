"""The manifest and the mean image are believed only once every value has been checked."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.datasets import edit_manifest, write_dataset
from tests.samples import smooth_image
from trainer.data.dataset import open_dataset
from trainer.data.manifest import (
    MAX_BYTES,
    MAX_MEAN_IMAGE_BYTES,
    Checksums,
    Manifest,
    Statistics,
    load_manifest,
    load_mean_image,
    manifest_path,
    mean_image_path,
)
from trainer.errors import RunError, UsageError

ADVICE = "; copy it again from a sound one, or convert the data again"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [smooth_image(16, 16, i) for i in range(6)]
    return write_dataset(tmp_path_factory.mktemp("manifest") / "x.beton", images, [0, 1, 2, 0, 1, 2], ["a", "b", "c"])


@pytest.fixture
def beton(sound: Path, tmp_path: Path) -> Path:
    for path in (sound, manifest_path(sound), mean_image_path(sound)):
        shutil.copy(path, tmp_path)
    return tmp_path / sound.name


def refusal(load: Callable[[Path], object], beton: Path) -> str:
    with pytest.raises(UsageError) as error:
        load(beton)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    return str(error.value)


class TestManifest:
    def test_what_was_written_is_read(self, beton: Path) -> None:
        manifest = load_manifest(beton)
        assert manifest is not None
        assert manifest.to_json() == manifest_path(beton).read_text()
        assert isinstance(manifest.checksums, Checksums)
        assert isinstance(manifest.statistics, Statistics)

    def test_none_is_none(self, tmp_path: Path) -> None:
        assert load_manifest(tmp_path / "x.beton") is None

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("num_samples", "6", "num_samples is '6', expected a positive integer"),
            ("num_samples", True, "num_samples is True, expected a positive integer"),
            ("num_samples", 0, "num_samples is 0, expected a positive integer"),
            ("num_samples", 10**30, "expected a positive integer"),
            ("num_samples", 6.0, "num_samples is 6.0, expected a positive integer"),
            ("classes", "abc", "classes is 'abc', expected a list"),
            ("classes", ["a", "b", 3], "classes[2] is 3, expected a value of type str"),
            ("classes", ["a", "b", "a"], "class 'a' comes twice"),
            ("classes", ["a", "", "c"], "class 1 is '', expected a name"),
            ("classes", ["a", "b\nc", "d"], r"class 1 is 'b\nc', expected a name"),
            ("classes", ["a", "b", "\x1b[2J"], r"class 2 is '\x1b[2J', expected a name"),
            ("classes", ["a", "b", "\ud800"], r"class 2 is '\ud800', expected a name"),
            ("classes", ["a", "b", "c" * 1001], "expected a name of up to 1000 characters"),
            ("classes", [], "0 classes, expected 1 to"),
            ("counts", [2, 2], "counts is [2, 2], expected a list of 3"),
            ("counts", [2, 2, "2"], "counts[2] is '2', expected a value of type int"),
            ("counts", [2, 5, -1], "counts is [2, 5, -1], expected numbers of 0 or more"),
            ("counts", {"a": 2}, "counts is {'a': 2}, expected a list of 3"),
            ("options", None, "options is None, expected an object"),
            ("options", {"a": {"b": {"c": 1}}}, "options['a'] is {'b': {'c': 1}}, expected plain values"),
            ("source", [1], "source is [1], expected an object"),
            ("source", {"notes": [["x"]]}, "source['notes'] is [['x']], expected plain values"),
            ("versions", {"numpy": 2}, "versions[0] is 2, expected a value of type str"),
            ("digest", "0" * 63, "expected 64 digits in hex"),
            ("digest", "X" * 64, "expected 64 digits in hex"),
            ("digest", 5, "digest is 5, expected 64 digits in hex"),
            ("skipped", None, "skipped is None, expected a list"),
            ("skipped", [{"name": "x"}], "skipped[0] is {'name': 'x'}, expected a name and a reason"),
            ("skipped", [{"name": "x", "reason": 3}], "expected a name and a reason"),
            ("format", 3, "not a manifest of format 2 (found 3)"),
            ("format", True, "not a manifest of format 2 (found True)"),
            ("format", 2.0, "not a manifest of format 2 (found 2.0)"),
            ("checksums", [], "checksums is [], expected an object"),
            ("checksums.page_size", 0, "checksums.page_size is 0, expected a positive integer"),
            ("checksums.page_size", -8, "checksums.page_size is -8, expected a positive integer"),
            ("checksums.head", "0" * 64, "expected 32 digits in hex"),
            ("checksums.tail", None, "checksums.tail is None, expected 32 digits in hex"),
            ("checksums.pages", "0" * 32, "expected a list"),
            ("checksums.pages", [], "checksums.pages is [], expected 32 digits in hex"),
            ("checksums.pages", ["0" * 32, 7], "checksums.pages[1] is 7, expected a value of type str"),
            ("checksums.pages", ["0" * 32, "z" * 32], "expected 32 digits in hex"),
            ("statistics", 4, "statistics is 4, expected an object"),
            ("statistics.images", -1, "statistics.images is -1, expected a positive integer"),
            ("statistics.mean", [1, 2], "statistics.mean is [1, 2], expected three numbers"),
            ("statistics.mean", [1, 2, "3"], "expected three numbers"),
            ("statistics.mean", [1, 2, True], "expected three numbers"),
            ("statistics.mean", [1, 2, 256], "expected numbers from 0 to 255"),
            ("statistics.mean", [1, 2, 10**400], "expected numbers from 0 to 255"),
            ("statistics.std", [1, -1, 1], "statistics.std is [1, -1, 1], expected numbers from 0 to 255"),
            ("statistics.eigenvalues", [1e9, 0, 0], "statistics.eigenvalues is [1000000000.0, 0, 0], expected"),
            ("statistics.eigenvectors", [[1, 0, 0]], "expected a list of 3"),
            ("statistics.eigenvectors", [[1, 0, 0], [0, 1], [0, 0, 1]], "statistics.eigenvectors[1] is [0, 1], exp"),
            ("statistics.eigenvectors", [[1, 0, 0], [0, 7, 0], [0, 0, 1]], "expected numbers from -1.001 to 1.001"),
            ("statistics.mean_image", None, "statistics.mean_image[0] is None, expected a value of type str"),
        ],
    )
    def test_a_wrong_value_is_refused_by_name(self, beton: Path, key: str, value: Any, expected: str) -> None:
        *parents, last = key.split(".")

        def change(content: dict[str, Any]) -> None:
            for name in parents:
                content = content[name]
            content[last] = value

        edit_manifest(beton, change)
        message = refusal(load_manifest, beton)
        assert message.startswith(f"{manifest_path(beton)}: ")
        assert expected in message
        assert key.startswith("format") or message.endswith(ADVICE)

    @pytest.mark.parametrize("where", ["", "checksums", "statistics"])
    def test_missing_and_unknown_keys_are_refused_by_name(self, beton: Path, where: str) -> None:
        before = manifest_path(beton).read_text()
        content = json.loads(before)
        inner = content[where] if where else content
        for key in list(inner):
            edit_manifest(beton, lambda content, key=key: (content[where] if where else content).pop(key))  # type: ignore[misc]
            named = f"{where}.{key}" if where else key
            expected = "not a manifest of format" if key == "format" else f"key {named} is missing"
            assert expected in refusal(load_manifest, beton)
            manifest_path(beton).write_text(before)
        edit_manifest(beton, lambda content: (content[where] if where else content).update(statistcs=1, head_=2))
        assert "damaged manifest: unknown key " in refusal(load_manifest, beton)
        assert "'statistcs' (" in refusal(load_manifest, beton)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "Expecting value: line 1 column 1"),
            ("null", "not a manifest of format 2 (found None)"),
            ("[]", "not a manifest of format 2 (found None)"),
            ("{}", "not a manifest of format 2 (found None)"),
            ('{"format": [[[[[[[[[1]]]]]]]]]}', "not a manifest of format 2 (found [[[[[[["),
            ('{"format": 2, "format": 2}', "damaged manifest: key 'format' comes twice"),
            ('{"a": {"b": 1, "c": 2, "b": 3}}', "damaged manifest: key 'b' comes twice"),
            ('{"format": NaN}', "NaN is no number"),
            ('{"format": -Infinity}', "-Infinity is no number"),
            ("[" * 10**6, "it is nested too deeply"),
            ('{"a":' * 10**6, "it is nested too deeply"),
            ("9" * 10**6, "damaged manifest: Exceeds the limit"),
            ('{"format": 1e999}', "not a manifest of format 2 (found inf)"),
            ("\ufeff{}", "damaged manifest: "),
            ('{"a": "' + "x" * 10**6, "damaged manifest: Unterminated string"),
        ],
        ids=lambda value: value[:20] if isinstance(value, str) else None,
    )
    def test_json_that_is_no_manifest_is_refused(self, beton: Path, text: str, expected: str) -> None:
        manifest_path(beton).write_text(text)
        assert expected in refusal(load_manifest, beton)

    @pytest.mark.parametrize("content", [b"\xff\xfe{}", b"\x00" * 100, os.urandom(1000)])
    def test_bytes_that_are_no_text_are_refused(self, beton: Path, content: bytes) -> None:
        manifest_path(beton).write_bytes(content)
        assert "damaged manifest: " in refusal(load_manifest, beton)

    def test_its_size_is_looked_at_before_it_is_read(self, beton: Path) -> None:
        with open(manifest_path(beton), "wb") as file:
            file.truncate(1 << 40)  # no file of this size would fit the memory
        assert "damaged manifest: it has 1,099,511,627,776 bytes, more than the" in refusal(load_manifest, beton)

    def test_what_would_be_too_large_to_be_read_is_not_written(self, beton: Path) -> None:
        manifest = load_manifest(beton)
        assert manifest is not None
        manifest.skipped = [{"name": "x" * 1000, "reason": "y"}] * (MAX_BYTES // 1000)
        with pytest.raises(RunError, match=r"the manifest would take .* as it lists 16,777 bad images"):
            manifest.to_json()

    def test_a_pipe_or_a_folder_in_its_place_is_refused_and_not_waited_for(self, beton: Path) -> None:
        manifest_path(beton).unlink()
        os.mkfifo(manifest_path(beton))
        assert "x.beton.json: not a regular file" in refusal(load_manifest, beton)
        manifest_path(beton).unlink()
        manifest_path(beton).mkdir()
        assert "x.beton.json: cannot read the manifest: Is a directory" in refusal(load_manifest, beton)

    def test_no_path_in_it_is_followed(self, beton: Path, tmp_path: Path) -> None:
        (tmp_path / "secret").mkdir()
        np.save(tmp_path / "secret" / "other.npy", np.zeros((16, 16, 3), np.float32))
        for name in ("secret/other.npy", f"{tmp_path}/secret/other.npy", "../x", "/dev/zero"):
            edit_manifest(beton, lambda content, name=name: content["statistics"].update(mean_image=name))  # type: ignore[misc]
            assert load_mean_image(open_dataset(beton).beton.path).mean() == 100


class TestMeanImage:
    def refusal(self, beton: Path, content: bytes) -> str:
        mean_image_path(beton).write_bytes(content)
        return refusal(load_mean_image, beton)

    def save(self, beton: Path, array: Any, **options: Any) -> str:
        np.save(mean_image_path(beton), array, **options)
        return refusal(load_mean_image, beton)

    def test_what_was_written_is_read(self, beton: Path) -> None:
        image = np.random.default_rng(0).uniform(0, 255, (7, 300, 3)).astype(np.float32)
        np.save(mean_image_path(beton), image)
        assert np.array_equal(load_mean_image(beton), image)
        assert load_mean_image(beton).flags.writeable

    @pytest.mark.parametrize(
        "array",
        [
            np.zeros((4, 4), np.float32),
            np.zeros((4, 4, 4), np.float32),
            np.zeros((4, 4, 3)),
            np.zeros((4, 4, 3), np.uint8),
            np.zeros((4, 4, 3), ">f4"),
            np.asfortranarray(np.zeros((4, 4, 3), np.float32)),
            np.zeros((4, 4, 3), [("a", "<f4")]),
            np.array([[[None] * 3]]),
        ],
        ids=lambda array: f"{array.dtype}-{array.shape}",
    )
    def test_other_arrays_are_refused(self, beton: Path, array: Any) -> None:
        assert "damaged mean image: not a .npy file of float32 [height, width, 3]" in self.save(beton, array)

    @pytest.mark.parametrize("value", [-1.0, 256.0, np.nan, np.inf, -np.inf])
    def test_other_values_are_refused(self, beton: Path, value: float) -> None:
        image = np.full((4, 4, 3), 7, np.float32)
        image[2, 3, 1] = value
        assert "damaged mean image: pixels outside of [0, 255]" in self.save(beton, image)

    def test_a_pickle_is_not_loaded(self, beton: Path, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / "executed"),)

        array = np.empty((1, 1, 3), object)
        array[:] = Trap()
        assert "not a .npy file of float32" in self.save(beton, array, allow_pickle=True)
        assert not (tmp_path / "executed").exists()

    def test_an_archive_is_not_unpacked(self, beton: Path) -> None:
        with open(mean_image_path(beton), "wb") as file:
            np.savez_compressed(file, image=np.zeros((4, 4, 3), np.float32))
        assert "not a .npy file of float32" in refusal(load_mean_image, beton)

    def test_a_file_of_another_length_is_refused(self, beton: Path) -> None:
        whole = mean_image_path(beton).read_bytes()
        assert "bytes are not those of 16x16 pixels" in self.refusal(beton, whole[:-1])
        assert "bytes are not those of 16x16 pixels" in self.refusal(beton, whole + b"\0")
        huge = re.sub(rb"\(16, 16, 3\)", b"(65535, 65535, 3)", whole)
        assert "damaged mean image: " in self.refusal(beton, huge)
        with open(mean_image_path(beton), "wb") as file:
            file.truncate(1 << 40)
        assert f"more than the {MAX_MEAN_IMAGE_BYTES:,} that are read" in refusal(load_mean_image, beton)

    def test_one_that_is_missing_is_named(self, beton: Path) -> None:
        mean_image_path(beton).unlink()
        assert "x.beton.mean.npy: cannot read the mean image: No such file" in refusal(load_mean_image, beton)

    @given(data=st.data())
    @settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_other_bytes_are_refused_or_are_pixels(self, sound: Path, tmp_path: Path, data: st.DataObject) -> None:
        content = bytearray(mean_image_path(sound).read_bytes())
        for place in data.draw(st.lists(st.integers(0, 200), min_size=1, max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
        stop = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
        mean_image_path(tmp_path / "y.beton").write_bytes(content[:stop])
        try:
            image = load_mean_image(tmp_path / "y.beton")
        except UsageError:
            return
        assert image.shape[2] == 3
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 255


# ---------------------------------------------------------------------------------------------------------------- fuzz

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.sampled_from(["", "a", "0" * 32, "0" * 64, "\x1b", "\ud800", "../../etc/passwd"]),
        st.text(max_size=5),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values inside of a value of JSON."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for name, member in members:
        found += places(member, (*path, name))
    return found


@given(data=st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_value_is_replaced_by_it_is_refused_or_sound(
    sound: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = json.loads(manifest_path(sound).read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from(places(content)))
        target = content
        for name in parents:
            target = target[name]
        if data.draw(st.integers(0, 4)) == 0:
            del target[last]
        else:
            target[last] = data.draw(JSON)
    check_loads_or_is_refused(sound, tmp_path, json.dumps(content).encode())


@given(data=st.data())
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_are_changed_it_is_refused_or_sound(sound: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(manifest_path(sound).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 3))
        content[place : place + cut] = data.draw(st.one_of(st.binary(max_size=3), st.sampled_from([b'"', b"}", b"9"])))
    check_loads_or_is_refused(sound, tmp_path, bytes(content))


def check_loads_or_is_refused(sound: Path, folder: Path, content: bytes) -> None:
    beton = folder / "z.beton"
    if not beton.exists():
        shutil.copy(sound, beton)
    manifest_path(beton).write_bytes(content)
    try:
        manifest = load_manifest(beton)
        data = open_dataset(beton)
    except UsageError:
        return
    assert isinstance(manifest, Manifest)
    assert data.manifest == manifest
    # What the trainer takes from it. The digest covers the bytes alone: a class may have another name.
    assert manifest.num_samples == sum(manifest.counts) == 6
    assert len(set(manifest.classes)) == len(manifest.counts)
    assert all(0 <= value <= 255 for value in manifest.statistics.mean + manifest.statistics.std)
