"""What tests share: fakes, servers, readers of what goes over the wire."""
