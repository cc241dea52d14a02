"""Canaries: what a privacy guarantee claims against what can be proved."""
