"""The fused kernels, a room for each backend. They take what `losskit.core.inputs` has checked."""
