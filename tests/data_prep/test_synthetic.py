"""The generated data set: reproducible, a real task, and never half there."""

from __future__ import annotations

import io
import json
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import JpegImagePlugin

from data_prep.synthetic import CHUNK_IMAGES, PATTERNS, SynthOptions, make_image, render, synthesise
from trainer.errors import UsageError

Cli = Callable[..., subprocess.CompletedProcess[str]]
SMALL = SynthOptions(train=12, val=10, classes=10, seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth") / "set"
    assert synthesise(folder, SMALL, workers=1)
    return folder


class TestImages:
    @given(pattern=st.sampled_from(list(PATTERNS)), seed=st.integers(0, 2**32), place=st.tuples(*[st.floats(0, 1)] * 2))
    @settings(max_examples=30, deadline=None)
    def test_the_pattern_shows_in_the_smallest_crop_wherever_it_is(
        self, pattern: str, seed: int, place: tuple[float, float]
    ) -> None:
        image = render(pattern, np.random.default_rng(seed)).convert("L")
        side = min(image.size) * 224 / 480
        left, top = (fraction * (length - side) for fraction, length in zip(place, image.size, strict=True))
        crop = image.resize((64, 64), PIL.Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        dark, bright = np.percentile(np.asarray(crop), (4, 96))
        assert bright - dark > 40

    @pytest.mark.parametrize("index", range(10))
    def test_are_jpegs_of_photographic_size(self, index: int) -> None:
        name, data = make_image(0, "train", index, 10)
        image = PIL.Image.open(io.BytesIO(data))
        assert name == list(PATTERNS)[index]
        assert image.format == "JPEG"
        assert 352 <= min(image.size) <= max(image.size) <= 512

    def test_have_many_shapes_and_the_three_kinds_of_chroma(self) -> None:
        images = [PIL.Image.open(io.BytesIO(make_image(0, "train", index, 10)[1])) for index in range(60)]
        assert len({image.size for image in images}) > 50
        kinds = ["gray" if image.mode == "L" else JpegImagePlugin.get_sampling(image) for image in images]
        assert set(kinds) == {"gray", 0, 2}  # 0 is 4:4:4, 2 is 4:2:0
        assert kinds.count(2) > 40

    def test_differ_by_seed_split_and_index(self) -> None:
        keys = [(0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 10)]
        assert len({make_image(*key, classes=10)[1] for key in keys}) == 4
        assert make_image(0, "train", 0, 10) == make_image(0, "train", 0, 10)

    def test_direction_of_change_tells_the_stripes_apart(self) -> None:
        """What the class names promise, seen through the gradients of the picture."""

        def changes(pattern: str) -> tuple[float, float]:
            gray = np.asarray(render(pattern, np.random.default_rng(1)).convert("L").resize((96, 96)), np.float32)
            return float(np.abs(np.diff(gray, axis=1)).mean()), float(np.abs(np.diff(gray, axis=0)).mean())

        across, down = changes("horizontal_stripes")
        assert down > 2 * across
        across, down = changes("vertical_stripes")
        assert across > 2 * down
        across, down = changes("diagonal_stripes")
        assert 0.7 < across / down < 1.4


def test_mean_colours_do_not_tell_the_class() -> None:
    """Else the task would be none: a classifier on the mean colour, quadratic in it, stays near chance (10 %)."""

    def features(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        labels, rows = np.arange(count) % 10, []
        for index, label in enumerate(labels):
            image = render(list(PATTERNS)[label], np.random.default_rng((seed, index)))
            mean = np.asarray(image.resize((1, 1), PIL.Image.Resampling.BOX), np.float64).ravel() / 255
            rows.append(np.concatenate([mean, np.outer(mean, mean)[np.triu_indices(3)], [1.0]]))
        return np.stack(rows), labels

    train, train_labels = features(0, 150)
    val, val_labels = features(1, 150)
    weights = np.linalg.lstsq(train, np.eye(10)[train_labels], rcond=None)[0]
    assert ((val @ weights).argmax(1) == val_labels).mean() < 0.3


class TestDataSet:
    def test_is_an_image_folder_with_balanced_classes(self, made: Path) -> None:
        for split, count in (("train", 12), ("val", 10)):
            folders = sorted((made / split).iterdir())
            assert [folder.name for folder in folders] == sorted(PATTERNS)
            counts = [len(list(folder.glob("*.jpg"))) for folder in folders]
            assert sum(counts) == count
            assert max(counts) - min(counts) <= 1

    def test_is_the_same_whatever_the_number_of_workers(self, made: Path, tmp_path: Path) -> None:
        synthesise(tmp_path / "set", SMALL, workers=3)
        assert contents(tmp_path / "set") == contents(made)

    def test_a_larger_one_begins_with_the_smaller(self, made: Path, tmp_path: Path) -> None:
        larger = SynthOptions(train=CHUNK_IMAGES + 2, val=10, classes=10, seed=3)
        synthesise(tmp_path / "set", larger, workers=1)
        images = {name: data for name, data in contents(made).items() if name.endswith(".jpg")}
        assert images.items() <= contents(tmp_path / "set").items()

    def test_fewer_classes_are_a_task_too(self, tmp_path: Path) -> None:
        synthesise(tmp_path / "set", SynthOptions(4, 2, classes=2, seed=0), workers=1)
        assert sorted(path.name for path in (tmp_path / "set" / "train").iterdir()) == sorted(list(PATTERNS)[:2])


class TestFolder:
    def test_the_same_again_does_nothing(self, made: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
        assert not synthesise(made, SMALL, workers=1)
        assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before

    def test_an_empty_folder_is_filled(self, tmp_path: Path) -> None:
        assert synthesise(tmp_path, SynthOptions(2, 2, 2, 0), workers=1)
        assert (tmp_path / "synth.json").exists()

    @pytest.mark.parametrize("foreign", ["thesis.txt", "synth.json"])
    def test_foreign_content_is_refused_and_kept(self, tmp_path: Path, foreign: str) -> None:
        (tmp_path / foreign).write_text("mine")
        with pytest.raises(UsageError, match=r"no data set of synth.*--overwrite"):
            synthesise(tmp_path, SMALL, workers=1)
        assert contents(tmp_path) == {foreign: b"mine"}

    def test_other_options_are_refused_by_name(self, tmp_path: Path) -> None:
        synthesise(tmp_path / "set", SynthOptions(2, 2, 2, 0), workers=1)
        with pytest.raises(UsageError, match=r"other options \(seed 0, not 7\)"):
            synthesise(tmp_path / "set", SynthOptions(2, 2, 2, 7), workers=1)

    def test_lost_images_are_noticed(self, tmp_path: Path) -> None:
        options = SynthOptions(2, 2, 2, 0)
        synthesise(tmp_path / "set", options, workers=1)
        next((tmp_path / "set" / "val").rglob("*.jpg")).unlink()
        with pytest.raises(UsageError, match="val: 1 of 2 images"):
            synthesise(tmp_path / "set", options, workers=1)

    def test_overwrite_replaces_everything(self, tmp_path: Path) -> None:
        folder = tmp_path / "set"
        synthesise(folder, SynthOptions(2, 2, 2, 0), workers=1)
        (folder / "note.txt").write_text("old")
        assert synthesise(folder, SynthOptions(3, 2, 2, 1), workers=1, overwrite=True)
        assert len(contents(folder)) == 3 + 2 + 1
        assert json.loads((folder / "synth.json").read_text())["seed"] == 1
        assert list(tmp_path.iterdir()) == [folder]

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path: Path, cli: Cli) -> None:
        def limit_file_sizes() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

        done = cli("synth", tmp_path / "set", "--train", 10, "--val", 10, preexec_fn=limit_file_sizes)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "File too large" in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_a_file_in_the_way_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "set").write_text("a file")
        with pytest.raises(UsageError, match="no data set of synth"):
            synthesise(tmp_path / "set", SMALL, workers=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SynthOptions(20, 20, 11, 0), r"--classes 11: .* 2 to 10"),
        (SynthOptions(20, 20, 1, 0), "--classes 1"),
        (SynthOptions(5, 20, 10, 0), "--train 5: .* 10 or more"),
        (SynthOptions(20, 0, 10, 0), "--val 0"),
        (SynthOptions(20, 20, 10, -1), "--seed -1"),
    ],
)
def test_options_that_make_no_data_set_are_refused(tmp_path: Path, options: SynthOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        synthesise(tmp_path / "set", options, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_on_the_command_line(tmp_path: Path, cli: Cli) -> None:
    arguments = ("synth", tmp_path / "set", "--train", 4, "--val", 2, "--classes", 2)
    first, second = cli(*arguments), cli(*arguments)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "wrote 4 training and 2 validation images of 2 classes, seed 0" in first.stdout
    assert "nothing to do" in second.stdout
    refused = cli("synth", tmp_path / "set", "--workers", 0)
    assert refused.returncode == 2
    assert refused.stderr == "error: --workers 0: must be 1 or more\n"
