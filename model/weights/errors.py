"""What goes wrong with weights.

ValueError
└── WeightsError    a file or directory is not the weights it should be; the message names it and what was expected
"""


class WeightsError(ValueError):
    """The weights cannot be used; the message is one sentence for the person who chose the file."""
