"""Image classifiers that look at photographs as the Recurrent Attention Model does."""

__version__ = "0.1.0"
