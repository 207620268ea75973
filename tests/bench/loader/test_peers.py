"""Every loader does the same work: the crops and flips that were asked for, or its own of the same kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.samples import REPOSITORY
from trainer.bench.loader.messages import Task
from trainer.bench.loader.peers import OURS, PEERS, Peer, Variant
from trainer.bench.loader.process import LoaderProcess
from trainer.bench.loader.work import CROPS, CropKind, Work, reference
from trainer.data.beton import Beton
from trainer.data.order import Request

FOLLOWING = [peer for peer in (OURS, *PEERS) if peer.name != "ffcv"]
"""Those that take boxes; FFCV draws its own."""

IN_PROCESSES = [peer for peer in PEERS if peer.name in ("ffcv", "ffcv+ours", "dali", "tensorflow")]


def images_of(variant: Variant, epoch: int) -> np.ndarray:
    variant.prepare(epoch)
    return np.concatenate([variant.pixels(batch).copy() for batch in variant.batches()])


def expected(work: Work, epoch: int) -> Iterator[np.ndarray]:
    beton = Beton(work.beton)
    for request in work.requests(len(beton), epoch):
        yield reference(work, beton, request)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("peer", [peer for peer in FOLLOWING if peer not in IN_PROCESSES], ids=lambda peer: peer.name)
def test_it_makes_the_crops_that_were_asked_for(work: Work, peer: Peer, crop: CropKind) -> None:
    work = replace(work, crop=crop)
    variant = peer.open(work, 2)
    for epoch in (0, 2):
        images, asked = images_of(variant, epoch), np.concatenate(list(expected(work, epoch)))
        assert images.shape == (48, 32, 32, 3)
        assert images.dtype == np.uint8
        # Without fractions of a pixel, crops of a few pixels move by up to a fifth of their side.
        allowed = 1.0 if peer.name in ("ours", "torchvision") else 8.0
        assert np.abs(images.astype(int) - asked).mean() < allowed
        request = variant.first_request()
        assert request is not None
        assert request.ids.tolist() == work.requests(40, epoch)[0].ids.tolist()


@pytest.mark.slow  # they take seconds to import or compile, and set the threads of the whole process
@pytest.mark.parametrize("crop", ["scale", "center"])
@pytest.mark.parametrize("peer", IN_PROCESSES, ids=lambda peer: peer.name)
def test_so_do_the_others_in_their_processes(work: Work, tmp_path: Path, peer: Peer, crop: CropKind) -> None:
    if not peer.installed():
        pytest.skip(f"{peer.name} is not installed")
    with LoaderProcess(Task(peer, replace(work, crop=crop), 1), tmp_path) as process:
        process.warm_up()
        check = process.check()
        assert process.epoch(1).images == process.epoch(2).images == 48
    if peer.name == "ffcv" and crop != "center":
        assert check.difference is None
    else:
        assert check.difference is not None
        assert check.difference < (1e-9 if peer.name == "ffcv+ours" else 12)
    level = np.mean([images.mean() for images in expected(replace(work, crop=crop), 0)])
    assert abs(check.level - level) < 10


@pytest.mark.slow  # importing FFCV takes seconds
def test_ffcvs_scale_crops_are_spread_as_ours(work: Work) -> None:
    pytest.importorskip("ffcv")
    program = """if True:
        import numpy as np
        from trainer.bench.loader.peers.ffcv_loader import draw_scale_crop
        np.random.seed(0)
        print([draw_scale_crop(333, 500, np.array([256, 480]), 224) for _ in range(4000)])
    """
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    theirs = np.array(eval(run.stdout))
    ids = np.arange(4000)
    ours = replace(work, size=224).policy()(ids, ids, np.full(4000, 500), np.full(4000, 333)).boxes
    left, top, right, bottom = ours.T
    for mine, other in ((top, theirs[:, 0]), (left, theirs[:, 1]), (bottom - top, theirs[:, 2])):
        deciles = np.linspace(0, 1, 11)
        assert np.quantile(other, deciles) == pytest.approx(np.quantile(mine, deciles), abs=12)
    assert (theirs[:, 2] == theirs[:, 3]).all()
    assert (theirs[:, 0] + theirs[:, 2]).max() <= 333
    assert (theirs[:, 1] + theirs[:, 3]).max() <= 500
    assert set(right - left) >= {155, 291}, "the smallest and the largest window"
    assert {155, 291} <= set(theirs[:, 2].tolist())


def test_a_request_spans_passes_over_a_small_data_set(work: Work) -> None:
    """As training does; the second pass has other crops of the same images."""
    variant = OURS.open(replace(work, batch=80, batches=1), 1)
    images = images_of(variant, 0)
    request = variant.first_request()
    assert isinstance(request, Request)
    assert set(request.epochs.tolist()) == {0, 1}
    first = dict(zip(request.ids[:40].tolist(), images[:40], strict=True))
    assert any(
        not np.array_equal(first[sample], image)
        for sample, image in zip(request.ids[40:].tolist(), images[40:], strict=True)
    )


def test_what_is_not_installed_says_so() -> None:
    assert OURS.installed()
    assert not Peer("none", "", "", "no_such_package").installed()
    assert not Peer("none", "", "", "no_such_package.inside").installed()
