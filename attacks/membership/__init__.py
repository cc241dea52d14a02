"""Membership: which of some candidate texts a client trained on."""

from attacks.membership.attack import Membership

__all__ = ["Membership"]
