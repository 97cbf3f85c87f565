"""One call from its checked arguments to its result, a module for each family of losses."""

# torch.compile looks the operators up by name, and cannot register them while it traces.
from losskit.families import operators as operators
