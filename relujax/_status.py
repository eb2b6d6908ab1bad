"""The base of all statuses."""

import enum


class Status(enum.IntEnum):
    """An integer with a name that is printed in words; arrays of statuses compare with the members."""

    @property
    def words(self) -> str:
        """The member's name in words, `NOT_CRITICAL` as `not critical`."""
        return self.name.lower().replace("_", " ")

    def __str__(self) -> str:
        return self.words
