"""Distributed cross-validation of chest-X-ray classifiers."""

__version__ = "0.1.0"
