"""Rounds: what is checked before them, who watches, what is attacked, what is measured."""
