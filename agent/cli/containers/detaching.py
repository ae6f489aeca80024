"""Decisions: the keys that leave a container alone which a terminal is attached to: ctrl-p ctrl-q unless
set."""

from __future__ import annotations

DEFAULT = "ctrl-p,ctrl-q"
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def read_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q`: letters, or ctrl- with a letter or one of @[\\]^_. Empty: there are none.
    ValueError."""
    found = bytearray()
    for word in text.split(",") if text else ():
        key = word.strip()
        control, dash, name = key.lower().partition("-")
        if len(key) == 1 and key.isascii():
            found += key.encode()
        elif control == "ctrl" and dash and len(name) == 1 and name.isascii() and name.isalpha():
            found.append(ord(name) - ord("a") + 1)
        elif control == "ctrl" and dash and name in _CONTROL:
            found.append(_CONTROL[name])
        else:
            raise ValueError(f"cannot read detach keys {text!r}: write such as {DEFAULT}")
    return bytes(found)


class Detacher:
    """What is typed goes through here: `feed` holds back what may be the beginning of the keys."""

    def __init__(self, keys: bytes) -> None:
        self._keys, self._matched = keys, 0
        self.detached = False

    def feed(self, data: bytes) -> bytes:
        """What is to be passed on. After the keys nothing is."""
        out = bytearray()
        for byte in data:
            if self.detached:
                break
            if self._keys and byte == self._keys[self._matched]:
                self._matched += 1
                self.detached = self._matched == len(self._keys)
                continue
            if self._matched:
                held, self._matched = self._keys[: self._matched], 0
                out += held
                if byte == self._keys[0]:  # it may begin anew
                    self._matched = 1
                    self.detached = len(self._keys) == 1
                    continue
            out.append(byte)
        return bytes(out)
