"""What an attack that learns is made of: it simulates clients, and trains a network to invert them.

shape: of a client's batch. texts: what simulated clients hold. pipeline: what defenses do to their
updates. gradients, simulator: their updates. features: what is read of an update, in numbers.
decoder: the networks. matched: the loss of a
set of texts. training: fits one. cache: where trained ones are kept.
"""

from attacks.learned.cache import Job, inverter_of
from attacks.learned.decoder import Network
from attacks.learned.pipeline import Pipeline
from attacks.learned.shape import Shape, shape_of
from attacks.learned.simulator import Simulator
from attacks.learned.texts import Prior, Source, check_auxiliary
from attacks.learned.training import Curriculum, Inverter

__all__ = [
    "Curriculum",
    "Inverter",
    "Job",
    "Network",
    "Pipeline",
    "Prior",
    "Shape",
    "Simulator",
    "Source",
    "check_auxiliary",
    "inverter_of",
    "shape_of",
]
