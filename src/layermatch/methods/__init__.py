"""The methods: each one file that reads like its paper's algorithm box."""

from layermatch.methods.adamatch import AdaMatch
from layermatch.methods.auxiliary_balanced import AuxiliaryBalancedClassifier
from layermatch.methods.base import Method, RoutedMethod
from layermatch.methods.comatch import CoMatch
from layermatch.methods.crmatch import CRMatch
from layermatch.methods.daso import DASO
from layermatch.methods.dho import DHO
from layermatch.methods.dst import DST
from layermatch.methods.finessl import FineSSL
from layermatch.methods.iomatch import IOMatch
from layermatch.methods.jepamatch import JEPAMatch
from layermatch.methods.linear_probe import LinearProbe
from layermatch.methods.mean_teacher import MeanTeacher
from layermatch.methods.mixmatch import MixMatch
from layermatch.methods.pi_model import PiModel
from layermatch.methods.pseudo_label import PseudoLabel
from layermatch.methods.pseudo_labelling import PseudoLabelling
from layermatch.methods.r2d2 import R2D2
from layermatch.methods.regmixmatch import RegMixMatch
from layermatch.methods.remixmatch import ReMixMatch
from layermatch.methods.sequencematch import SequenceMatch
from layermatch.methods.shrinkmatch import ShrinkMatch
from layermatch.methods.simmatch import SimMatch
from layermatch.methods.supervised import Supervised
from layermatch.methods.uda import UDA
from layermatch.methods.vat import VAT
from layermatch.methods.vpet import VPET

__all__ = [
    "DASO",
    "DHO",
    "DST",
    "R2D2",
    "UDA",
    "VAT",
    "VPET",
    "AdaMatch",
    "AuxiliaryBalancedClassifier",
    "CRMatch",
    "CoMatch",
    "FineSSL",
    "IOMatch",
    "JEPAMatch",
    "LinearProbe",
    "MeanTeacher",
    "Method",
    "MixMatch",
    "PiModel",
    "PseudoLabel",
    "PseudoLabelling",
    "ReMixMatch",
    "RegMixMatch",
    "RoutedMethod",
    "SequenceMatch",
    "ShrinkMatch",
    "SimMatch",
    "Supervised",
]
