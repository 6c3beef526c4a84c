"""What runs left behind, read back: one page about many runs. ``python -m layermatch.report`` is its command line."""
