"""The browser of `xtuner preview -i`: the rows of one file, each as the model sees it."""
