"""A fixed threshold on what the averaged network says."""

from __future__ import annotations

from typing import ClassVar

from layermatch.policies.fixed_threshold import FixedThreshold

__all__ = ["AveragedNetwork"]


class AveragedNetwork(FixedThreshold):
    r"""Hard labels of the averaged network, where its confidence reaches a fixed threshold.

    .. math:: p = \mathrm{softmax}(\bar W \bar f(w(u)) + \bar b), \qquad \hat y = \arg\max p, \quad
        m = \mathbf{1}[\max p \ge \tau]

    with the averaged parameters of :class:`~layermatch.parts.WeightAverage`, in evaluation mode. It costs one more
    forward of the weak views. Source: ours; FixMatch (Sohn et al. 2020) with the teacher of Mean Teacher (Tarvainen and
    Valpola 2017).

    Args:
        threshold: ``tau``, in ``(0, 1]``.

    Raises:
        UserError: The threshold is out of range.

    Example:
        >>> AveragedNetwork(threshold=0.95).needs_teacher
        True
    """

    needs_teacher: ClassVar[bool] = True
