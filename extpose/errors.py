"""The errors that a user can cause, each with a message that names the file and the reason."""


class ExtPoseError(Exception):
    """Bad input or a broken file. The command line prints the message alone, without a trace."""


class VideoError(ExtPoseError):
    """A video that cannot be used: `reason` is a short stable name, `path` the file."""

    def __init__(self, path: object, reason: str, detail: str = "") -> None:
        super().__init__(f"{path}: {reason}" + (f" ({detail})" if detail else ""))
        self.path, self.reason, self.detail = str(path), reason, detail

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.path, self.reason, self.detail)


class StoreError(ExtPoseError, OSError):
    """A store that does not answer, or refuses: an `OSError` for those who read and write files."""


class ShardError(ExtPoseError):
    """A shard or sample that breaks the contract of `docs/data.md`."""


class BodyError(ShardError):
    """A clip of another body than the network's: not damage, but the wrong data."""


class CheckpointError(ExtPoseError):
    """A checkpoint that is missing, corrupt, or of another network."""


class AssetError(ExtPoseError):
    """A file that must be fetched or brought by the user; the message says how."""


class TrainingError(ExtPoseError):
    """A training run that cannot start as configured, or cannot go on."""
