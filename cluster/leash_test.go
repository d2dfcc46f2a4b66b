package cluster

import (
	"context"
	"errors"
	"io"
	"testing"
)

// TestLeash: when the cluster's process dies, a node's process returns without ending the context of what it runs, which
// would take what is to outlive it along.
func TestLeash(t *testing.T) {
	leash, hand := io.Pipe()
	given := make(chan context.Context, 1)
	end := make(chan struct{})
	defer close(end)
	go hand.Close()
	err := whileHeld(t.Context(), leash, func(ctx context.Context) error {
		given <- ctx
		<-end
		return nil
	})
	if !errors.Is(err, errOrphaned) {
		t.Errorf("got %v, want %v", err, errOrphaned)
	}
	if err := (<-given).Err(); err != nil {
		t.Errorf("the context has ended: %v", err)
	}
}

// TestLeashHeld: what ends by itself says why.
func TestLeashHeld(t *testing.T) {
	leash, hand := io.Pipe()
	defer hand.Close()
	failed := errors.New("failed")
	if err := whileHeld(t.Context(), leash, func(context.Context) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
}
