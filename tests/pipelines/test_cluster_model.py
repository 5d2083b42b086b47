import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cluster_model import Cluster, Work, simulate

TEN = [Work(detect_seconds=4, pack_seconds=1)] * 10


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 10 * 4 + 1),  # one detector, the last unit is packed after it
        ({"detectors": 2}, 5 * 4 + 2),  # the last two are packed by one core
        ({"nodes": 5}, 2 * 4 + 1),
        ({"nodes": 3}, 4 * 4 + 1),  # ten units do not divide by three
        ({"nodes": 50}, 4 + 1),
        ({"plan_seconds": 7, "start_seconds": 3}, 7 + 3 + 41),
        ({"hand_out_seconds": 1, "nodes": 50}, 10 + 4 + 1),  # the driver is the bottleneck
        ({"hand_out_seconds": 1}, 10 * 5 + 1),
    ],
)
def test_known_answers(changes, seconds):
    cluster = Cluster(**{"nodes": 1, "detectors": 1, "pack_cores": 1} | changes)
    assert simulate(TEN, cluster).seconds == pytest.approx(seconds)


def test_packing_can_be_the_bottleneck():
    work = [Work(detect_seconds=1, pack_seconds=6)] * 8
    cluster = Cluster(nodes=1, detectors=4, pack_cores=2)
    assert simulate(work, cluster).seconds == pytest.approx(1 + 8 * 6 / 2)


def test_storage_can_be_the_bottleneck():
    work = [Work(detect_seconds=1, pack_seconds=1, bytes_read=100, bytes_written=50)] * 20
    cluster = Cluster(nodes=100, detectors=1, pack_cores=1, storage_bandwidth=50)
    # Each unit moves 100 + 100 + 50 bytes.
    assert simulate(work, cluster).seconds == pytest.approx(20 * 250 / 50)


def test_detectors_are_counted_busy():
    estimate = simulate(TEN, Cluster(nodes=1, detectors=1, pack_cores=1))
    assert estimate.detector_share == pytest.approx(40 / 41)
    assert estimate.failures == estimate.repeated == 0


def test_failures_cost_time_and_are_repeatable():
    work = [Work(detect_seconds=10, pack_seconds=1)] * 200
    calm = Cluster(nodes=4, detectors=2, pack_cores=1, start_seconds=30)
    rough = Cluster(
        nodes=4, detectors=2, pack_cores=1, start_seconds=30, mean_seconds_to_failure=200
    )
    first = simulate(work, rough)
    assert first == simulate(work, rough)
    assert first.failures > 0
    assert first.repeated > 0
    assert first.seconds > simulate(work, calm).seconds


def test_a_cluster_that_can_do_nothing_is_refused():
    with pytest.raises(ValueError, match="pack_cores is 0"):
        simulate(TEN, Cluster(nodes=1, detectors=1, pack_cores=0))


@settings(max_examples=40)
@given(
    seconds=st.lists(st.tuples(st.floats(0.1, 9), st.floats(0.1, 9)), min_size=1, max_size=25),
    nodes=st.integers(1, 5),
    detectors=st.integers(1, 3),
)
def test_never_below_the_floor_nor_above_the_list_bound(seconds, nodes, detectors):
    work = [Work(detect_seconds=d, pack_seconds=p) for d, p in seconds]
    cluster = Cluster(nodes=nodes, detectors=detectors, pack_cores=2)
    took = simulate(work, cluster).seconds
    detect, pack = sum(d for d, _ in seconds), sum(p for _, p in seconds)
    longest = max(d + p for d, p in seconds)
    floor = max(detect / (nodes * detectors), pack / (nodes * 2), longest)
    assert floor <= took * (1 + 1e-9)
    assert took <= (detect + pack) * (1 + 1e-9)
