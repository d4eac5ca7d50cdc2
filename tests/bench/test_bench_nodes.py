"""Where a profile says the time goes: own times of nodes, the first run left out, shares."""

import pytest

from edgeseg_bench.nodes import node_times, operator_times, product_share


def run_of(start):
    return {"name": "model_run", "cat": "Session", "ts": start, "dur": 1000}


def node(op_type, name, start, duration):
    return {
        "name": f"{name}_kernel_time",
        "cat": "Node",
        "ts": start,
        "dur": duration,
        "args": {"op_name": op_type},
    }


def turn(start, *, conv, loop, turns=2):
    """A run: a convolution, a loop whose body has a product of 100 us in each turn, what a profile has beside."""
    inner = start + conv + 20
    return [
        run_of(start),
        {"name": "conv_fence_before", "cat": "Node", "ts": start + 10, "dur": 5, "args": {}},
        node("Conv", "conv", start + 10, conv),
        node("Loop", "loop", inner, loop),
        *(node("MatMul", "product", inner + 5 + 110 * i, 100) for i in range(turns)),
        node("Add", "add", inner + loop, 50),
    ]


FIRST = turn(0, conv=90_000, loop=90_000)


def test_the_time_of_a_loop_is_without_that_of_its_body():
    times = node_times([*FIRST, *turn(1_000_000, conv=400, loop=300)])
    assert times == {
        ("Conv", "conv"): 0.4,
        ("Loop", "loop"): pytest.approx(0.1),
        ("MatMul", "product"): pytest.approx(0.2),
        ("Add", "add"): 0.05,
    }


def test_the_first_run_is_left_out_and_the_others_give_their_median():
    later = [
        event
        for number, conv in enumerate((400, 100, 300), 1)
        for event in turn(1_000_000 * number, conv=conv, loop=300)
    ]
    assert node_times([*FIRST, *later])["Conv", "conv"] == pytest.approx(0.3)


def test_a_node_that_did_not_run_took_no_time():
    runs = [(1, 2), (2, 0), (3, 0)]
    later = [
        event
        for number, turns in runs
        for event in turn(1_000_000 * number, conv=400, loop=300, turns=turns)
    ]
    times = node_times([*FIRST, *later])
    assert times["MatMul", "product"] == 0
    assert times["Loop", "loop"] == pytest.approx(0.3)


def test_the_share_of_products_counts_what_is_named_beside_them():
    times = node_times([*FIRST, *turn(1_000_000, conv=400, loop=300)])
    assert list(operator_times(times)) == ["Conv", "MatMul", "Loop", "Add"]
    assert product_share(times) == pytest.approx(600 / 750)
    assert product_share(times, further=frozenset({"Add"})) == pytest.approx(650 / 750)
