"""Errors, for two readers: users, and people who work on the compiler.

A :class:`PartcError` is a mistake of the user's. Its message is one sentence that says what was
expected, what came, where, and what to do; the command line prints it and exits with status 2.
A :class:`CompilerError` is a mistake of ours: it says which step broke which promise.
"""


class PartcError(Exception):
    """Something in the user's input that partc cannot work with."""


class ModelError(PartcError):
    """The model is missing, is no model, or holds something that cannot be compiled."""


class TargetError(PartcError):
    """A target or a link is unknown, is described wrongly, or cannot be compiled for here."""


class InfeasibleError(PartcError):
    """The constraints contradict each other: no cut satisfies all of them."""


class BundleError(PartcError):
    """A bundle is missing, incomplete or changed since it was written."""


class VerificationError(PartcError):
    """The compiled model does not compute what its source computes."""


class GraphError(ValueError):
    """A layer graph that breaks one of its own rules."""


class CompilerError(Exception):
    """A step of the compiler broke a promise."""
