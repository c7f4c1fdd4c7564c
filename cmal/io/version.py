"""The version of this package, in one place that every room may read."""

VERSION = "0.2.0"
