"""Learning-rate schedules, and ramps: how far a run is goes in, a factor comes out."""

from __future__ import annotations

import math

from layermatch.errors import check_number

__all__ = ["constant", "cosine", "cosine_ramp", "linear_ramp", "warmup_cosine"]


def cosine(step: int, max_steps: int, *, cycles: float = 7 / 16) -> float:
    r"""Follow part of a cosine, from 1 down to :math:`\cos(7\pi/16) \approx 0.195` at the default.

    .. math:: \eta_k / \eta_0 = \cos\left(\pi \, c \, k / K\right), \qquad c = 7/16

    Source: FixMatch (Sohn et al. 2020, section 2.4), which writes :math:`\cos(7 \pi k / 16 K)`.

    Args:
        step: ``k``, optimizer steps made so far, in ``[0, max_steps]``.
        max_steps: ``K``, optimizer steps of the whole run.
        cycles: ``c``, half periods of the cosine in the run, in ``[0, 0.5]`` so that the factor is never negative.

    Returns:
        The factor of the initial learning rate.

    Raises:
        UserError: ``cycles`` is out of range.

    Example:
        >>> cosine(0, 100), round(cosine(100, 100), 4)
        (1.0, 0.1951)
    """
    check_number("cycles", cycles, low=0, high=0.5)
    return math.cos(math.pi * cycles * step / max_steps)


def warmup_cosine(step: int, max_steps: int, *, warmup: float = 0.05) -> float:
    r"""Rise linearly to 1 in the first part of a run, then fall to 0 along half a cosine.

    .. math::
        \eta_k / \eta_0 = \min\left(1, \frac{k + 1}{w K}\right) \text{ for } k < w K, \qquad
        \frac{1}{2} \left(1 + \cos \pi \frac{k - w K}{K - w K}\right) \text{ after it}

    Source: the warm-up of Goyal et al. 2017 (section 2.2), the cosine of Loshchilov and Hutter 2017 (SGDR, without
    restarts). The first step has a rate above 0, so that it is not lost.

    Args:
        step: ``k``, optimizer steps made so far, in ``[0, max_steps]``.
        max_steps: ``K``, optimizer steps of the whole run.
        warmup: ``w``, the share of the run that the rise takes, in ``[0, 1)``; 0 starts at 1.

    Returns:
        The factor of the initial learning rate.

    Raises:
        UserError: ``warmup`` is out of range.

    Example:
        >>> [round(warmup_cosine(k, 100, warmup=0.1), 3) for k in (0, 4, 10, 55, 100)]
        [0.1, 0.5, 1.0, 0.5, 0.0]
    """
    check_number("warmup", warmup, low=0, high=1, high_open=True)
    rise = warmup * max_steps
    if step < rise:
        return min(1.0, (step + 1) / rise)
    return 0.5 + 0.5 * math.cos(math.pi * (step - rise) / (max_steps - rise))


def constant(step: int, max_steps: int) -> float:  # noqa: ARG001 -- every schedule takes the same two
    """Return 1 at every step.

    Args:
        step: The steps made so far, which are not looked at.
        max_steps: The steps of the run, which are not looked at.

    Returns:
        1.0.

    Example:
        >>> constant(3, 10)
        1.0
    """
    return 1.0


def linear_ramp(progress: float, *, length: float) -> float:
    r"""Grow a factor from 0 to 1 in the first part of a run: the weight of a loss that must wait for the labels.

    .. math:: r = \min(1, t / \rho)

    Source: TorchSSL and USB, with :math:`\rho = 0.4` for the methods before FixMatch.

    Args:
        progress: t, the share of the run that is done, in ``[0, 1]``.
        length: rho, the share of the run that the ramp takes, in ``[0, 1]``; 0 is no ramp.

    Returns:
        The factor, in ``[0, 1]``.

    Example:
        >>> linear_ramp(0.1, length=0.4), linear_ramp(0.5, length=0.4)
        (0.25, 1.0)
    """
    return min(1.0, progress / length) if length else 1.0


def cosine_ramp(progress: float, *, length: float) -> float:
    r"""Return a factor that grows from 0 to 1 along half a cosine in the first part of a run.

    .. math:: r' = \tfrac{1}{2} - \tfrac{1}{2} \cos(\pi r), \qquad r = \min(1, t / \rho)

    with r of :func:`linear_ramp`. Source: AdaMatch (Berthelot et al. 2022), with :math:`\rho = 0.5`.

    Args:
        progress: t, the share of the run that is done, in ``[0, 1]``.
        length: rho, the share of the run that the ramp takes, in ``[0, 1]``; 0 is no ramp.

    Returns:
        The factor, in ``[0, 1]``.

    Example:
        >>> round(cosine_ramp(0.25, length=0.5), 3), cosine_ramp(0.5, length=0.5)
        (0.5, 1.0)
    """
    return 0.5 - 0.5 * math.cos(math.pi * linear_ramp(progress, length=length))
