"""One class per way to fail; each knows the exit code of the command that it ends."""


class EmbedallError(Exception):
    """Base of all errors that a user can act on; its text says what was, what was needed and what to do."""

    exit_code = 1


class ConfigError(EmbedallError, ValueError):
    """A key is unknown, a value is of the wrong type or out of range, or an option contradicts another."""

    exit_code = 2


class SchemaMismatch(EmbedallError, ValueError):
    """A table lacks a column of its contract or has it with another type."""

    exit_code = 3


class BadData(EmbedallError, ValueError):
    """The input cannot be read, is empty, or more of it was rejected than the configuration allows."""

    exit_code = 3


class TooFewIds(BadData):
    """A table has fewer than the two ids that a map needs."""


class QualityGateFailed(EmbedallError):
    """The vectors score below what the configuration asks for."""

    exit_code = 4


class ResourceError(EmbedallError, RuntimeError):
    """The cluster lacks the slots, memory, disk or network that the run needs."""


class WorkerLost(EmbedallError, RuntimeError):
    """A worker died or was silent for too long while it trained; the run can be started again."""


class TrainingDiverged(EmbedallError, ArithmeticError):
    """A shard of the model is not finite, or explodes; it was not checkpointed."""


class Superseded(EmbedallError, RuntimeError):
    """Another driver has taken over this run; this one stops before it commits anything."""


class AlreadyRunning(EmbedallError, RuntimeError):
    """Another driver works on this run at the moment."""


class TableError(EmbedallError, RuntimeError):
    """A table is missing, exists though it must not, or is no table of ours."""


class UnknownId(EmbedallError, LookupError):
    """An id is not in the table."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: a scheduler or the system has asked the process to end. Handled as Ctrl-C is."""


class SetupError(EmbedallError, RuntimeError):
    """Java, Spark, Delta or the session's settings are not what the system needs."""


class NeedsSpark(Exception):
    """A question that is answered without Spark needs it after all; the text says why. No error that users see."""
