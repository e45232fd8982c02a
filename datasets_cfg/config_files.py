"""A dataset's YAML, from a path or from the files shipped beside this one."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from datasets_cfg.errors import DatasetError, nearest
from datasets_cfg.schema import DatasetConfig, config_from

SHIPPED = Path(__file__).parent


def read_config(path_or_name: str | Path) -> DatasetConfig:
    """Read a dataset's settings.

    Args:
        path_or_name: A YAML file, or the name of a shipped one, for example `embedded`.

    Returns:
        The checked, frozen settings.

    Raises:
        DatasetError: If there is no such file or name, or if its content does not fit.
    """
    path = _find(path_or_name)
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise DatasetError(f"{path}:{line} not valid YAML ({problem}). Correct it.") from None
    if not isinstance(settings, dict):
        came = type(settings).__name__
        raise DatasetError(f"{path}: came as {came}, expected `key: value` lines. Add some.")
    return config_from(_beside(settings, path.parent), str(path))


def shipped_names() -> list[str]:
    """Names of the datasets that come with this package, sorted."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _beside(settings: dict[Any, Any], folder: Path) -> dict[Any, Any]:
    """Relative `paths` count from the YAML's folder, wherever the command is run."""
    given = settings.get("paths")
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list):
        return settings
    return {**settings, "paths": [_absolute(path, folder) for path in paths]}


def _absolute(path: Any, folder: Path) -> Any:
    if not isinstance(path, str) or not path or "://" in path or Path(path).is_absolute():
        return path
    return str(folder.resolve() / path)


def _find(path_or_name: str | Path) -> Path:
    """The YAML that is meant."""
    path, names = Path(path_or_name), shipped_names()
    if path.is_file():
        return path
    if str(path_or_name) in names:
        return SHIPPED / f"{path_or_name}.yaml"
    hint = nearest(path.stem, names)
    raise DatasetError(
        f"{path_or_name}: no such file or shipped dataset.{hint} "
        f"Give the path of a YAML file, or one of: {', '.join(names)}."
    )


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key `{key}` is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)
