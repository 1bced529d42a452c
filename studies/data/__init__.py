"""MNIST reduced to 16x16: a subset that comes with the package, and the reader of the full set."""

from .digits import Digits, embedded_digits, full_digits, resized

__all__ = ["Digits", "embedded_digits", "full_digits", "resized"]
