"""An observation of one's own model: from a ``transformers`` model in memory and its gradients.

For whoever computes a gradient without a federation, and wants to know what it tells.
"""

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fedsim.errors import BadInput
from fedsim.messages import Broadcast, Observation, Update
from fedsim.models import adapter_of
from fedsim.training import TrainingSettings


def observe(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, num_examples: int
) -> Observation:
    """Return what a server would see of a FedSGD client: the weights and ``loss.backward()``'s.

    The model is copied and left as it is. Where it is in training mode, the observation says that
    its dropout was on.

    Args:
        model: GPT-2, LLaMA or BERT of ``transformers``, with a head for classification or for a
            language model, also within peft's LoRA. Its parameters hold the gradient of a mean
            loss in ``grad``; those that do not train, or got no gradient, do not travel.
        tokenizer: the model's own; it tells which tokens are special.
        num_examples: of the batch, which a client reports beside its update.

    Raises:
        BadInput: another family or head, a tokenizer of another model, or no gradient.
    """
    adapter = adapter_of(model, tokenizer)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradient = {name: _copied(p.grad) for name, p in trained.items() if p.grad is not None}
    if not gradient:
        raise BadInput(f"{adapter!r} holds no gradient; call loss.backward() first")
    config = TrainingSettings(dropout=model.training).as_config()
    parameters = {name: _copied(p) for name, p in trained.items()}
    return Observation(
        model=adapter,
        broadcast=Broadcast(round=1, parameters=parameters, config=config),
        update=Update(tensors=gradient, kind="gradient", num_examples=num_examples),
    )


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()
