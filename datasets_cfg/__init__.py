"""Which data: one YAML per dataset, and `load` that turns it into a Hugging Face dataset."""

# isort: off
# settings
from datasets_cfg.schema import CANONICAL, DatasetConfig, config_from
from datasets_cfg.config_files import read_config, shipped_names

# documents
from datasets_cfg.load import load
from datasets_cfg.fingerprint import fingerprint
from datasets_cfg.embedded import questions
from datasets_cfg.abilities import abilities, write_abilities

# errors
from datasets_cfg.errors import DatasetError

__all__ = [
    "CANONICAL",
    "DatasetConfig",
    "DatasetError",
    "abilities",
    "config_from",
    "fingerprint",
    "load",
    "questions",
    "read_config",
    "shipped_names",
    "write_abilities",
]
