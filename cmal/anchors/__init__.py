"""Anchor points: where the object tags of regions meet the words of a caption."""
