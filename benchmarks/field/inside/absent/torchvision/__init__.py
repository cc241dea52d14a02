"""Stands where ``torchvision`` is not installed: a project's "images" are token ids here."""
