"""Run directories: what lies where in them, how it is written and read, and which runs are the same but for the seed.

Free of torch and Lightning, so that what only reads runs starts at once.
"""
