"""The protocols against what Pillow and torchvision make of the same images, and against each other."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torchvision import transforms

from tests.evaluation.conftest import CLASSES, IMAGES, RESIZE, SIZE, Trained
from tests.jpeg.references import PILLOW_SIMD, bilinear
from trainer import checkpoint
from trainer.data.beton import Beton
from trainer.data.cut_loader import CutLoader
from trainer.data.views import FIVE_PLACES, Cut, views_of
from trainer.errors import UsageError
from trainer.evaluation.command import evaluate_checkpoints
from trainer.evaluation.evaluate import Result, error_interval
from trainer.evaluation.options import Options
from trainer.evaluation.protocols import PAPER_SCALES, all_cuts, default_scales
from trainer.trained import load_trained

BILINEAR = transforms.InterpolationMode.BILINEAR
SCALES = (16, 18, 27, 34)


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    yield
    PartialState._reset_state()
    AcceleratorState._reset_state(True)


def scores_of(trained: Trained, data: Path, folder: Path, **options: Any) -> tuple[dict[str, Result], Any]:
    """Results and predictions of our evaluation."""
    out = folder / "out.npz"
    (results,) = evaluate_checkpoints([str(trained.run)], str(data), Options(predictions=out, **options)).values()
    return results, np.load(out)


class Reference:
    """The same protocols by other means: an image at a time, whole images resized and then cropped."""

    def __init__(self, trained: Trained) -> None:
        loaded = load_trained(trained.run)
        self.model = loaded.model.eval()
        self.mean, self.std = torch.tensor(loaded.statistics.mean), torch.tensor(loaded.statistics.std)

    def center(self, image: PIL.Image.Image) -> np.ndarray:
        return self.average([transforms.CenterCrop(SIZE)(self.resized(image, RESIZE))])

    def ten_crop(self, image: PIL.Image.Image, resize: int = RESIZE) -> np.ndarray:
        return self.average(list(transforms.TenCrop(SIZE)(self.resized(image, resize))))

    def multi_scale(self, image: PIL.Image.Image) -> np.ndarray:
        return np.mean([self.ten_crop(image, scale) for scale in SCALES], axis=0)

    def dense(self, image: PIL.Image.Image) -> np.ndarray:
        """At every place of the feature map where a window of a crop's features fits: average, classify, average."""
        found = []
        for scale in SCALES:
            resized = self.resized(image, scale)
            for seen in (resized, PIL.ImageOps.mirror(resized)):
                features = self.model.forward_features(self.pixels([seen]))[0]
                side = SIZE // 4  # 16 pixels are 4 x 4 features of these networks
                height, width = features.shape[1:]
                places = [
                    self.model.fc(features[:, y : y + side, x : x + side].mean((1, 2))).softmax(0)
                    for y in range(height - side + 1)
                    for x in range(width - side + 1)
                ]
                found.append(torch.stack(places).mean(0).numpy())
        return np.mean(found, axis=0)

    def resized(self, image: PIL.Image.Image, side: int) -> PIL.Image.Image:
        """By torchvision and Pillow; for pillow-simd, whose weights have fewer bits, in the arithmetic of Pillow."""
        resized = transforms.Resize(side, BILINEAR)(image)
        return PIL.Image.fromarray(bilinear(np.asarray(image), resized.size)) if PILLOW_SIMD else resized

    def average(self, crops: list[PIL.Image.Image]) -> np.ndarray:
        return self.model(self.pixels(crops)).softmax(1).mean(0).numpy()

    def pixels(self, images: list[PIL.Image.Image]) -> torch.Tensor:
        batch = torch.stack([torch.from_numpy(np.array(image)).float() for image in images])
        return ((batch - self.mean) / self.std).permute(0, 3, 1, 2)


@torch.no_grad()
@pytest.mark.parametrize("stored", ["raw", "jpegs", "subsampled"])
def test_predictions_are_those_of_pillow_and_torchvision(trained: Trained, tmp_path: Path, stored: str) -> None:
    """Pixels are the same; what is left is the rounding of the network's sums in batches of another size."""
    data: Path = getattr(trained, stored)
    results, found = scores_of(trained, data, tmp_path, protocols=("all",), scales=SCALES, batch=7)
    reference = Reference(trained)
    beton = Beton(data)
    images = [PIL.Image.fromarray(image) for image in trained.images]
    if stored != "raw":
        images = [PIL.Image.open(io.BytesIO(beton.record(i))).convert("RGB") for i in range(IMAGES)]
    for name in ("center", "ten-crop", "multi-scale", "multi-scale-dense"):
        method = {"multi-scale-dense": "dense"}.get(name, name.replace("-", "_"))
        want = np.stack([getattr(reference, method)(image) for image in images])
        assert np.abs(found[name] - want).max() < 1e-5
        assert (found[name].argmax(1) == want.argmax(1)).all()
        scores = found[name]
        assert results[name].images == IMAGES
        assert results[name].top1_error == pytest.approx((scores.argmax(1) != np.array(trained.labels)).mean())
        assert results[name].loss == pytest.approx(-np.log(scores[np.arange(IMAGES), trained.labels]).mean(), rel=1e-4)
    assert found["labels"].tolist() == trained.labels
    assert found["classes"].tolist() == [str(i) for i in range(CLASSES)]
    assert results["center"].top1_error < 0.5  # something was learnt: chance is 83 %


def test_results_do_not_depend_on_the_batch_or_on_what_else_is_asked(trained: Trained, tmp_path: Path) -> None:
    _, together = scores_of(trained, trained.jpegs, tmp_path, protocols=("all",), scales=SCALES, batch=64)
    for protocol, pool, name in (
        ("center", None, "center"),
        ("ten-crop", None, "ten-crop"),
        ("multi-scale", None, "multi-scale"),
        ("multi-scale", "dense", "multi-scale-dense"),
    ):
        options: dict[str, Any] = {"protocols": (protocol,), "pool": pool, "scales": SCALES, "batch": 5}
        if protocol != "multi-scale":
            del options["scales"]
        _, alone = scores_of(trained, trained.jpegs, tmp_path, **options)
        assert set(alone.files) == {"labels", "classes", name}
        assert np.abs(alone[name] - together[name]).max() < 1e-5


@torch.no_grad()
def test_logits_flips_and_global_pooling_are_what_they_say(trained: Trained, tmp_path: Path) -> None:
    reference = Reference(trained)
    images = [PIL.Image.fromarray(image) for image in trained.images]
    _, found = scores_of(trained, trained.raw, tmp_path, score="logits", flip=True)
    resized = [transforms.Resize(RESIZE, BILINEAR)(image) for image in images]
    crops = [transforms.CenterCrop(SIZE)(image) for image in resized]
    mirrored = [transforms.CenterCrop(SIZE)(PIL.ImageOps.mirror(image)) for image in resized]
    want = (reference.model(reference.pixels(crops)) + reference.model(reference.pixels(mirrored))) / 2
    assert np.abs(found["center"] - want.numpy()).mean() < 5e-3

    options = {"protocols": ("multi-scale",), "scales": (27,), "flip": False, "pool": "global"}
    _, found = scores_of(trained, trained.raw, tmp_path, **options)
    whole = [reference.model(reference.pixels([transforms.Resize(27, BILINEAR)(image)])) for image in images]
    assert np.abs(found["multi-scale-dense"] - torch.cat(whole).softmax(1).numpy()).max() < 5e-3

    _, found = scores_of(trained, trained.raw, tmp_path, protocols=("ten-crop",), flip=False)
    five = [reference.average(list(transforms.FiveCrop(SIZE)(transforms.Resize(RESIZE, BILINEAR)(i)))) for i in images]
    assert np.abs(found["ten-crop"] - np.stack(five)).max() < 5e-3


def test_an_ensemble_averages_the_scores(trained: Trained, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    state = checkpoint.load(trained.run)
    state["model"] = {k: v * 1.1 if k == "fc.weight" else v for k, v in state["model"].items()}
    torch.save(state, other)
    out = tmp_path / "out.npz"
    found = []
    for paths in ([trained.run], [other], [trained.run, other]):
        evaluate_checkpoints([str(path) for path in paths], str(trained.raw), Options(predictions=out))
        found.append(np.load(out)["center"])
    assert np.abs(found[0] - found[1]).max() > 1e-3
    assert np.abs(found[2] - (found[0] + found[1]) / 2).max() < 1e-6


def test_a_run_folder_keeps_its_evaluations(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options(protocols=("center", "ten-crop"))
    results = evaluate_checkpoints([str(trained.run)], str(trained.raw), options)[SIZE]
    lines = [json.loads(line) for line in (trained.run / "evaluations.jsonl").read_text().splitlines()][-2:]
    assert [line["protocol"] for line in lines] == ["center", "ten-crop"]
    assert [line["top1_error"] for line in lines] == [results[name].top1_error for name in ("center", "ten-crop")]
    assert (lines[1]["size"], lines[1]["scales"]) == (SIZE, [RESIZE])
    assert (lines[1]["step"], lines[1]["images"], lines[1]["checkpoint"]) == (60, IMAGES, "step-00000060")
    shown = capsys.readouterr().out
    assert f"{IMAGES} images" in shown
    assert "10-crop" in shown


@torch.no_grad()
def test_crops_of_another_size_are_of_images_in_proportion(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluate_checkpoints([str(trained.run)], str(trained.raw), Options(sizes=(SIZE, 24)))
    shown = capsys.readouterr().out
    assert "centre crop 16" in shown
    assert "centre crop 24" in shown
    assert f"{IMAGES} images, 2 times" in shown
    lines = [json.loads(line) for line in (trained.run / "evaluations.jsonl").read_text().splitlines()][-2:]
    assert [(line["size"], line["scales"]) for line in lines] == [(SIZE, [RESIZE]), (24, [27])]  # 18 * 24 / 16
    assert [line["loss"] for line in lines] == [results[size]["center"].loss for size in (SIZE, 24)]

    reference = Reference(trained)
    _, found = scores_of(trained, trained.raw, tmp_path, sizes=(24,))
    cut = transforms.Compose([transforms.Resize(27, BILINEAR), transforms.CenterCrop(24)])
    expected = [reference.average([cut(PIL.Image.fromarray(image))]) for image in trained.images]
    assert np.abs(found["center"] - np.stack(expected)).max() < 5e-3


def test_an_ensemble_of_networks_of_different_crops_needs_a_size(trained: Trained, tmp_path: Path) -> None:
    other = tmp_path / "other.pt"
    state = checkpoint.load(trained.run)
    state["recipe"]["evaluation"] |= {"size": 24, "resize": 27}
    torch.save(state, other)
    paths = [str(trained.run), str(other)]
    with pytest.raises(UsageError, match=r"other\.pt: was validated on crops of 24 pixels, .* give it with --size"):
        evaluate_checkpoints(paths, str(trained.raw), Options())
    assert evaluate_checkpoints(paths, str(trained.raw), Options(sizes=(SIZE,))).keys() == {SIZE}
    assert evaluate_checkpoints(paths[1:], str(trained.raw), Options()).keys() == {24}  # what it was validated with


def test_a_mean_image_fits_one_size(trained: Trained, tmp_path: Path) -> None:
    state = checkpoint.load(trained.run)
    torch.save({**state, "mean_image": torch.zeros(SIZE, SIZE, 3)}, tmp_path / "mean.pt")
    with pytest.raises(UsageError, match=r"--size 24: .*mean\.pt subtracts a mean image, which fits crops of 16"):
        evaluate_checkpoints([str(tmp_path / "mean.pt")], str(trained.raw), Options(sizes=(SIZE, 24)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocols": ("tencrop",)}, "--protocol: 'tencrop' is not a protocol \\(did you mean 'ten-crop'"),
        ({"protocols": ()}, "--protocol: expected some of center, ten-crop, multi-scale, all"),
        ({"protocols": ("multi-scale",), "scales": (12, 20)}, "--scales: 12 is below the network's crops of 16"),
        ({"scales": (20,)}, "--scales: only multi-scale has several"),
        ({"protocols": ("multi-scale",), "resize": 18}, "--resize: of center and ten-crop"),
        ({"resize": 0}, "--resize: 0 is below the network's crops of 16"),
        ({"resize": 8}, "--resize: 8 is below the network's crops of 16"),
        ({"sizes": (32,), "resize": 24}, "--resize: 24 is below the network's crops of 32"),
        ({"sizes": (16, 24), "resize": 24}, "--resize: goes with one --size; evaluate 16 and the others apart"),
        ({"sizes": (16, 24), "predictions": Path("out.npz")}, "--predictions: goes with one --size"),
        ({"pool": "dense"}, "--pool: only multi-scale has whole images"),
        ({"batch": 0}, "--batch is 0"),
        (
            {"protocols": ("multi-scale",), "scales": (99_999,)},
            "--scales: 99,999 pixels are too many; give at most 4,096",
        ),
        ({"resize": 5000}, "--resize: 5,000 pixels are too many"),
        ({"sizes": (5000,)}, "--size: for crops of 5,000 pixels images would be resized to 5,625, above 4,096"),
        ({"ema": True}, "no moving average of the weights"),
        ({"predictions": Path("nowhere/out.npz")}, "nowhere/out.npz: cannot write into .*nowhere: No such file"),
        ({"predictions": Path("scores")}, "expected a name that ends in .npz"),
    ],
)
def test_wrong_options_are_refused(trained: Trained, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        evaluate_checkpoints([str(trained.run)], str(trained.raw), Options(**options))


def test_the_papers_scales_are_the_default_for_224_pixels() -> None:
    assert default_scales(224) == PAPER_SCALES
    assert default_scales(32) == (32, 37, 55, 69, 91)
    protocols = {p.name: p for p in Options(("all",)).views(224, (224, 256))}
    assert {name: len(protocol.views) for name, protocol in protocols.items()} == {
        "center": 1,
        "ten-crop": 10,
        "multi-scale": 50,
        "multi-scale-dense": 10,
    }
    # The centre and the ten crops of 256 are among those of the scales: nothing is made twice. A scale has four
    # corners, the centres of the image and of its mirror image, and the whole.
    assert len(all_cuts(list(protocols.values()))) == 5 * 7


sides = st.integers(20, 600)


@given(width=sides, height=sides, size=st.integers(8, 20), more=st.integers(0, 40))
def test_views_are_where_torchvision_cuts(width: int, height: int, size: int, more: int) -> None:
    resize = size + more
    widths, heights = np.array([width]), np.array([height])
    # A picture whose pixels say where they are, and are not resized, says where a crop began.
    across, down = transforms.Resize(resize)(PIL.Image.new("L", (width, height))).size
    places = PIL.Image.fromarray(np.arange(down * across, dtype=np.int32).reshape(down, across))
    views = views_of(resize, FIVE_PLACES, flip=True)
    for view, crop in zip(views, transforms.TenCrop(size)(places), strict=True):
        boxes, out_heights, out_widths = view.cut.boxes(size, widths, heights)
        assert (out_heights.tolist(), out_widths.tolist()) == ([size], [size])
        begins = np.asarray(crop)[0, -1 if view.mirrored else 0]
        top, left = divmod(int(begins), across)
        left_edge, top_edge, right, bottom = boxes[0]
        assert left_edge == pytest.approx(left * width / across)
        assert top_edge == pytest.approx(top * height / down)
        assert right == pytest.approx(min((left + size) * width / across, width))
        assert bottom == pytest.approx(min((top + size) * height / down, height))
    boxes, out_heights, out_widths = Cut(resize, "whole").boxes(size, widths, heights)
    assert (out_heights[0], out_widths[0]) == (down, across)
    assert boxes.tolist() == [[0, 0, width, height]]


def test_a_request_has_no_more_pixels_than_fit_and_at_least_an_image(trained: Trained) -> None:
    beton = Beton(trained.raw)
    loader = CutLoader(beton, [Cut(2000, "whole")], SIZE, torch.device("cpu"))
    requests = loader.requests(np.arange(len(beton)), 256)
    assert np.concatenate([request.ids for request in requests]).tolist() == list(range(len(beton)))
    assert 1 < max(len(request.ids) for request in requests) < 8
    assert [
        len(r.ids) for r in CutLoader(beton, [Cut(18, "center")], SIZE, torch.device("cpu")).requests(np.arange(10), 4)
    ] == [4, 4, 2]


@given(errors=st.integers(0, 50), more=st.integers(1, 50))
def test_an_interval_holds_the_error_and_narrows_with_the_images(errors: int, more: int) -> None:
    images = errors + more
    low, high = error_interval(errors, images)
    wilson = binomtest(errors, images).proportion_ci(0.95, "wilson")
    assert (low, high) == pytest.approx((wilson.low, wilson.high), abs=1e-12)
    assert 0 <= low <= errors / images + 1e-12
    assert errors / images - 1e-12 <= high <= 1
    wide = high - low
    low, high = error_interval(100 * errors, 100 * images)
    assert high - low < wide
