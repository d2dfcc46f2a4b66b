package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// Each server says under its address, in the way of kube-apiserver, that it
// lives, and says it again before that expires. What is found there are the
// endpoints of the kubernetes Service.
const (
	alivePrefix = "/registry/masterleases/"
	aliveFor    = 15 * time.Second
)

// published reports whether others can reach this server.
func (c Config) published() bool { return c.Advertise.IsValid() && !c.Advertise.Addr().IsLoopback() }

// alive says that this server lives and returns the addresses of all that do,
// in order; none if this one is not to be published.
func (c Config) alive(ctx context.Context) ([]string, error) {
	if !c.published() {
		return nil, nil
	}
	self := c.Advertise.Addr().String()
	if c.Backend == nil {
		return []string{self}, nil
	}
	if err := c.sayAlive(ctx, self); err != nil {
		return nil, fmt.Errorf("say that this server lives: %w", err)
	}
	page, err := c.Backend.List(ctx, alivePrefix, "", 0, 0)
	if err != nil {
		return nil, fmt.Errorf("list the servers that live: %w", err)
	}
	servers := []string{self}
	for _, e := range page.Entries {
		var note corev1.Endpoints
		if err := store.DecodeNote(e.Value, &note); err != nil {
			return nil, fmt.Errorf("decode %s: %w", e.Key, err)
		}
		if len(note.Subsets) > 0 && len(note.Subsets[0].Addresses) > 0 {
			servers = append(servers, note.Subsets[0].Addresses[0].IP)
		}
	}
	slices.Sort(servers)
	return slices.Compact(servers), nil
}

func (c Config) sayAlive(ctx context.Context, self string) error {
	value, err := store.EncodeNote(corev1.SchemeGroupVersion.WithKind("Endpoints"), &corev1.Endpoints{
		Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: self}}}},
	})
	if err != nil {
		return err
	}
	for {
		entry, _, err := c.Backend.Get(ctx, alivePrefix+self)
		if err != nil && !errors.Is(err, backend.ErrNotFound) {
			return err
		}
		if _, err = c.Backend.Put(ctx, alivePrefix+self, value, entry.Revision, aliveFor); !errors.Is(err, backend.ErrConflict) {
			return err
		}
	}
}

// gone says that this server ends, so that the others need not wait until it
// can no longer be alive.
func (c Config) gone() {
	if c.Backend == nil || !c.published() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	entry, _, err := c.Backend.Get(ctx, alivePrefix+c.Advertise.Addr().String())
	if err == nil {
		_, err = c.Backend.Delete(ctx, entry.Key, entry.Revision)
	}
	if err != nil && !errors.Is(err, backend.ErrNotFound) && !errors.Is(err, backend.ErrConflict) {
		slog.Warn("Other servers were not told that this one ends", "error", err)
	}
}
