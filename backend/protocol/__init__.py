"""Label Studio's JSON parsed into values, and values written as its JSON."""
