"""Many run directories at once: listed, chosen by conditions, compared, tidied. Free of torch and Lightning."""

from layermatch.registry.entries import Entry, read_entry
from layermatch.registry.search import newest_run, read_entries
from layermatch.registry.where import Condition, choose, read_condition

__all__ = ["Condition", "Entry", "choose", "newest_run", "read_condition", "read_entries", "read_entry"]
