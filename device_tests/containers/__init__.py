"""The images of docker/, really built and run, without a registry: `make test-containers`."""
