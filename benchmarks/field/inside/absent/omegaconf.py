"""Stands where ``omegaconf`` is not installed: nested settings, read as attributes."""

from collections.abc import Iterator, Mapping
from typing import Any


class DictConfig(Mapping[str, Any]):
    """A mapping whose values are attributes, too."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = {
            key: DictConfig(value) if isinstance(value, Mapping) else value
            for key, value in content.items()
        }

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._content:
            raise AttributeError(name)
        return self._content[name]

    def __getitem__(self, name: str) -> Any:
        return self._content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)
