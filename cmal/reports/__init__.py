"""Self-contained web pages: one HTML file each, with its images, styles and script inside and nothing fetched.

`document.py` is the frame they share; every text that comes from data goes through `text` there, so that what a caption or a
class name says is shown, never run.
"""
