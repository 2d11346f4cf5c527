"""Edge-train on aarch64, emulated, compared with this x86-64 machine: `make test-aarch64`."""
