from tests.real_model import all_cores, smollm2  # noqa: F401  (fixtures)
