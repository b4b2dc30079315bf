"""The same engine on a Ray cluster: a service, and a job over a folder of pictures."""
