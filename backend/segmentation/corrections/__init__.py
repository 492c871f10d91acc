"""Corrections of accepted masks: what was answered lately, which accepted mask a point lies in, and carving it."""
