"""FILM: texts from a bag of words and the language model that is being trained."""

from attacks.film.attack import Film

__all__ = ["Film"]
