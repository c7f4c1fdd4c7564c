"""Detectors: images in, regions out, one interface; `build_detector` finds one by name."""
