"""Label Studio's side: the ML backend contract around the model."""
