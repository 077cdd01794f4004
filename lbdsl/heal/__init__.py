"""Healing: a short distillation from the base model into the changed one."""
