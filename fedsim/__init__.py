"""The vocabulary of a curious server: messages, models, captures; nothing here knows the truth."""

__version__ = "0.1.0"
