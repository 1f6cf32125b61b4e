"""The dashboard in a browser (the extra `web`)."""
