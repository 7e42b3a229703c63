package main

import "strings"

// isDialFailure tells a socket that nobody answers from an agent that answers "unavailable".
func isDialFailure(message string) bool { return strings.HasPrefix(message, "connection error") }
