"""Programs that a launch starts; run by path, this folder is first on `sys.path`, so nothing else may live here."""
