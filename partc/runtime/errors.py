"""What can go wrong in a half of a bundle.

Every message is one sentence that says what was expected, what came, where, and what to do; the
programs of a bundle print it and exit with status 2.
"""


class HalfError(Exception):
    """Something that keeps a half of a bundle from doing its work."""


class InputError(HalfError, ValueError):
    """What a caller gave does not fit the model."""


class ArtifactError(HalfError):
    """The compiled library, the weights or TVM's runtime cannot be used."""


class IntegrityError(ArtifactError):
    """A file of the bundle is missing or changed since it was written."""


class ExecutionError(HalfError):
    """A segment failed while it ran."""


class ServerError(HalfError):
    """The server half cannot listen, cannot be reached, or does not answer as it should."""


class ProtocolError(HalfError, ValueError):
    """Bytes that are no message of the expected kind."""
