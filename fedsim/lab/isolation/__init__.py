"""Attacks in a process of their own, under limits; see :mod:`attacks.worker` for its side."""
