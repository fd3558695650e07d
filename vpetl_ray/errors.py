"""The exceptions a user can meet. Their message is the sentence the user reads."""


class VpetlError(Exception):
    """Base of everything this package raises on purpose."""


class SpecError(VpetlError):
    """The YAML file, or a value given on the command line, is wrong. Exit code 2."""


class DataError(VpetlError):
    """Videos, a layout or a clip store are missing, unreadable or not what they claim."""


class CheckpointError(VpetlError):
    """A weights file is missing, broken, or made for another architecture."""


class SearchError(VpetlError):
    """A search started and could not go on. Exit code 1; its state is kept."""
