"""All of ctypes: devices, loading by plan, decoding, sampling, freeing. Knows no prompts and no reasons."""
