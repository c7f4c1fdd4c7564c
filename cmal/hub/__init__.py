"""Models as folders: load, use, save, and publish them."""
