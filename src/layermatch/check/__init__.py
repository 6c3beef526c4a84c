"""A look at a data set before it is trained on: what is in it, twice in it, or wrong with it."""
