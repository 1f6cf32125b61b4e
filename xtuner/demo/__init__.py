"""A tiny model and a data set made on the spot, so that the whole path can be tried on any machine, offline."""
