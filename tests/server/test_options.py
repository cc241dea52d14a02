"""Options that Flower takes, and then fails by, or trains nothing with, are bad input."""

import inspect
import math
from typing import Any

import pytest

from fedsim.errors import BadInput
from server.options import NEEDED, OPTIONS
from server.strategies import STRATEGIES, make_strategy

REQUIRED = {"qfedavg": {"client_learning_rate": 0.5}}
RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("qfedavg", {"client_learning_rate": 1e-3, "q": 0}),
    ("bulyan", {"num_malicious_nodes": 1}),
    ("krum", {"num_malicious_nodes": 2}),
    ("multikrum", {"num_malicious_nodes": 2, "num_nodes_to_select": 7}),
    ("fedadam", {"eta": 1, "beta_1": 0.0, "beta_2": 0.999, "tau": 1e-9}),
    ("fedavgm", {"server_momentum": 0.0, "server_learning_rate": 2.0}),
    ("fedprox", {"proximal_mu": 0}),
    ("fedtrimmedavg", {"beta": 0.0}),
]
WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("qfedavg", {"client_learning_rate": 0.0}, "client_learning_rate must be a number > 0, got 0"),
    ("qfedavg", {"client_learning_rate": 0.1, "q": -3}, "q must be a number >= 0, got -3"),
    ("bulyan", {"num_malicious_nodes": -1}, "must be an integer >= 0, got -1"),
    ("multikrum", {"num_nodes_to_select": 0}, "must be an integer >= 1, got 0"),
    ("multikrum", {"num_nodes_to_select": 8}, "at most federation.clients_per_round = 7, got 8"),
    ("krum", {"num_malicious_nodes": 99}, "krum with .* = 99 needs at least 201, got 7"),
    ("krum", {"num_malicious_nodes": 3}, "krum with .* = 3 needs at least 9, got 7"),
    ("multikrum", {"num_malicious_nodes": 3}, "multikrum with .* = 3 needs at least 9, got 7"),
    ("bulyan", {"num_malicious_nodes": 2}, "bulyan with .* = 2 needs at least 11, got 7"),
    ("krum", {"num_malicious_nodes": 1.5}, "must be an integer >= 0, got 1.5"),
    ("krum", {"num_malicious_nodes": 1.0}, "must be an integer >= 0, got 1.0"),
    ("krum", {"num_malicious_nodes": True}, "must be an integer >= 0, got True"),
    ("krum", {"num_nodes_to_select": 2}, "unknown option 'num_nodes_to_select'"),
    ("fedadam", {"eta": 0}, "eta must be a number > 0, got 0"),
    ("fedadam", {"beta_2": 1.5}, "beta_2 must be a number >= 0 and < 1, got 1.5"),
    ("fedyogi", {"beta_1": 1}, "beta_1 must be a number >= 0 and < 1, got 1"),
    ("fedadagrad", {"tau": 0}, "tau must be a number > 0, got 0"),
    ("fedavgm", {"server_momentum": math.nan}, "server_momentum must be .* got nan"),
    ("fedavgm", {"server_learning_rate": math.inf}, "server_learning_rate must be .* got inf"),
    ("fedavgm", {"server_learning_rate": "0.1"}, "must be a number > 0, got '0.1'"),
    ("fedprox", {"proximal_mu": -1}, "proximal_mu must be a number >= 0, got -1"),
    ("fedtrimmedavg", {"beta": 0.5}, "beta must be a number >= 0 and < 0.5, got 0.5"),
    ("fedavg", {"train_metrics_aggr_fn": 3}, "unknown option 'train_metrics_aggr_fn'"),
    ("bulyan", {"selection_rule": 1}, "unknown option 'selection_rule'"),
    ("fedavg", {"weighted_by_key": 5}, "unknown option 'weighted_by_key'"),
    ("fedavg", {"min_train_nodes": 5}, "min_train_nodes is set by fedsim"),
]


@pytest.mark.parametrize(("name", "options"), RIGHT)
def test_right_options_are_taken(name: str, options: dict[str, Any]) -> None:
    made = vars(make_strategy(name, options, 7))
    assert {key: made[key] for key in options} == options


@pytest.mark.parametrize(("name", "options", "line"), WRONG)
def test_wrong_options_are_one_line(name: str, options: dict[str, Any], line: str) -> None:
    with pytest.raises(BadInput, match=line) as caught:
        make_strategy(name, options, 7)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_defaults_are_within_their_ranges_and_none_is_left_out(name: str) -> None:
    taken = inspect.signature(STRATEGIES[name].__init__).parameters
    base = inspect.signature(STRATEGIES["fedavg"].__init__).parameters
    numbers = {
        key: option.default
        for key, option in taken.items()
        if key not in base and option.annotation in (int, float)
    }
    assert set(numbers) == set(OPTIONS.get(name, {}))
    for key, default in numbers.items():
        assert default is inspect.Parameter.empty or OPTIONS[name][key].holds(default)


@pytest.mark.parametrize("name", sorted(set(STRATEGIES) - {"bulyan"}))
def test_of_a_single_client_all_but_bulyan_can_be_made(name: str) -> None:
    assert make_strategy(name, REQUIRED.get(name, {}), 1)


def test_bulyan_without_malicious_clients_needs_three() -> None:
    assert NEEDED["bulyan"] == (4, 3) and make_strategy("bulyan", {}, 3)
    with pytest.raises(BadInput, match="bulyan with num_malicious_nodes = 0 needs at least 3"):
        make_strategy("bulyan", {}, 2)
