package snapshot

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// Restored is what Restore has done.
type Restored struct {
	Entries int
	// Revision is the newest now. Everything before it counts as compacted.
	Revision int64
	Time     time.Time // when the backup was made
}

// Restore fills to with a backup. Nothing is written before all of the backup
// was read and found sound. Values keep their revisions; the newest revision is bump
// above that of the backup: more than were made after it, so that none means two
// things, and whoever watches starts over. If Restore fails, to is empty or says that
// it is partial. backend.ErrNotEmpty; the errors of Reader.
func Restore(ctx context.Context, r io.Reader, to backend.Backend, bump int64, tell Progress) (Restored, error) {
	if err := empty(ctx, to); err != nil {
		return Restored{}, err
	}
	reader, err := NewReader(r)
	if err != nil {
		return Restored{}, err
	}
	defer reader.Close()
	if bump < 0 || reader.Revision > math.MaxInt64-bump {
		return Restored{}, fmt.Errorf("revision %d cannot go on by %d", reader.Revision, bump)
	}
	var entries []backend.Entry
	for e, err := range reader.Entries() {
		if err != nil {
			return Restored{}, err
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, byRevision)
	for i := 1; i < len(entries); i++ {
		if one, other := entries[i-1], entries[i]; one.Revision == other.Revision {
			return Restored{}, fmt.Errorf("%w: %s and %s have the same revision", ErrChanged, one.Key, other.Key)
		}
	}
	newest := reader.Revision + bump
	if err := load(ctx, to, entries, newest, newest, tell); err != nil {
		return Restored{}, fmt.Errorf("write: %w", err)
	}
	return Restored{Entries: len(entries), Revision: newest, Time: reader.Time}, nil
}
