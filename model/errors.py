"""What can go wrong in the model, apart from plain ``ValueError`` for values of the wrong shape.

ValueError
├── CapabilityError     the loaded weights lack the part that this prompt needs (a pruned export)
├── DeviceError         the requested device or dtype is not available on this machine
└── CostError           decoding a file would take more memory or time than its size justifies
"""


class CapabilityError(ValueError):
    """The loaded weights lack the part that a prompt needs: choose other weights or another prompt."""


class DeviceError(ValueError):
    """The requested device or dtype is not available on this machine: choose another in the settings."""


class CostError(ValueError):
    """Decoding an image file would take more memory or time than its size justifies: save it in another way."""
