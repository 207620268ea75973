"""Clocks and sums between processes, and what all of them say as one list."""

from __future__ import annotations

import threading
import time
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.doctor.check import Check, fail, ok, warn
from trainer.doctor.links import FLOORS, RESNET50_PARAMETERS, Links, judge_clocks, judge_sums, within
from trainer.doctor.report import Found, agree, host_names, merge, silent
from trainer.models import create_model


class TestClocks:
    @given(
        st.lists(st.floats(-100, 100), min_size=2, max_size=4),
        st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=8, max_size=8),
    )
    def test_never_more_than_the_true_difference_is_claimed(
        self, offsets: list[float], waits: list[tuple[float, float]]
    ) -> None:
        # Each came before the moment at which all were there, and left after it: how long, is anybody's guess.
        clocks = []
        for number, offset in enumerate(offsets):
            before, after = waits[number], waits[number + 4]
            rounds = [(1000.0 * i - b, 1000.0 * i + a) for i, (b, a) in enumerate(zip(before, after, strict=True))]
            clocks.append([(came + offset, left + offset) for came, left in rounds])
        check = judge_clocks(clocks, [f"node{i}" for i in range(len(offsets))])
        true = max(offsets) - min(offsets)
        if check.status == "warn":
            claimed = float(check.found.split(": ")[1].split(" s apart")[0].replace(",", ""))
            assert claimed <= true + 0.051
        else:
            assert true * 1000 <= float(check.found.split()[2].replace(",", "")) + 0.051

    def test_more_than_a_second_is_a_warning_that_names_the_two(self) -> None:
        clocks = [[(10.0, 10.01)], [(10.0, 10.01)], [(12.5, 12.51)]]
        check = judge_clocks(clocks, ["a", "b", "c"])
        assert (check.status, check.found) == ("warn", "a and c: 2.5 s apart")

    def test_a_slow_barrier_alone_is_none(self) -> None:
        assert judge_clocks([[(0.0, 9.0)], [(8.0, 9.0)]], ["a", "b"]).status == "ok"


class TestSums:
    def test_the_payload_is_the_gradient_of_resnet50(self) -> None:
        assert sum(p.numel() for p in create_model("resnet50", 1000).parameters()) == RESNET50_PARAMETERS

    @pytest.mark.parametrize("world_size", [2, 8, 64])
    def test_bus_bandwidth_is_that_of_nccl_tests(self, world_size: int) -> None:
        seconds = 2 * (world_size - 1) / world_size * 4 * RESNET50_PARAMETERS / 10e9
        assert judge_sums(seconds, world_size, 1, "cuda", "nccl").found.startswith("10.00 GB/s bus bandwidth")

    @pytest.mark.parametrize(
        ("nodes", "device", "kind"), [(1, "cuda", "one node"), (2, "cuda", "several nodes"), (2, "cpu", "cpu")]
    )
    def test_the_floor_is_that_of_the_links(self, nodes: int, device: str, kind: str) -> None:
        at_floor = 4 * RESNET50_PARAMETERS / (FLOORS[kind] * 1e9)  # of two processes
        assert judge_sums(at_floor * 0.99, 2, nodes, device, "x").status == "ok"
        check = judge_sums(at_floor * 1.01, 2, nodes, device, "x")
        assert check.status == "warn"
        assert f"expected {FLOORS[kind]:g} GB/s" in check.found


class TestWithin:
    def test_what_hangs_is_left_behind(self) -> None:
        never = threading.Event()

        def hang() -> Links:
            never.wait()
            return Links([], 0.0)

        began = time.monotonic()
        with pytest.raises(TimeoutError, match="no answer from the other processes"):
            within(0.05, hang)
        assert time.monotonic() - began < 30
        never.set()

    def test_what_fails_says_so_here(self) -> None:
        def fails() -> Links:
            raise RuntimeError("connection reset")

        with pytest.raises(RuntimeError, match="connection reset"):
            within(30, fails)


class TestMerging:
    def test_what_all_say_is_said_once_and_the_rest_by_name(self) -> None:
        a = [ok("python", "3.11"), ok("cores", "8"), warn("shm", "64 MiB", "raise it")]
        b = [ok("python", "3.11"), ok("cores", "4"), ok("shm", "1 GiB")]
        assert merge([("node1", a), ("node2", b), ("node3", a)]) == [
            ok("python", "3.11"),
            ok("cores", "node1, node3: 8"),
            ok("cores", "node2: 4"),
            warn("shm", "node1, node3: 64 MiB", "raise it"),
            ok("shm", "node2: 1 GiB"),
        ]

    def test_what_only_one_says_has_its_name(self) -> None:
        assert merge([("rank 0", []), ("rank 1", [fail("launch", "no GPU 1")])]) == [fail("launch", "rank 1: no GPU 1")]

    def test_many_hosts_are_counted(self) -> None:
        said = [(f"n{i}", [ok("cores", "8" if i else "4")]) for i in range(64)]
        assert merge(said)[1].found == "n1, n2, n3, n4 and 59 more: 8"

    def test_hosts_of_one_name_are_told_apart(self) -> None:
        found = [Found(host, node, [], [], {}) for host, node in (("a", 0), ("a", 0), ("b", 1), ("b", 2))]
        assert host_names([*found, None]) == ["a", "a", "b#1", "b#2", "?"]

    def test_other_versions_on_a_node_are_a_failure(self) -> None:
        check = agree([("a", {"torch": "2.15", "numpy": "2"}), ("b", {"torch": "2.14", "numpy": "2"})])
        assert (check.status, check.found) == ("fail", "torch is 2.15 on a, 2.14 on b")
        assert agree([("a", {"torch": "2.15"}), ("b", {"torch": "2.15"})]).status == "ok"

    def test_data_that_a_node_lacks_are_a_failure(self) -> None:
        assert agree([("a", {"train.beton": "abc"}), ("b", {})]).found == "train.beton is abc on a, none on b"

    def test_who_did_not_answer_is_named(self) -> None:
        assert silent([{}, None, None], "launch")[0].found == "rank 1, 2 did not answer"
        assert silent([{}], "launch") == []

    def test_findings_travel_as_they_are(self) -> None:
        found = Found("a", 3, [fail("launch", "x")], [ok("python", "3.11"), Check("warn", "y", "z", "w")], {"k": "v"})
        assert Found.from_json(asdict(found)) == found
