package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// dialAgent is a connection to the agent's API, which is made when it is first used.
func dialAgent(socket string) (*grpc.ClientConn, error) {
	path, err := filepath.Abs(socket)
	if err != nil {
		return nil, fmt.Errorf("agent socket %s: %w", socket, err)
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("agent socket %s: %w", socket, err)
	}
	return conn, nil
}

// isDialFailure tells a socket that nobody answers from an agent that answers "unavailable".
func isDialFailure(message string) bool { return strings.HasPrefix(message, "connection error") }
