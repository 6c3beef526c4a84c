"""The origins of images: one class for each data set, all of which hand over :class:`SourceData`."""

from layermatch.data.sources.base import ImageSet, Source, SourceData
from layermatch.data.sources.cifar import CIFAR10, CIFAR100
from layermatch.data.sources.datasets import Datasets
from layermatch.data.sources.digits import Digits
from layermatch.data.sources.folder import Folder
from layermatch.data.sources.idx import MNIST, FashionMNIST
from layermatch.data.sources.image_folder import ImageFolder
from layermatch.data.sources.imagenet100 import ImageNet100
from layermatch.data.sources.manifest import Manifest
from layermatch.data.sources.mnist_5000 import MNIST5000
from layermatch.data.sources.shards import Shards
from layermatch.data.sources.stl10 import STL10
from layermatch.data.sources.svhn import SVHN

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "MNIST5000",
    "STL10",
    "SVHN",
    "Datasets",
    "Digits",
    "FashionMNIST",
    "Folder",
    "ImageFolder",
    "ImageNet100",
    "ImageSet",
    "Manifest",
    "Shards",
    "Source",
    "SourceData",
]
