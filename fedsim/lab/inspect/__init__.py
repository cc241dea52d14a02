"""What captures hold, what that lets an attack read, what hides it, and what to run next."""

from fedsim.lab.inspect.inspection import Inspection, inspect_captures

__all__ = ["Inspection", "inspect_captures"]
