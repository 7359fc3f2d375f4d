"""The helper package of the course *Batch Normalization, executed*.

Importing it loads nothing heavy; import the module you need, for example
``from bn_helpers import reference``.
"""

__version__ = "0.1.0"
