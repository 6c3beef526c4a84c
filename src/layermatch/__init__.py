"""Layer-wise semi-supervised image classification for PyTorch Lightning.

``import layermatch`` is light: it reads no data, touches no network and sets no global state. It only drops rank
variables that are no numbers, on which Lightning would end as it is imported.
"""

from importlib.metadata import PackageNotFoundError, version

from layermatch.errors import UserError
from layermatch.rank_variables import drop_unreadable_ranks

__all__ = ["UserError", "__version__"]

try:
    __version__ = version("layermatch")
except PackageNotFoundError:  # the source tree on the path, not installed
    __version__ = "0+unknown"

drop_unreadable_ranks()
