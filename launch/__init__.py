"""Ways to start a training: one machine, SLURM, Kubernetes, TPU VMs, SkyPilot; and sweeps."""
