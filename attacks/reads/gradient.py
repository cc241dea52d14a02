"""The gradient to match: the update itself, or a delta's estimate of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from attacks.reads.decay import undecayed
from attacks.reads.effects import scale_is_open, share_of
from fedsim.errors import UnsupportedObservation, unknown
from fedsim.messages import Observation
from fedsim.training import MOMENTUM, TrainingSettings

SILENT = 1e-6  # of the whole gradient's norm: below it a tensor's entries are rounding


def observed_gradient(observation: Observation, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the gradient of the parameters ``names``, float32 on the model's device.

    A tensor that is rounding alone (attention's key bias, which no softmax sees) is left out.

    Raises:
        UnsupportedObservation: a parameter is frozen or missing, there is none or their norm is
            beyond float32, or the update is a delta of an optimizer whose steps are no multiples of
            gradients.
    """
    if not names:
        raise UnsupportedObservation("matching needs an update with parameters, got one with none")
    for name in names:
        if name not in observation.update.tensors:
            raise UnsupportedObservation(_missing(observation, name))
    tensors = {name: gradient_of(observation, name) for name in names}
    norm = torch.stack([tensor.norm() for tensor in tensors.values()]).norm()
    if not norm.isfinite():
        raise UnsupportedObservation(
            "matching needs an update whose norm float32 holds, got one with entries of up to "
            f"{max(float(observation.update.tensors[name].abs().max()) for name in names):.3g}"
        )
    silent = SILENT * norm
    return {name: tensor for name, tensor in tensors.items() if tensor.norm() > silent or not norm}


def gradient_of(observation: Observation, name: str) -> Tensor:
    """Return about the gradient of the parameter ``name``, float32 on the model's device.

    A delta over minus its path is the mean of the steps' gradients and of what decay added to them.
    """
    sent = observation.update.tensors[name].to(observation.model.device, torch.float32)
    if observation.update.kind == "gradient":
        return sent
    return undecayed(sent / -_path_length(observation), observation, name)


def example_share(observation: Observation) -> float | None:
    """Return one example's share of an update, by the protocol; None where that is not told.

    1 / B of a gradient, as its loss is the mean; of minus a delta of one step that times the
    learning rate.
    """
    examples = observation.update.num_examples
    if not examples or scale_is_open(observation):
        return None
    share = 1 / (examples * share_of(observation))
    if observation.update.kind == "gradient":
        return share
    config = observation.broadcast.config
    training = TrainingSettings.from_config(config)
    one = (
        training.steps(examples) == 1
        and examples <= training.mini_batch_size  # else the step has but some of them
        and training.optimizer != "adamw"
        and "learning_rate" in config
    )
    return share * training.learning_rate if one else None


def shares_are_even(observation: Observation) -> bool:
    """Return whether shares of an update tell how often each text was in it.

    Of a delta of several steps a token's share hangs on the others of its mini-batch: all must be
    in each. An example's hangs on how many these are. Of one epoch whose last step has fewer, whole
    numbers that add up to all examples have a common divisor then, so that no reading is the only
    one; only several epochs may make others of them.
    """
    if observation.update.kind == "gradient":
        return True
    examples, config = observation.update.num_examples, observation.broadcast.config
    training = TrainingSettings.from_config(config)
    size = training.mini_batch_size
    if observation.model.spec.task == "classification":
        steps, epoch = training.steps(examples), training.steps_an_epoch(examples)
        whole = steps % epoch == 0  # else some are in one step more than others
        return whole and (steps == epoch or examples % size == 0 or examples <= size)
    return "mini_batch_size" in config and examples <= size


def _missing(observation: Observation, name: str) -> str:
    slots = dict(observation.model.module.named_parameters())
    if name not in slots:
        return unknown("parameter", name, slots)
    if name in observation.broadcast.parameters:
        return f"the attack needs the gradient of {name!r}, which trains, but the update lacks it"
    return f"the attack needs the gradient of {name!r}, but it is frozen: the update lacks it"


def _path_length(observation: Observation) -> float:
    """Return learning rate times local steps: a delta over it is about minus a mean gradient.

    With momentum m, step t moves by the gradients of steps 1 to t, weighed by m^(t - 1) to m^0.
    """
    config = observation.broadcast.config
    if "learning_rate" not in config:
        raise UnsupportedObservation(
            "matching a delta needs the learning rate and the local steps, but the broadcast's "
            "training config does not say learning_rate"
        )
    training = TrainingSettings.from_config(config)
    if training.optimizer == "adamw":
        raise UnsupportedObservation(
            "matching needs a delta that is a sum of gradients (optimizer sgd or momentum), "
            "got optimizer adamw"
        )
    granted = observation.knowledge.batch_size
    size = observation.update.num_examples if granted is None else granted
    steps = training.steps(size)
    if training.optimizer == "momentum":  # sum over t <= steps of (1 - m^t) / (1 - m)
        rest = 1 - MOMENTUM
        return training.learning_rate * (steps - MOMENTUM * (1 - MOMENTUM**steps) / rest) / rest
    return training.learning_rate * steps
