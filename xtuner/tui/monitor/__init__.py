"""The dashboard: a thread reads the files of a run, a frame tick shows what is visible and has changed."""
