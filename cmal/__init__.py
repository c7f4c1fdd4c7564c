"""CMAL: vision-language pre-training by cross-modal associative learning (arXiv:2410.12595)."""

__version__ = "0.2.0"
