"""Trained networks as files that other programs read: ONNX, torch.export, safetensors, each with a description."""

from layermatch.exporting.deployed import Deployed
from layermatch.exporting.description import describe, model_card
from layermatch.exporting.formats import FORMATS, Format

__all__ = ["FORMATS", "Deployed", "Format", "describe", "model_card"]
