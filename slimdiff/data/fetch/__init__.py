"""Public datasets: their manifests, and the download of their files."""
