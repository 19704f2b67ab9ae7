"""What a march that cannot go on raises."""


class MarchError(RuntimeError):
    """The march through time could not go on; the message says where and what to try."""
