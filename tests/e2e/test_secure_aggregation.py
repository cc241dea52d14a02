"""Flower's real SecAgg+ over fedsim's clients: the tap sees masked vectors, and the sum is ours.

Flower has it in its legacy workflow only, whose messages are read by record names of its own.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, recorddict_to_fitins
from scipy.stats import kstest

from clients import ClientSettings, DataSettings
from clients.update import client_update
from fedsim.lab.engines.inline import InlineGrid
from fedsim.messages import Broadcast, Update
from fedsim.models import ModelSpec, load_adapter
from fedsim.tap.keys import PARTITION
from fedsim.training import TrainingSettings
from fedsim.vault.keys import own_key
from fedsim.wire import whoami_content
from server import Exchange, TapGrid
from server.grids import PartitionedGrid
from server.secagg import weighted_mean

CLIENTS = 4
CLIPPING, TARGET, MODULUS, MOST = 8.0, 2**22, 2**32, 8.0  # SecAgg+'s own; MOST: examples a client
STEP = 2 * CLIPPING / TARGET  # of its rounding


def settings(vault: Path) -> ClientSettings:
    frozen = ("embeddings", "layers.1", "layers.2", "layers.3")  # 0.4 million parameters are left
    return ClientSettings(
        model=ModelSpec(name="builtin:gpt2-tiny", weights="random", freeze=frozen),
        data=DataSettings(name="builtin:clinic"),
        max_length=12,
        clients=CLIENTS,
        batch_size=2,
        seed=1,
        vault=vault,
        seal=own_key().seal,
    )


def legacy_app(own: ClientSettings, updates: dict[int, Update]) -> ClientApp:
    """Return fedsim's client behind Flower's SecAgg+ mod; ``updates`` notes what it would send."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from flwr.client.mod import secaggplus_mod
    app = ClientApp(mods=[])
    names = load_adapter(own.model).trainable()
    config = TrainingSettings(algorithm="fedavg", learning_rate=0.5, mini_batch_size=2).as_config()

    @app.query()
    def whoami(message: Message, context: Context) -> Message:
        return Message(whoami_content(int(context.node_config[PARTITION])), reply_to=message)

    @app.train(mods=[secaggplus_mod])
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config[PARTITION])
        sent = parameters_to_ndarrays(recorddict_to_fitins(message.content, True).parameters)
        weights = {
            name: torch.from_numpy(one.copy()) for name, one in zip(names, sent, strict=True)
        }
        update = client_update(own, client, Broadcast(round=1, parameters=weights, config=config))
        updates[client] = update
        moved = [(weights[name] + update.tensors[name]).numpy() for name in names]
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters(moved), update.num_examples, {})
        return Message(fitres_to_recorddict(result, False), reply_to=message)

    return app


def run_secaggplus(grid: Any, start: list[np.ndarray]) -> list[np.ndarray]:
    """Run one round of Flower's workflow; return the weights it ends with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from flwr.server import LegacyContext, ServerConfig
        from flwr.server.strategy import FedAvg
        from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
    strategy = FedAvg(
        fraction_fit=1.0, fraction_evaluate=0.0, min_available_clients=CLIENTS,
        min_fit_clients=CLIENTS, initial_parameters=ndarrays_to_parameters(start),
    )  # fmt: skip
    context = LegacyContext(
        Context(1, 0, {}, RecordDict(), {}), config=ServerConfig(1), strategy=strategy
    )
    shares = SecAggPlusWorkflow(num_shares=3, reconstruction_threshold=2, max_weight=MOST)
    DefaultWorkflow(fit_workflow=shares)(grid, context)
    return [one.numpy() for one in context.state.array_records["parameters"].values()]


def masked(seen: Sequence[Exchange]) -> dict[int, list[np.ndarray]]:
    """Return what the tap saw of the clients' vectors: integers, the first one the weight."""
    found: dict[int, list[np.ndarray]] = {}
    for one in seen:
        assert one.received is not None and one.client is not None
        for arrays in one.received.array_records.values():
            assert not arrays  # the plain update's place is empty
        for record in one.received.config_records.values():
            if "masked_params" in record:
                raw = record["masked_params"]
                assert isinstance(raw, list)
                found[one.client] = [np.load(io.BytesIO(x)) for x in raw]  # type: ignore[arg-type]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_under_secaggplus_the_tap_sees_masked_vectors_and_the_sum_is_the_ideal_ones(
    tmp_path: Path,
) -> None:
    from fedsim.flower import set_identity

    set_identity()
    own = settings(tmp_path / "vault")
    updates: dict[int, Update] = {}
    rounds: list[Sequence[Exchange]] = []
    initial = load_adapter(own.model).initial_parameters()
    inner = PartitionedGrid(InlineGrid(legacy_app(own, updates), CLIENTS), CLIENTS)
    grid = TapGrid(inner, [rounds.append], on_failure="stop")
    end = run_secaggplus(grid, [one.numpy() for one in initial.values()])

    seen = [one for exchanges in rounds for one in exchanges]
    vectors = masked(seen)
    assert sorted(vectors) == sorted(updates) == list(range(CLIENTS))
    for client, update in updates.items():
        for (name, tensor), vector in zip(update.tensors.items(), vectors[client][1:], strict=True):
            assert vector.shape == tuple(tensor.shape)
            if tensor.numel() < 10_000:
                continue
            uniform = vector.ravel() / MODULUS  # whatever the update is, the mask hides it
            assert kstest(uniform, "uniform").pvalue > 1e-4, name
            weights = initial[name].numpy().ravel() + tensor.numpy().ravel()
            for plain in (tensor.numpy().ravel(), weights):
                correlation = np.corrcoef(uniform, plain)[0, 1]
                assert abs(correlation) < 5 / plain.size**0.5, name

    # What both know in the end is the sum, as the ideal functionality gives it; rounding aside:
    # every client's weighted vector is rounded to STEP, and the sum is divided by their weights.
    mean = weighted_mean([updates[client] for client in range(CLIENTS)])
    share = sum(one.num_examples for one in updates.values()) / MOST
    for (name, sent), learned in zip(initial.items(), end, strict=True):
        expected = (sent.double() + mean.tensors[name].double()).numpy()
        assert np.abs(learned - expected).max() < 1.01 * CLIENTS * STEP / share, name
        assert np.abs(mean.tensors[name].numpy()).max() > 0.0
