"""How fast Stead is, beside docker and podman on the same machine in one run. See docs/performance.md."""
