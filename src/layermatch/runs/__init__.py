"""Run directories: what lies where in them, how it is written and read, and which runs are the same but for the seed.

Many of them are listed, chosen by conditions, compared and tidied here as well. Free of torch and Lightning: what only
reads runs starts at once.
"""
