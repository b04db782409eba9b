"""Science and artefacts: no Ray, no HTTP, no Prometheus."""
