"""Image-caption pairs scored quickly, from cached uni-modal states or a shortlist; the task is `cmal/tasks/retrieval.py`."""
