"""Labels for pictures, given on a page in the browser that proposes what to label next.

The server needs no torch: what a model thinks of the pictures is found by a process of its own, and so is training.
"""
