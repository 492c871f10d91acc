"""The demo: this backend and a Label Studio, started together with a prepared project."""
