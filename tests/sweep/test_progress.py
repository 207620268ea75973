"""How far a run is, as its folder says: of real runs, done, stopped, killed and in use."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.small import make_run
from tests.test_lock import holder
from trainer import checkpoint
from trainer.errors import Preempted, UsageError
from trainer.recipe import Recipe, recipe_from_dict, recipe_to_dict
from trainer.record import METRICS
from trainer.sweep.progress import check_begun, look
from trainer.sweep.table import make_row


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Of a run that is done: 4 iterations of 8 images, validated and saved at the second and the last."""
    run = make_run(tmp_path_factory.mktemp("finished"), "evaluation.every=2it", "checkpoint.every=2it")
    run.train()
    return run.recipe


@pytest.fixture
def copy(finished: Recipe, tmp_path: Path) -> Recipe:
    """The same, to be broken."""
    shutil.copytree(finished.run_dir, tmp_path / finished.name, symlinks=True)
    recipe = recipe_from_dict(recipe_to_dict(finished), "finished")
    recipe.runs = str(tmp_path)
    return recipe


def drop_lines(recipe: Recipe, kind: str) -> None:
    """Of the record."""
    path = recipe.run_dir / METRICS
    path.write_text("".join(line for line in path.open() if f'"kind": "{kind}"' not in line))


def test_a_run_that_is_not_begun(finished: Recipe, tmp_path: Path) -> None:
    recipe = recipe_from_dict(recipe_to_dict(finished), "finished")
    recipe.runs = str(tmp_path)
    progress = look(recipe)
    assert (progress.done, progress.share, progress.why_not_now) == (False, None, "")
    assert make_row(recipe, progress)[2:] == ("4", "-", "-", "8.75%", "not begun")
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind
    check_begun(recipe)


def test_a_run_that_is_done(finished: Recipe) -> None:
    progress = look(finished)
    assert (progress.done, progress.share, progress.why_not_now) == (True, 1.0, "done")
    row = make_row(finished, progress)
    first, last = (line["top1_error"] for line in progress.lines_of("validation"))
    assert row.validation == f"{last:.2%} ({min(first, last):.2%})"
    assert row.training == f"{progress.lines_of('train')[-1]['top1_error']:.2%}"
    assert row.state == "done"
    check_begun(finished)


def test_the_end_of_the_budget_is_where_the_recipe_has_it(copy: Recipe) -> None:
    copy.schedule.budget = "8it"
    assert (look(copy).done, look(copy).share) == (False, 0.5)
    with pytest.raises(UsageError, match=r"begun with another recipe \(schedule.budget: 4it -> 8it\)"):
        check_begun(copy)
    copy.resume.allow = ["schedule.budget"]
    check_begun(copy)


def test_a_changed_recipe_is_refused_with_what_changed(copy: Recipe) -> None:
    copy.log.every = "1it"
    check_begun(copy)
    copy.optimizer.lr = 0.5
    with pytest.raises(UsageError, match=r"begun with another recipe \(optimizer.lr: 0.1 -> 0.5\); give the new one"):
        check_begun(copy)
    shutil.rmtree(checkpoint.checkpoints_dir(copy.run_dir))  # nothing is at stake, as for training
    check_begun(copy)


def test_an_end_that_was_not_validated_is_not_done(copy: Recipe) -> None:
    drop_lines(copy, "validation")
    assert (look(copy).done, look(copy).share, make_row(copy, look(copy)).state) == (False, 1.0, "100%")


def test_an_end_that_was_not_saved_is_not_done(copy: Recipe) -> None:
    checkpoint.link(copy.run_dir, {"step": 2, "best": None})
    assert (look(copy).done, look(copy).share) == (False, 0.5)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"samples": null}', '{"samples": "x"}'])
def test_a_description_that_cannot_be_read_is_for_training_to_judge(copy: Recipe, content: str) -> None:
    last = checkpoint.checkpoints_dir(copy.run_dir) / "last"
    (last / checkpoint.DESCRIPTION).write_text(content)
    assert checkpoint.saved_samples(copy.run_dir) is None
    assert not look(copy).done


def test_a_run_that_was_asked_to_stop_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path, "schedule.budget=8it")
    run.stop._cause = signal.SIGTERM
    with pytest.raises(Preempted):
        run.train()
    progress = look(run.recipe)
    assert progress.stopped
    assert (progress.lines[-1]["cause"], progress.lines[-1]["step"], progress.share) == ("SIGTERM", 1, 0.125)
    assert make_row(run.recipe, progress).state == "12%"
    make_run(tmp_path, "schedule.budget=8it").train()
    assert look(run.recipe).done
    assert not look(run.recipe).stopped


def test_a_run_in_use_counts_what_is_not_saved_yet(copy: Recipe) -> None:
    checkpoint.link(copy.run_dir, {"step": 2, "best": None})
    with holder(copy.run_dir) as (process, _):
        progress = look(copy)
        assert progress.why_not_now.startswith(f"in use (process {process.pid} on ")
        assert (progress.done, progress.share) == (False, 1.0)
        assert make_row(copy, progress).state == "100%, in use"
        assert make_row(copy, progress, failed=1).state == "100%, in use"
    assert look(copy).why_not_now == ""
    assert make_row(copy, look(copy), failed=1).state == "failed (1)"
    assert make_row(copy, look(copy), failed=-9).state == "failed (SIGKILL)"
