"""A run as it is now, on a terminal. ``python -m layermatch.watch`` is its command line."""
