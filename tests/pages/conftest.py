from tests.real_model import smollm2  # noqa: F401  (fixture)
