"""The methods as LightningModules, in one call: a network in, ``Trainer.fit`` next."""

from __future__ import annotations

from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from layermatch.build import build_method, build_module
from layermatch.cli import config_dir, explain, plain
from layermatch.errors import UserError
from layermatch.layerwise import SeparateLosses, Uniform
from layermatch.methods import MeanTeacher as MeanTeacherMethod
from layermatch.methods import PseudoLabelling
from layermatch.methods import Supervised as SupervisedMethod
from layermatch.networks import Network
from layermatch.policies import FixedThreshold
from layermatch.predictor import open_teacher
from layermatch.settings import Settings
from layermatch.training import SemiSupervisedModule

__all__ = ["FixMatch", "LayerMatch", "MeanTeacher", "Supervised", "create"]


def create(name: str, network: Network, *overrides: str) -> SemiSupervisedModule:
    """Return any method of conf/algorithm, with the settings of its file, on a network of your own.

    Args:
        name: The method, as ``algorithm=NAME`` has it on the command line, for example ``freematch``.
        network: The extractor, and its classifier or none yet.
        *overrides: Other settings, as on the command line: ``"layerwise=layermatch"``, ``"optimizer.lr=0.01"``.

    Raises:
        UserError: There is no such method or setting, or a value is not legal.

    Example:
        >>> from layermatch.networks import wrn_small
        >>> module = create("freematch", wrn_small(in_channels=1), "layerwise=grad_relu")
        >>> type(module.method.policy).__name__, module.method.rule.grad_relu
        ('SelfAdaptiveThreshold', 'block')
    """
    # The default experiment's settings are those of one data set.
    given = ["run_dir=unused", "~experiment", f"algorithm={name}", *overrides]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        try:
            settings = Settings.parse(plain(compose("run", overrides=given)))
        except HydraException as error:
            raise UserError(explain(error)) from error
    return build_module(settings, network=network, method=build_method(settings), open_teacher=open_teacher)


class LayerMatch(SemiSupervisedModule):
    """LayerMatch (Liang et al. 2024): extractor and classifier learn from separate losses.

    Args:
        network: The extractor, and its classifier or none yet.
        threshold: The confidence that a pseudo-label needs, in ``(0, 1]``.
        forward: See :class:`~layermatch.methods.PseudoLabelling`.
        lambda_u: The weight of the pseudo-label loss, at least 0.
        grad_relu: See :class:`~layermatch.layerwise.SeparateLosses`.
        avg_clustering: See :class:`~layermatch.layerwise.SeparateLosses`.
        **options: Those of :class:`~layermatch.training.SemiSupervisedModule`.

    Example:
        >>> from layermatch.networks import wrn_small
        >>> LayerMatch(wrn_small(in_channels=1)).automatic_optimization
        False
    """

    def __init__(
        self,
        network: Network,
        *,
        threshold: float = 0.95,
        forward: str = "joint",
        lambda_u: float = 1.0,
        grad_relu: str = "block",
        avg_clustering: str = "none",
        **options: Any,
    ) -> None:
        rule = SeparateLosses(lambda_u=lambda_u, grad_relu=grad_relu, avg_clustering=avg_clustering)
        method = PseudoLabelling(policy=FixedThreshold(threshold=threshold), rule=rule, forward=forward)
        super().__init__(network, method, **options)


class FixMatch(SemiSupervisedModule):
    """FixMatch (Sohn et al. 2020): confident pseudo-labels of weak views teach strong views, all layers alike.

    Args:
        network: The extractor, and its classifier or none yet.
        threshold: The confidence that a pseudo-label needs, in ``(0, 1]``.
        forward: See :class:`~layermatch.methods.PseudoLabelling`.
        lambda_u: The weight of the pseudo-label loss, at least 0.
        **options: Those of :class:`~layermatch.training.SemiSupervisedModule`.
    """

    def __init__(
        self,
        network: Network,
        *,
        threshold: float = 0.95,
        forward: str = "joint",
        lambda_u: float = 1.0,
        **options: Any,
    ) -> None:
        rule = Uniform(lambda_u=lambda_u)
        method = PseudoLabelling(policy=FixedThreshold(threshold=threshold), rule=rule, forward=forward)
        super().__init__(network, method, **options)


class MeanTeacher(SemiSupervisedModule):
    """Mean Teacher (Tarvainen and Valpola 2017): the averaged network teaches the live one.

    Args:
        network: The extractor, and its classifier or none yet.
        lambda_u: The weight of the consistency loss, at least 0.
        ramp: The share of the run in which the weight grows from 0, in ``[0, 1]``.
        **options: Those of :class:`~layermatch.training.SemiSupervisedModule`.
    """

    def __init__(self, network: Network, *, lambda_u: float = 50.0, ramp: float = 0.4, **options: Any) -> None:
        super().__init__(network, MeanTeacherMethod(rule=Uniform(lambda_u=lambda_u), ramp=ramp), **options)


class Supervised(SemiSupervisedModule):
    """The baseline: labelled images only.

    Args:
        network: The extractor, and its classifier or none yet.
        **options: Those of :class:`~layermatch.training.SemiSupervisedModule`.
    """

    def __init__(self, network: Network, **options: Any) -> None:
        super().__init__(network, SupervisedMethod(), **options)
