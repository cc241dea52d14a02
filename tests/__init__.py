"""The tests; imported before torch and Flower are, which is when they read the environment."""

from fedsim.lab.environment import set_environment

set_environment()
