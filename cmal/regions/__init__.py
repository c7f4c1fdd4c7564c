"""Regions of images: detectors that find them, a store that keeps them, and files that others have made of them."""
