"""What ``python -m layermatch.predict`` is made of: a list of files, chunks that are done once, and what is written."""

from layermatch.prediction.compute import Computation, compute
from layermatch.prediction.job import Job, Record
from layermatch.prediction.listing import Entry, list_input
from layermatch.prediction.results import Result, results_of

__all__ = ["Computation", "Entry", "Job", "Record", "Result", "compute", "list_input", "results_of"]
