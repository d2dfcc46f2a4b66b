package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// pageOfMove is how many objects are read at a time.
const pageOfMove = 500

// move brings what was stored in the first layout of Skiff, each kind below its
// group and its plural, to where Kubernetes has it, and reports whether there
// was anything. Nobody else uses the objects meanwhile: a backend of the first
// layout has one server. It can be stopped at any point, and be done again.
func (s *Store) move(ctx context.Context, resources []*resource.Resource) (moved bool, err error) {
	for _, r := range resources {
		n, err := s.moveKind(ctx, r.Stored)
		if err != nil {
			return false, fmt.Errorf("move %s to where Kubernetes stores them: %w", r.GR(), err)
		}
		moved = moved || n > 0
	}
	return moved, nil
}

func (s *Store) moveKind(ctx context.Context, r *resource.Resource) (n int, err error) {
	from, to := firstPrefix(r), r.Key("", "")
	if from == to {
		return 0, nil
	}
	for after := ""; ; {
		page, err := s.backend.List(ctx, from, after, pageOfMove, 0)
		if err != nil {
			return n, err
		}
		for _, e := range page.Entries {
			after = e.Key
			rest := strings.TrimPrefix(e.Key, from)
			if strings.Contains(rest, "/") == r.ClusterScoped || strings.Count(rest, "/") > 1 {
				continue // of a kind whose place in the second layout is below
			}
			if err := s.moveEntry(ctx, e, to+rest); err != nil {
				return n, err
			}
			n++
		}
		if page.More == 0 {
			break
		}
	}
	if n > 0 {
		slog.Info("Objects were moved to where Kubernetes stores them", "kind", r.GR(), "objects", n)
	}
	return n, nil
}

// moveEntry writes an entry under its new key, unless that was done before, for
// the rest of its lifetime, and deletes the old one.
func (s *Store) moveEntry(ctx context.Context, e backend.Entry, to string) error {
	var rest time.Duration // for ever
	if !e.End.IsZero() {
		rest = max(time.Until(e.End), time.Second) // what is over is about to end there, as it is here
	}
	if _, err := s.backend.Put(ctx, to, e.Value, backend.Absent, rest); err != nil && !errors.Is(err, backend.ErrConflict) {
		return err
	}
	_, err := s.backend.Delete(ctx, e.Key, e.Revision)
	return err
}

// firstPrefix is where the first layout had a kind.
func firstPrefix(r *resource.Resource) string {
	prefix := resource.Registry
	if r.Group != "" {
		prefix += r.Group + "/"
	}
	return prefix + r.Plural + "/"
}
