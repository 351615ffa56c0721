"""What runs inside an engine's process: one file an engine, which imports numpy, the engine and nothing of shrinkc.

``NotImplementedError`` says that the engine refuses the model, ``ImportError`` that it is missing, ``LookupError`` that a
device is.
"""
