"""Many prompts: lines of a file become lines of another, answered side by side; what broke off goes on."""
