"""Search of placements of many units, on planted optima with a made-up latency."""

from __future__ import annotations

from collections.abc import Sequence

from test_placement import MadeUp, units_of

from onnx_admm.quantization.placing.exchanges import descend
from onnx_admm.quantization.placing.search import PlacementSearch
from onnx_admm.quantization.reasons import Reasons


def long_chain(count: int, gaps: Sequence[int] = ()) -> str:
    """Return a chain of convolutions; behind those in ``gaps`` stands a Sigmoid, which parts them."""
    weights = ", ".join(f"float[16,16,1,1] w{i}" for i in range(count))
    body, last = "", "x"
    for i in range(count):
        body += f"c{i} = Conv ({last}, w{i}) "
        last = f"c{i}"
        if i in gaps:
            body += f"g{i} = Sigmoid ({last}) "
            last = f"g{i}"
    return f"""
        <ir_version: 8, opset_import: ["" : 17]>
        chain (float[1,16,8,8] x) => (float[1,16,8,8] y) <{weights}>
        {{ {body} y = Sigmoid ({last}) }}"""


class Planted:
    """Made-up latencies of a long chain, an estimate of them, and the search."""

    def __init__(
        self, text: str, saves: dict[str, float], price: float = 0.0, errors: dict[str, float] | None = None
    ) -> None:
        self.units = units_of(text)
        self.measured = MadeUp(self.units, saves, price)
        self.search = PlacementSearch(
            self.units, errors or {}, self.measured, most_timed=96, estimate=self.measured.of
        )

    def best(self, tolerance: float = 1.0) -> set[str]:
        chosen = self.search.best([unit.node for unit in self.units], tolerance)
        return {unit.output for unit in self.units if unit.node in chosen}


def mixed(count: int, scale: float) -> dict[str, float]:
    """Return what each unit saves: two of three save, the others cost."""
    return {f"c{i}": scale * (-0.7 if i % 3 == 0 else 1.0) for i in range(count)}


def test_of_200_independent_units_those_that_save_are_found_in_few_timed_placements() -> None:
    saves = mixed(200, 0.003)
    planted = Planted(long_chain(200), saves)
    assert planted.best() == {name for name, saved in saves.items() if saved > 0}
    assert len(planted.measured.asked) == planted.search.timed <= 24


def test_a_unit_that_costs_stays_where_leaving_it_out_costs_two_conversions() -> None:
    count = 60
    saves = {f"c{i}": 0.01 for i in range(count)} | {"c20": -0.003, "c40": -0.02}
    found = Planted(long_chain(count), saves, price=0.008).best()
    assert found == {f"c{i}" for i in range(count)} - {"c40"}


def test_a_part_that_does_not_pay_for_its_conversions_goes_as_a_whole() -> None:
    """Each of its units saves, and no single one of them does without two conversions more."""
    saves = {f"c{i}": 0.012 if i < 20 else 0.001 for i in range(40)}
    planted = Planted(long_chain(40, gaps=[19]), saves, price=0.03)
    first = {unit.node for unit in planted.units if unit.output in {f"c{i}" for i in range(20)}}
    everything = frozenset(unit.node for unit in planted.units)
    assert descend(planted.units, everything, everything, planted.measured.of, lambda _: True) == first
    assert planted.best() == {f"c{i}" for i in range(20)}


def test_what_the_estimate_does_not_know_is_found_by_timing() -> None:
    """The runtime is slower with a part than its kernels tell."""
    planted = Planted(long_chain(40, gaps=[9, 19, 29]), {f"c{i}": 0.01 for i in range(40)}, price=0.01)
    second = {unit.node for unit in planted.units if unit.output in {f"c{i}" for i in range(10, 20)}}

    def latencies(placements: Sequence[frozenset[int]]) -> list[float]:
        planted.measured.asked += placements
        return [planted.measured.of(each) + (0.2 if each & second else 0.0) for each in placements]

    planted.search.latencies = latencies
    assert planted.best() == {f"c{i}" for i in range(40)} - {f"c{i}" for i in range(10, 20)}
    assert len(planted.measured.asked) <= 24


def test_a_start_that_is_slower_than_floats_is_improved_all_the_same() -> None:
    """The estimate knows nothing of what makes one part slow, and the others save less than that takes."""
    planted = Planted(long_chain(40, gaps=[9, 19, 29]), {f"c{i}": 0.005 for i in range(40)})
    slow = {unit.node for unit in planted.units if unit.output in {f"c{i}" for i in range(10)}}

    def latencies(placements: Sequence[frozenset[int]]) -> list[float]:
        return [planted.measured.of(each) + (0.25 if each & slow else 0.0) for each in placements]

    planted.search.latencies = latencies
    assert planted.best() == {f"c{i}" for i in range(10, 40)}


def test_no_unit_is_integer_where_all_that_was_timed_is_slower() -> None:
    planted = Planted(long_chain(40), {f"c{i}": 0.005 for i in range(40)})
    planted.search.latencies = lambda placements: [1.2] * len(placements)
    assert planted.best() == set()


def test_the_tolerance_of_many_units_is_spent_where_it_saves_most() -> None:
    saves = {f"c{i}": 0.02 if i < 10 else 0.002 for i in range(40)}
    errors = {f"c{i}": 0.01 for i in range(40)}
    found = Planted(long_chain(40, gaps=list(range(40))), saves, errors=errors).best(tolerance=0.105)
    assert found == {f"c{i}" for i in range(10)}


def test_no_more_is_timed_where_exchanges_do_not_reach_what_is_enough() -> None:
    planted = Planted(long_chain(60), {f"c{i}": 0.0001 for i in range(60)})
    planted.search.enough = 0.8
    planted.best()
    assert planted.search.timed <= 3


def test_figures_that_were_not_measured_are_called_estimates() -> None:
    planted = Planted(long_chain(40), mixed(40, 0.01))
    planted.best()
    chosen = min(planted.measured.asked, key=planted.measured.of)
    reasons = Reasons(planted.search, chosen)
    estimates = 0
    for unit in planted.units:
        said = reasons.of_integer(unit, False) if unit.node in chosen else reasons.of_float(unit)
        if planted.search.gain_within(unit.node, chosen) is None:
            assert "about" in said
            assert "by the times of" in said
            estimates += 1
        else:
            assert "about" not in said
    assert estimates > 20
