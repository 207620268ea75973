"""Training of the ResNets of He et al. 2015 from beton files: recipe -> data -> model -> checkpoint."""

__version__ = "0.1.0"
