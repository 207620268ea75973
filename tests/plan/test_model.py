"""The model's properties: what must hold for every run on every cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plan.plans import make_plan
from trainer.plan.changes import LEAST_GAIN, MOST_TOLD, helpful_changes
from trainer.plan.curve import part_of, scaling_curve, with_batches
from trainer.plan.model import Estimate, all_reduce_seconds
from trainer.plan.saved import Saved

PLANNED = make_plan()

clusters = st.builds(
    lambda nodes, per_node, cores, memory, network, storage: replace(
        PLANNED.cluster,
        nodes=nodes,
        gpus_per_node=per_node,
        cores=cores,
        memory=memory,
        network=network,
        storage=storage,
    ),
    nodes=st.integers(1, 128),
    per_node=st.integers(1, 8),
    cores=st.integers(1, 256),
    memory=st.floats(16e9, 2e12),
    network=st.floats(1e8, 4e11),
    storage=st.none() | st.floats(1e7, 1e11),
)


def on(cluster: object, images: int = 32, micro_batch: int = 32) -> Estimate:
    """The plan on another cluster, with so many images for each device."""
    planned = replace(PLANNED, cluster=cluster)
    return replace(planned, work=with_batches(PLANNED.work, images * planned.cluster.world, micro_batch))


@given(cluster=clusters, share=st.sampled_from([32, 64, 128]))
@settings(deadline=None, max_examples=50)
def test_the_limit_is_the_lowest_ceiling_and_nothing_goes_above_it(cluster: object, share: int) -> None:
    estimate = on(cluster, share)
    lowest = min(estimate.ceilings.values())
    assert estimate.ceilings[estimate.limit] == lowest
    assert 0 < estimate.images_per_s <= lowest * (1 + 1e-9)


@given(cluster=clusters, share=st.sampled_from([32, 64, 128]))
@settings(deadline=None, max_examples=50)
def test_another_node_never_makes_it_slower(cluster: object, share: int) -> None:
    estimate = on(replace(cluster, nodes=1 + PLANNED.cluster.nodes, storage=None), share)  # type: ignore[type-var]
    more = on(replace(estimate.cluster, nodes=estimate.cluster.nodes + 1), share)
    assert more.images_per_s >= estimate.images_per_s * (1 - 1e-9)


@pytest.mark.parametrize("key", ["cores", "memory", "network", "storage"])
@given(cluster=clusters)
@settings(deadline=None, max_examples=20)
def test_more_of_a_resource_never_makes_it_slower(key: str, cluster: object) -> None:
    estimate = on(cluster)
    more = {key: 2 * (getattr(estimate.cluster, key) or 1e9)}
    if key == "storage" and estimate.cluster.storage is None:
        return
    assert on(replace(estimate.cluster, **more)).images_per_s >= estimate.images_per_s * (1 - 1e-9)


def test_a_ring_moves_twice_all_but_one_part_of_the_gradients() -> None:
    cluster = replace(PLANNED.cluster, nodes=2, gpus_per_node=2, network=1e9)
    assert all_reduce_seconds(8e9, cluster, link=1e12) == pytest.approx(2 * 3 / 4 * 8e9 / 0.8e9)
    within = replace(cluster, nodes=1)
    assert all_reduce_seconds(8e9, within, link=1e10) == pytest.approx(2 * 1 / 2 * 8e9 / 0.8e10)
    assert all_reduce_seconds(8e9, replace(within, gpus_per_node=1), link=1e10) == 0


def test_gradients_are_single_precision_and_double_where_they_are_to_be_exact() -> None:
    parameters = PLANNED.work.network.parameters
    assert PLANNED.work.gradient_bytes == 4 * parameters
    exact = make_plan("trainer.deterministic=true")
    assert exact.work.gradient_bytes == 8 * parameters
    assert exact.exposed_seconds == exact.all_reduce_seconds > PLANNED.exposed_seconds


def test_small_micro_batches_wait_for_the_host() -> None:
    small = make_plan("optimizer.global_batch=2048", "optimizer.micro_batch=32")
    large = make_plan("optimizer.global_batch=2048", "optimizer.micro_batch=256")
    assert small.limit == "launching"
    assert large.limit == "compute"
    assert large.images_per_s > 2 * small.images_per_s


def test_storage_counts_only_where_memory_does_not_hold_the_data() -> None:
    assert "storage" not in make_plan(storage=1e9).ceilings
    slow = make_plan(storage=1e8, memory=64e9)
    assert slow.limit == "storage"
    assert slow.images_per_s == pytest.approx(1e8 / 58_000)
    alone = make_plan("data.read_ahead=0", storage=1e8, memory=64e9)
    assert alone.images_per_s == pytest.approx(slow.images_per_s / 19.3)


def test_on_cpus_decoding_takes_its_time_from_the_network() -> None:
    estimate = make_plan("precision=fp32", gpu="cpu", gpus_per_node=2, cores=16)
    assert estimate.limit == "compute"
    assert "launching" not in estimate.ceilings
    together = 1 / estimate.ceilings["compute"] + 1 / estimate.ceilings["decoding"]
    assert estimate.images_per_s <= 1 / together
    double = make_plan("precision=fp32", gpu="cpu", gpus_per_node=2, cores=32)
    assert double.ceilings["compute"] == pytest.approx(2 * estimate.ceilings["compute"])


def test_validation_is_part_of_the_time() -> None:
    often, once = make_plan("evaluation.every=1ep"), make_plan("evaluation.every=60ep")
    assert often.training_seconds == once.training_seconds
    assert often.validation_seconds > once.validation_seconds > 0
    assert often.gpu_hours == pytest.approx(8 * often.seconds / 3600)


def test_crops_that_grow_cost_what_their_sizes_do_on_average() -> None:
    small, large = (make_plan("data.crop=rrc", f"data.size={size}") for size in (160, 192))
    halves = ["data.crop=rrc", "data.size=192", "data.first_size=160", "data.ramp=[30ep,30ep]"]
    growing = make_plan(*halves)
    assert growing.work.sizes == pytest.approx({160: 0.5, 192: 0.5}, abs=1e-5)
    for name in ("macs", "activations"):
        costs = [getattr(plan.work.network, name) for plan in (small, growing, large)]
        assert costs[1] == pytest.approx((costs[0] + costs[2]) / 2, rel=1e-4)
    times = [1 / plan.ceilings["compute"] for plan in (small, growing, large)]
    assert times[1] == pytest.approx((times[0] + times[2]) / 2, rel=1e-4)
    assert growing.ceilings["decoding"] == large.ceilings["decoding"]


def test_larger_crops_of_a_validation_take_longer() -> None:
    larger = ["evaluation.size=256", "evaluation.resize=293"]
    usual, slower = make_plan(cores=10_000), make_plan(*larger, cores=10_000)  # so that decoding does not limit it
    assert slower.training_seconds == usual.training_seconds
    assert slower.validation_seconds > 1.2 * usual.validation_seconds


def test_the_curve_goes_from_one_to_1024_and_says_where_the_batch_would_be_another() -> None:
    curve = scaling_curve(PLANNED)
    assert [point.world for point in curve] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024]
    assert [point.world for point in curve if point.fits] == [1, 2, 4, 8]
    assert all(point.global_batch == 32 * point.world for point in curve)
    planned = next(point for point in curve if point.world == 8)
    assert planned.estimate.images_per_s == PLANNED.images_per_s


def test_nodes_of_six_are_never_halved_but_below_one_node() -> None:
    planned = replace(PLANNED, cluster=replace(PLANNED.cluster, gpus_per_node=6))
    worlds = [point.world for point in scaling_curve(planned)]
    assert worlds == [1, 2, 4, 6, 12, 24, 48, 96, 192, 384, 768]
    assert part_of(planned.cluster, 2).cores == pytest.approx(planned.cluster.cores / 3)


def test_what_helps_was_tried_and_helps() -> None:
    few_cores = make_plan("optimizer.global_batch=2048", "optimizer.micro_batch=256", cores=2)
    assert few_cores.limit == "decoding"
    changes = helpful_changes(few_cores, "h100", Saved())
    assert 0 < len(changes) <= MOST_TOLD
    assert any("more cores a node" in change.what for change in changes)
    assert any("--max-short-side" in change.what for change in changes)
    for change in changes:
        assert change.gain >= LEAST_GAIN or change.what.split()[0].isdecimal()  # fewer devices for the same rate
        assert change.estimate.images_per_s == pytest.approx((1 + change.gain) * few_cores.images_per_s)


def test_settings_that_change_no_result_are_told_first() -> None:
    alone = make_plan("data.read_ahead=0", storage=1e8, memory=64e9)
    assert helpful_changes(alone, "h100", Saved())[0].what == "data.read_ahead=8"
    single = make_plan("precision=fp32", "optimizer.global_batch=2048", "optimizer.micro_batch=256")
    assert any(change.what == "precision=bf16" for change in helpful_changes(single, "h100", Saved()))
