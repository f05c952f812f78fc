"""From settings to flags: messages of the package name a setting as `key`; here it becomes what was or can be typed.

The package says "give another `out`" or "use `target.kind = mixed`", because a Python caller has no flags.
The command line prints "give another --out" and "use --set target.kind=mixed".
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from thack.errors import ThackError

_NAMED = re.compile(r"`(?P<key>[a-z]\w*(?:\.\w+)*)(?: = (?P<value>[^`]+))?`")


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How one command spells its parameters.

    Args:
        flags: the flag of each parameter that has one.
        switches: parameters whose flag takes no value.
        keys: every key that `--set` takes.
    """

    flags: Mapping[str, str] = field(default_factory=dict)
    switches: Collection[str] = ()
    keys: Collection[str] = ()

    def translate(self, text: str) -> str:
        """`text` with each parameter of this command as its flag; other text in backticks stays."""
        return _NAMED.sub(lambda found: self._spelled(found["key"], found["value"]) or found[0], text)

    def _spelled(self, key: str, value: str | None) -> str | None:
        if key in self.flags and not (key in self.switches and value not in (None, "true")):
            if value is None or key in self.switches:
                return self.flags[key]
            items = value.strip("[]").replace(", ", ",")  # a flag takes a list as 0.5,2
            return f"{self.flags[key]} {items}"
        full = self._full_key(key)
        if full is None:
            return None
        return f"--set {full}=…" if value is None else f"--set {shlex.quote(f'{full}={value}')}"

    def _full_key(self, key: str) -> str | None:
        """`key`, or the one key that ends in it, or the key that it ends in.

        An experiment's `distill.device` for `device`, and `max_response_tokens` for `data.max_response_tokens`.
        """
        nested = [full for full in self.keys if full.endswith(f".{key}")]
        if key in self.keys or not nested:
            last = key.rpartition(".")[2]
            return next((one for one in (key, last) if one in self.keys), None)
        return nested[0] if len(nested) == 1 else None


def translated(error: ThackError, names: Names) -> ThackError:
    """The same error, with the flags of the command that was typed."""
    hint = None if error.hint is None else names.translate(error.hint)
    return type(error)(
        names.translate(error.message), details=[names.translate(detail) for detail in error.details], hint=hint
    )
