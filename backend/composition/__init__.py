"""What is connected to what: the only modules that know every class."""
