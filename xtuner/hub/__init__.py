"""Model directories, judged by reading JSON and safetensors headers: nothing is executed, nothing is fetched."""
