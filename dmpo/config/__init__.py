"""Keys of runs, evaluations and generations, from YAML and the command line. No torch here, and no model."""

from .files import load_config as load_config
from .generate import GenerateConfig as GenerateConfig
from .keys import DMPOConfig as DMPOConfig
